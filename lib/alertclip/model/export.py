"""Take the tuned CLIP away: an ordinary open_clip folder, and back to AlertCLIP.

folder/open_clip_config.json, open_clip_model.safetensors   stock open_clip: local-dir:folder
folder/alert_temporal.safetensors, alert_clip.json          temporal head and provenance
"""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from alertclip.errors import InputError
from alertclip.files import atomic_write, read_json, write_json
from alertclip.model.alertclip import AlertCLIP
from alertclip.model.attention import pack_state_dict
from alertclip.model.backbone import load_backbone
from alertclip.model.lora import merge_lora

HEAD, META = "alert_temporal.safetensors", "alert_clip.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def export_open_clip(model: AlertCLIP, out: Path, meta: dict[str, Any]) -> Path:
    """Merge the adapters of ``model`` (in place) and write the folder; ``meta`` = provenance.

    Stock ``open_clip.create_model_and_transforms("local-dir:out")`` loads it. Written last is
    alert_clip.json: a folder without it is unfinished.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.adapted = merge_lora(model.adapted)
    model.backbone.model = model.adapted
    _copy_tokenizer(model.backbone.folder, out)
    preprocess = {
        "mean": model.backbone.mean,
        "std": model.backbone.std,
        "interpolation": "bicubic",
        "resize_mode": "squash",  # boxes are shares of the whole frame: nothing is cropped
    }
    config = {"model_cfg": model.backbone.config, "preprocess_cfg": preprocess}
    write_json(out / "open_clip_config.json", config)
    _save(pack_state_dict(model.clip.state_dict()), out / "open_clip_model.safetensors")
    _save(_head(model), out / HEAD)
    write_json(out / META, {"temporal": _shape(model), **meta})
    return out


def load_alertclip(folder: Path | str) -> AlertCLIP:
    """AlertCLIP from an exported folder; InputError if it is not one."""
    folder = Path(folder)
    if not (folder / META).is_file():
        raise InputError(f"{folder}: no {META}; not a finished Alert-CLIP export")
    shape = read_json(folder / META)["temporal"]
    model = AlertCLIP(load_backbone(f"local-dir:{folder}"), shape["layers"], shape["heads"])
    missing, unexpected = model.load_state_dict(load_file(folder / HEAD), strict=False)
    missing = [name for name in missing if name.startswith(("temporal.", "pooling."))]
    if missing or unexpected:
        raise InputError(f"{folder / HEAD}: does not fit: {missing + list(unexpected)}")
    return model.eval()


def _head(model: AlertCLIP) -> dict:
    state = model.state_dict()
    return {k: v for k, v in state.items() if k.startswith(("temporal.", "pooling."))}


def _shape(model: AlertCLIP) -> dict[str, int]:
    layers = model.temporal.encoder.layers
    return {"layers": len(layers), "heads": layers[0].self_attn.num_heads}


def _save(tensors: dict, path: Path) -> None:
    with atomic_write(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)


def _copy_tokenizer(source: Path | None, out: Path) -> None:
    for name in TOKENIZER if source else ():
        if (source / name).is_file() and source.resolve() != out.resolve():
            shutil.copyfile(source / name, out / name)
