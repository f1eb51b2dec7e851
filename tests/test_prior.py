"""MiniCLIP's pre-training: its loss, its seed, and the folder that open_clip reads."""

import numpy as np
import pytest
import torch

from alertclip.backbone import load_backbone
from miniworld import prior
from miniworld.prior import RECIPES, soft_contrastive_loss

CAPTIONS = ["a red square", "a blue square", "a red circle", "a red square"]


def test_identical_captions_share_the_target():
    """Images 0 and 1 have one caption: each wants half its mass on either copy."""
    image = torch.eye(2)
    text = torch.eye(2)[[0, 0]]  # the same embedding, as the same caption has
    loss = soft_contrastive_loss(image, text, torch.tensor(1.0), torch.tensor([5, 5]))
    # image -> text: both rows uniform, cross-entropy log 2. text -> image: logits (1, 0) in both
    # rows, targets (.5, .5): log(e + 1) - .5
    expected = (np.log(2) + np.log(np.e + 1) - 0.5) / 2
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def make_stills(size: int):
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    return images, CAPTIONS, prior.train_tokenizer(CAPTIONS)


def test_training_is_seeded():
    one, same, other = (
        prior.pretrain(*make_stills(128), steps=2, batch_size=4, seed=seed).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["text_projection"], other["text_projection"])


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_saved_folder_is_the_model_that_was_trained(family, tmp_path):
    pixels = RECIPES[family]["preprocess_cfg"]
    stills = make_stills(RECIPES[family]["model_cfg"]["vision_cfg"]["image_size"])
    model = prior.pretrain(*stills, steps=1, batch_size=4, family=family)
    prior.save_prior(model, stills[2], tmp_path, {"what": "test"}, family)
    backbone = load_backbone(f"local-dir:{tmp_path}")
    assert [list(backbone.mean), list(backbone.std)] == [pixels["mean"], pixels["std"]]
    tokens = prior.encode_captions(stills[2], CAPTIONS)
    assert torch.equal(backbone.tokenizer(CAPTIONS), tokens)
    pixels = torch.randn(2, 3, *backbone.image_size)
    with torch.no_grad():
        texts, images = backbone.model.encode_text(tokens), backbone.model.encode_image(pixels)
        assert torch.allclose(texts, model.encode_text(tokens), atol=2e-2)  # fp16 on disk
        assert torch.allclose(images, model.encode_image(pixels), atol=5e-2)
