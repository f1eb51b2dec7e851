"""Backbones: geometry, weights that are not there, and activations that do not fit."""

import json
import pickle
import zipfile
from pathlib import Path
from unittest.mock import Mock

import open_clip
import pytest
import tiny_clip
import torch
from faults.harness import refused
from safetensors.torch import load_file, save_file

from alertclip.backbone import CONFIG, from_clip, load_backbone
from alertclip.checkpoint import as_safetensors
from media.errors import InputError

BASE = "ViT-B-32"


def test_a_folder_gives_model_and_geometry_and_is_never_random(tmp_path):
    """An open_clip local-dir; its tokenizer is open_clip's own."""
    config = {"model_cfg": tiny_clip.config(), "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    file = tmp_path / "open_clip_model.safetensors"
    save_file(tiny_clip.clip().state_dict(), file)
    backbone = load_backbone(f"local-dir:{tmp_path}")
    assert (backbone.image_size, backbone.grid, backbone.embed_dim) == ((24, 32), (3, 4), 16)
    assert backbone.mean == (0.1, 0.2, 0.3) and backbone.std == open_clip.OPENAI_DATASET_STD
    assert not backbone.model.training
    pixels = torch.randn(2, 3, 24, 32)
    stock = tiny_clip.clip().encode_image(pixels)
    torch.testing.assert_close(backbone.model.encode_image(pixels), stock, atol=1e-5, rtol=0)
    file.unlink()
    assert file.name in refused(load_backbone, f"local-dir:{tmp_path}")
    assert f"no {CONFIG}" in refused(load_backbone, f"local-dir:{tmp_path / 'nowhere'}")


def test_missing_weights_say_what_from_where_and_where_to_put_it(monkeypatch, tmp_path):
    """No cache and no network, whatever the machine has."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    unreachable = Mock(side_effect=OSError("no network"))
    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", unreachable)
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    message = refused(load_backbone, f"{BASE}-quickgelu", "openai")
    hub = "timm/vit_base_patch32_clip_224.openai from the Hugging Face hub"
    for part in ("ViT-B-32-quickgelu, pretrained openai", hub, "pretrained=FILE (.safetensors"):
        assert part in message


def test_unknown_and_unfit_models_and_files_that_may_hold_code_are_refused(tmp_path):
    assert "no such open_clip model" in refused(load_backbone, "ViT-B-33")
    assert "backbone=ViT-B-16-quickgelu" in refused(load_backbone, "ViT-B-16", "openai")
    config = tiny_clip.config()
    config["vision_cfg"]["attentional_pool"] = True
    for model in (open_clip.CLIP(**config), open_clip.CustomTextCLIP(**tiny_clip.config())):
        assert "own ViT" in refused(from_clip, model, tiny_clip.tokenize, "unfit", config)
    with pytest.raises(InputError, match="no such file.*laion2b_s34b_b79k"):
        load_backbone(BASE, "openia")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("archive/code/a.py", "")
        archive.writestr("archive/data.pkl", pickle.dumps(Path(tmp_path)))
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps({"state_dict": Path(tmp_path)}))
    for name in ("archive.pt", "empty.pt", "pickled.pt"):
        with pytest.raises(InputError, match=f"{name}: not readable as plain weights.*safetens"):
            load_backbone(BASE, str(tmp_path / name))


def as_archive(state: dict[str, torch.Tensor], path: Path) -> None:
    """A TorchScript archive with OpenAI's names and its three numbers."""
    top = torch.nn.Module()
    for key, value in {**state, "input_resolution": torch.tensor(224)}.items():
        *parents, name = key.split(".")
        module = top
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_parameter(name, torch.nn.Parameter(value, False))
    torch.jit.script(top).save(path)


def test_weights_of_openai_and_open_clip_files_are_those_that_were_saved(tmp_path):
    model = open_clip.create_model(f"{BASE}-quickgelu")
    state = {key: value.half() for key, value in model.state_dict().items()}  # as OpenAI's
    as_archive(state, tmp_path / "ViT-B-32.pt")
    checkpoint = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    torch.save(checkpoint, tmp_path / "epoch_3.pt")
    for name in ("ViT-B-32.pt", "epoch_3.pt"):
        before = (tmp_path / name).stat().st_mtime_ns
        model = load_backbone(f"{BASE}-quickgelu", str(tmp_path / name)).model
        for key in ("visual.conv1.weight", "text_projection", "logit_scale"):
            torch.testing.assert_close(model.state_dict()[key], state[key].float())
        path = tmp_path / f"{name}.safetensors"
        assert load_file(path).keys() == state.keys()
        written = path.stat().st_mtime_ns
        assert as_safetensors(tmp_path / name) == path
        assert (path.stat().st_mtime_ns, (tmp_path / name).stat().st_mtime_ns) == (written, before)
    with pytest.raises(InputError, match="QuickGELU.*backbone=ViT-B-32-quickgelu"):
        load_backbone(BASE, str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(InputError, match="weights of another model than ViT-B-16-quickgelu"):
        load_backbone("ViT-B-16-quickgelu", str(tmp_path / "epoch_3.pt"))


def test_longclip_keeps_twenty_positions_of_clip_and_reads_248_tokens(tmp_path):
    state = open_clip.create_model("ViT-B-32-quickgelu").state_dict()
    state["positional_embedding"] = torch.arange(248.0)[:, None].repeat(1, 512)
    state["positional_embedding_res"] = -state["positional_embedding"]
    torch.save(state, tmp_path / "a.pt")
    backbone = load_backbone("ViT-B-32-quickgelu", str(tmp_path / "a.pt"))
    table = backbone.model.positional_embedding[:, 0].tolist()
    assert table == [*range(20), *range(-20, -248, -1)]
    long = backbone.tokenizer(["a man " * 100])
    assert long.shape == (1, 248) and long[0, 201] == long.max()  # 200 words, then the end
    assert backbone.model.encode_text(long).shape == (1, 512)
    assert backbone.config["text_cfg"]["context_length"] == 248  # as an export will say
    with pytest.raises(InputError, match="backbone=ViT-B-32-quickgelu"):
        load_backbone("ViT-B-32", str(tmp_path / "a.pt"))
