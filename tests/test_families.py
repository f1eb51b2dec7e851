"""SigLIP and BLIP behind the same interface as CLIP: equal to their own libraries, tuned, exported.

Both have random weights here; the architectures are the real ones, small.
"""

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import open_clip
import pytest
import tiny_clip
import torch
from faults.harness import refused
from test_alertclip import make_batch
from tiny_clip import TEXTS, embeddings, stir
from torch.nn.functional import normalize
from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor

from alertclip.attention import Projections, pack_state_dict, split_attention
from alertclip.attention_maps import attention_maps, keep_probabilities
from alertclip.backbone import image_and_patches, load_backbone, take_apart
from alertclip.export import export_open_clip, load_alertclip
from alertclip.lora import add_lora
from alertclip.losses import total_loss
from alertclip.model import AlertCLIP
from companion.quickstart import stock_encoders
from companion.relevance import frame_maps
from media.errors import InputError
from miniworld import prior

FAMILIES = ("siglip", "blip")


def stock_siglip() -> torch.nn.Module:
    torch.manual_seed(0)
    model = prior.build("siglip", len(TOKENIZER)).eval()
    stir(model, scale=0.02)
    return model


def stock_blip() -> BlipForImageTextRetrieval:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4}  # fmt: skip
    words = {"vocab_size": len(TOKENIZER), "max_position_embeddings": 40, "pad_token_id": 0}
    config = BlipConfig(
        text_config=sizes | words,
        vision_config=sizes | {"image_size": 24, "patch_size": 8},
        image_text_hidden_size=16,
    )
    model = BlipForImageTextRetrieval(config).eval()
    stir(model, scale=0.1)
    return model


TOKENIZER = prior.train_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family as a folder in the format of its own library."""
    siglip, blip = (tmp_path_factory.mktemp(family) for family in FAMILIES)
    prior.save_prior(stock_siglip(), TOKENIZER, siglip, {}, "siglip")
    stock_blip().save_pretrained(blip)
    processor = BlipImageProcessor(size={"height": 24, "width": 24}, image_mean=[0.1, 0.2, 0.3])
    BlipProcessor(processor, TOKENIZER).save_pretrained(blip)
    return {"siglip": f"local-dir:{siglip}", "blip": f"blip:{blip}"}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(family, folders):
    """An AlertCLIP with everything trainable moved."""
    model = AlertCLIP(load_backbone(folders[family]), 1, 8, checkpointing="all").eval()
    targets = ["q", "k", "v", "out", "embedding"]
    model.adapted = add_lora(model.adapted, 2, 4, 0.0, targets)
    model.logit_scale.requires_grad_(True)
    stir(model, scale=0.1)
    return model


def frames(model: AlertCLIP, *shape: int) -> torch.Tensor:
    return tiny_clip.frames(*shape, size=model.image_size)


@torch.no_grad()
def test_split_siglip_gives_the_numbers_of_the_stock_one_and_patches_of_them():
    stock = stock_siglip().double()
    model = deepcopy(stock)
    assert split_attention(model) == 9 + 1 + 2  # blocks, pooling, text
    pixels = torch.randn(2, 3, 160, 160, dtype=torch.float64)
    tokens = prior.encode_captions(TOKENIZER, TEXTS)
    close = {"atol": 1e-10, "rtol": 0}
    torch.testing.assert_close(model.encode_text(tokens), stock.encode_text(tokens), **close)
    packed = pack_state_dict(model.state_dict())
    torch.testing.assert_close(packed, dict(stock.state_dict()), atol=0, rtol=0)
    image, grid = image_and_patches(model.visual, pixels, "plain")
    torch.testing.assert_close(image, stock.encode_image(pixels), **close)
    assert grid.shape == (2, 96, 10, 10)
    all_tokens = stock.visual.trunk.forward_features(pixels)  # a register, then row by row
    for row, column in ((0, 0), (3, 7), (9, 9)):  # the feature of an image of that token alone
        alone = stock.visual.trunk.attn_pool(all_tokens[:, 1 + 10 * row + column][:, None])
        torch.testing.assert_close(grid[:, :, row, column], alone, **close)


def test_the_published_siglip_is_split_and_packed_whole():
    """ViT-B-16-SigLIP's names and shapes, without its 200 million numbers."""
    with torch.device("meta"):
        stock = open_clip.create_model("ViT-B-16-SigLIP", device="meta")
    shapes = {name: value.shape for name, value in stock.state_dict().items()}
    assert split_attention(stock) == 12 + 1 + 12
    packed = pack_state_dict(stock.state_dict())
    assert {name: value.shape for name, value in packed.items()} == shapes
    adapted = add_lora(stock, 4, 8, 0.0)
    names = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert len(names) == 3 * (12 + 12)


