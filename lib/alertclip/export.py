"""Take the tuned backbone away: an ordinary folder of its own library, and back to AlertCLIP.

folder/open_clip_config.json, open_clip_model.safetensors   stock open_clip: local-dir:folder
folder/config.json, model.safetensors                       BLIP instead: transformers reads it
folder/alert_temporal.safetensors, alert_clip.json          temporal head and provenance
folder/adapter/                                             the stage's LoRA as PEFT saves it; it
    fits the weights the stage started from, after ``attention.split_attention``
"""

import shutil
from pathlib import Path
from typing import Any

from open_clip.tokenizer import HFTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from alertclip.attention import pack_state_dict
from alertclip.backbone import CONFIG, Backbone, load_backbone
from alertclip.blip import BlipRetrieval, save_blip
from alertclip.errors import InputError
from alertclip.files import atomic_write, read_json, write_json
from alertclip.lora import has_lora, merge_lora
from alertclip.model import AlertCLIP

WEIGHTS, HEAD, META = "open_clip_model.safetensors", "alert_temporal.safetensors", "alert_clip.json"
TOKENIZER = ("*token*.json", "vocab.*", "merges.txt", "*.model")  # Hugging Face tokenizer files


def export_open_clip(model: AlertCLIP, out: Path, meta: dict[str, Any]) -> Path:
    """Merge the adapters of ``model`` (in place) and write the folder; ``meta`` = provenance.

    Stock ``open_clip.create_model_and_transforms("local-dir:out")`` loads it, or, for BLIP,
    ``BlipForImageTextRetrieval.from_pretrained(out)``. Written last is alert_clip.json: a folder
    without it is unfinished.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / META).unlink(missing_ok=True)
    if has_lora(model.adapted):
        save_adapter(model.adapted, out / "adapter")
    model.adapted = model.backbone.model = merge_lora(model.adapted)
    _save_backbone(model.backbone, out)
    _save(_head(model), out / HEAD)
    write_json(out / META, {**_options(model), **meta})
    return out


def _save_backbone(backbone: Backbone, out: Path) -> None:
    if isinstance(backbone.model, BlipRetrieval):
        save_blip(backbone.model, backbone.tokenizer, backbone.mean, backbone.std, out)
        return
    _save_tokenizer(backbone, out)
    preprocess = {
        "mean": backbone.mean,
        "std": backbone.std,
        "interpolation": "bicubic",
        "resize_mode": "squash",  # boxes are shares of the whole frame: nothing is cropped
    }
    write_json(out / CONFIG, {"model_cfg": backbone.config, "preprocess_cfg": preprocess})
    _save(pack_state_dict(backbone.model.state_dict()), out / WEIGHTS)


def save_adapter(adapted: nn.Module, out: Path) -> None:
    """Write the LoRA of a split model: adapter_config.json and adapter_model.safetensors."""
    # PEFT would look the base model up on the hub to save resized embeddings; there are none.
    adapted.save_pretrained(str(out), safe_serialization=True, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def load_alertclip(folder: Path | str) -> AlertCLIP:
    """AlertCLIP from an exported folder; InputError if it is not one."""
    folder = Path(folder)
    if not (folder / META).is_file():
        raise InputError(f"{folder}: no {META}; not a finished Alert-CLIP export")
    options = read_json(folder / META)
    model = AlertCLIP(
        load_backbone(f"local-dir:{folder}"),
        options["temporal"]["layers"],
        options["temporal"]["heads"],
        region_pooling=options["region_pooling"],
        patch_tokens=options["patch_tokens"],
    )
    try:
        state = load_file(folder / HEAD)
        if state.keys() != _head(model).keys():
            raise RuntimeError("other names")
        model.load_state_dict(state, strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{folder / HEAD}: not the head that {META} describes ({error}); export it again"
        ) from None
    return model.eval()


def _head(model: AlertCLIP) -> dict:
    state = model.state_dict()
    return {k: v for k, v in state.items() if k.startswith(("temporal.", "pooling."))}


def _options(model: AlertCLIP) -> dict[str, Any]:
    layers = model.temporal.encoder.layers
    return {
        "temporal": {"layers": len(layers), "heads": layers[0].self_attn.num_heads},
        "region_pooling": model.region_pooling,
        "patch_tokens": model.patch_tokens,
    }


def _save(tensors: dict, path: Path) -> None:
    with atomic_write(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)


def _save_tokenizer(backbone: Backbone, out: Path) -> None:
    source = backbone.folder
    if source is not None and source.resolve() != out.resolve():
        for pattern in TOKENIZER:
            for file in source.glob(pattern):
                shutil.copyfile(file, out / file.name)
    elif source is None and isinstance(backbone.tokenizer, HFTokenizer):  # SigLIP from the hub
        backbone.tokenizer.save_pretrained(out)
