"""Backbones: geometry, weights that are not there, and activations that do not fit."""

import json
import os

import open_clip
import pytest
import tiny_clip
import torch
from safetensors.torch import save_file

from alertclip.attention import SplitAttention
from alertclip.backbone import CONFIG, from_clip, load_backbone
from alertclip.errors import InputError

BASE = "ViT-B-32"


@pytest.fixture
def folder(tmp_path):
    """The tiny CLIP as an open_clip local-dir; its tokenizer is open_clip's own."""
    config = {"model_cfg": tiny_clip.config(), "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save_file(tiny_clip.clip().state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No cache and no network, whatever the machine has."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", unreachable)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)


def test_folder_gives_model_and_geometry(folder):
    backbone = load_backbone(f"local-dir:{folder}")
    assert (backbone.image_size, backbone.grid, backbone.embed_dim) == ((24, 32), (3, 4), 16)
    assert backbone.mean == (0.1, 0.2, 0.3) and backbone.std == open_clip.OPENAI_DATASET_STD
    assert backbone.folder == folder and not backbone.model.training
    assert isinstance(backbone.model.visual.transformer.resblocks[0].attn, SplitAttention)
    pixels = torch.randn(2, 3, 24, 32)
    stock = tiny_clip.clip().encode_image(pixels)
    torch.testing.assert_close(backbone.model.encode_image(pixels), stock, atol=1e-5, rtol=0)


def test_miniclip_is_packaged():
    backbone = load_backbone("miniclip")
    tokens = backbone.tokenizer(["a man runs across the street", "Zebra ünknown"])
    assert backbone.model.encode_text(tokens).shape == (2, backbone.embed_dim)
    assert backbone.image_size == (128, 128)


def test_missing_weights_say_what_from_where_and_where_to_put_it(offline):
    with pytest.raises(InputError) as caught:
        load_backbone(f"{BASE}-quickgelu", "openai")
    message = str(caught.value)
    assert "ViT-B-32-quickgelu, pretrained openai" in message
    assert "timm/vit_base_patch32_clip_224.openai from the Hugging Face hub" in message
    assert "pretrained=" in message and ".safetensors" in message


@pytest.mark.parametrize(
    "name, pretrained, right",
    [
        (BASE, "openai", "backbone=ViT-B-32-quickgelu"),
        ("ViT-B-16", "openai", "backbone=ViT-B-16-quickgelu"),
    ],
)
def test_weights_of_another_activation_are_refused(name, pretrained, right, offline):
    with pytest.raises(InputError, match=right):
        load_backbone(name, pretrained)


def test_a_file_with_a_config_of_another_activation_beside_it_is_refused(folder):
    weights = os.fspath(folder / "open_clip_model.safetensors")
    with pytest.raises(InputError, match="QuickGELU.*backbone=ViT-B-32-quickgelu"):
        load_backbone(BASE, weights)


def test_files_that_are_absent_or_may_hold_code_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file.*laion2b_s34b_b79k"):
        load_backbone(BASE, "openia")
    pickled = tmp_path / "weights.pt"
    pickled.write_bytes(b"")
    with pytest.raises(InputError, match="may hold code.*safetensors"):
        load_backbone(BASE, str(pickled))


def test_folder_without_weights_is_never_random(folder):
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match="open_clip_model.safetensors"):
        load_backbone(f"local-dir:{folder}")
    with pytest.raises(InputError, match=f"no {CONFIG}"):
        load_backbone(f"local-dir:{folder / 'nowhere'}")


def test_unknown_and_unfit_models_are_refused():
    with pytest.raises(InputError, match="no such open_clip model"):
        load_backbone("ViT-B-33")
    config = tiny_clip.config()
    config["vision_cfg"]["attentional_pool"] = True
    model = open_clip.CLIP(**config)
    with pytest.raises(InputError, match="own ViT"):
        from_clip(model, tiny_clip.tokenize, "pooler", config)
    custom = open_clip.CustomTextCLIP(**tiny_clip.config())
    with pytest.raises(InputError, match="own ViT"):
        from_clip(custom, tiny_clip.tokenize, "custom", tiny_clip.config())