def test_siglip_weights_in_a_file_keep_their_pixel_statistics(folders, monkeypatch, tmp_path):
    """For a bare file, open_clip would assume CLIP's pixel statistics."""
    create = Mock(side_effect=OSError("far enough"))
    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    beside = Path(folders["siglip"].removeprefix("local-dir:")) / "open_clip_model.safetensors"
    bare = shutil.copyfile(beside, tmp_path / "bare.safetensors")
    for weights in (beside, bare):  # with its config beside it; known by the model's name alone
        refused(load_backbone, "ViT-B-16-SigLIP", str(weights))
        seen = create.call_args.kwargs
        assert seen["image_mean"] == seen["image_std"] == (0.5, 0.5, 0.5)


@torch.no_grad()
def test_blip_scores_and_patches_are_those_of_transformers(folders):
    stock, backbone = stock_blip(), load_backbone(folders["blip"])
    assert (backbone.image_size, backbone.grid, backbone.embed_dim) == ((24, 24), (3, 3), 16)
    assert backbone.mean == (0.1, 0.2, 0.3) and backbone.std[0] == pytest.approx(0.26862954)
    inputs = TOKENIZER(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(backbone.tokenizer(TEXTS), inputs.input_ids)
    assert backbone.tokenizer(["fire " * 100]).shape == (1, 40)  # cut to the model's positions
    pixels = torch.randn(2, 3, 24, 24)
    expected = stock(inputs.input_ids, pixels, use_itm_head=False,
                     attention_mask=inputs.attention_mask).itm_score  # fmt: skip
    image, grid = image_and_patches(backbone.model.visual, pixels, "plain")
    text = backbone.model.encode_text(inputs.input_ids)
    similarity = normalize(image, dim=-1) @ normalize(text, dim=-1).T
    torch.testing.assert_close(similarity, expected, atol=1e-6, rtol=1e-5)
    states = stock.vision_model(pixels).last_hidden_state  # normed
    patch = stock.vision_proj(states[:, 1 + 3 * 2 + 1])
    torch.testing.assert_close(grid[:, :, 2, 1], patch, atol=1e-5, rtol=1e-5)


def test_blip_folders_that_lack_something_are_refused(tmp_path):
    with pytest.raises(InputError, match="blip:.*nowhere.*Salesforce"):
        load_backbone(f"blip:{tmp_path / 'nowhere'}")
    blip = stock_blip()
    blip.config.save_pretrained(tmp_path)
    torch.save(blip.state_dict(), tmp_path / "pytorch_model.bin")  # may hold code
    assert "safetensors" in refused(load_backbone, f"blip:{tmp_path}")
    partial = {k: v for k, v in blip.state_dict().items() if not k.startswith("text_proj")}
    blip.save_pretrained(tmp_path, state_dict=partial)
    TOKENIZER.save_pretrained(tmp_path)
    BlipImageProcessor().save_pretrained(tmp_path)
    assert "no weights for text_proj" in refused(load_backbone, f"blip:{tmp_path}")


@pytest.mark.parametrize("family", ["clip", *FAMILIES])
@torch.no_grad()
def test_value_path_equals_a_last_block_whose_attention_is_the_identity(folders, family):
    clip = tiny_clip.backbone() if family == "clip" else load_backbone(folders[family])
    visual, pixels = clip.model.visual.double(), torch.randn(2, 3, *clip.image_size).double()
    image, grid = image_and_patches(visual, pixels, "value")
    plain = image_and_patches(visual, pixels, "plain")
    assert torch.equal(image, plain[0]) and not torch.allclose(grid, plain[1], atol=1e-2)
    last = take_apart(visual)[0].modules()
    attention = next(part for part in last if isinstance(part, Projections))
    attention.attend = lambda q, k, v, mask=None: attention.out_proj(attention.v_proj(v))
    torch.testing.assert_close(image_and_patches(visual, pixels, "plain")[1], grid)


@pytest.mark.parametrize("targets, towers, blocks, siglip, blip", [
    (["q", "k", "v"], ["visual", "text"], None, 27 + 6, 6 + 6),
    (["q", "k", "v"], ["visual", "text"], 1, 3 + 3, 3 + 3),
    (["out"], ["visual"], None, 9, 2),
    (["q", "embedding"], ["text"], None, 3, 3),
    (["embedding"], ["text"], None, 1, 1),
])  # fmt: skip
def test_lora_sits_where_it_is_asked_for(targets, towers, blocks, siglip, blip, folders):
    for family, count in (("siglip", siglip), ("blip", blip)):
        model = load_backbone(folders[family]).model
        adapted = add_lora(model, 2, 4, 0.0, targets, towers, blocks)
        names = [n for n, _ in adapted.named_parameters() if "lora_A" in n or "embedding_A" in n]
        assert len(names) == count
        assert any(".visual." in n for n in names) == ("visual" in towers)
        assert not any("crossattention" in n or "attn_pool" in n for n in names)
        assert not blocks or not any(".0." in n for n in names)  # of upper blocks alone


def test_every_adapter_learns_from_clips_regions_and_hard_negatives(model):
    batch = replace(make_batch(), frames=frames(model, 2, 3))
    output = model.train()(batch, regions=True)
    total_loss(output, model.logit_scale.exp()).total.backward()
    adapters = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in adapters.values())


@torch.no_grad()
def test_export_loads_in_its_own_library(model, family, tmp_path):
    before, scale = embeddings(model), model.logit_scale.item()
    out = export_open_clip(model, tmp_path / "export", {"stage": 1})
    pixels = (frames(model, 3) / 255 - model.mean) / model.std
    again, (image, text) = load_alertclip(out), stock_encoders(out)
    torch.testing.assert_close(embeddings(again), before, atol=1e-5, rtol=0)
    embedded = [image(pixels), text(TEXTS)]
    torch.testing.assert_close(embedded, before[::3], atol=1e-5, rtol=0)
    assert again.logit_scale.item() == pytest.approx(scale)
    if family == "siglip":
        stock = open_clip.create_model(f"local-dir:{out}", require_pretrained=True)
        assert tuple(stock.visual.image_mean) == (0.5, 0.5, 0.5)
    else:
        process = BlipProcessor.from_pretrained(out).image_processor
        processed = process(list(frames(model, 3)), return_tensors="pt").pixel_values
        torch.testing.assert_close(processed, pixels, atol=1e-5, rtol=0)


def test_relevance_maps_sum_to_one(model):
    maps = frame_maps(model, frames(model, 2), torch.randn(2, model.backbone.embed_dim)).relevance
    assert maps.shape == (2, *model.grid)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))


@torch.no_grad()
def test_the_pooling_query_of_siglip_is_read_through_the_blocks(folders):
    model = AlertCLIP(load_backbone(folders["siglip"]), 1, 8).eval()
    with keep_probabilities(model.clip.visual) as kept:
        model.image_features(frames(model, 2))
    *blocks, query = (probabilities.mean(dim=1) for probabilities in kept)
    flow = torch.eye(101)  # a register and 10 x 10 patches
    for block in blocks:
        flow = (block + torch.eye(101)) / 2 @ flow
    patches = (query @ flow)[:, 0, 1:]
    expected = (patches / patches.sum(dim=1, keepdim=True)).unflatten(1, (10, 10))
    torch.testing.assert_close(attention_maps(model, frames(model, 2)), expected)
