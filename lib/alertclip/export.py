"""Export the tuned model for other libraries, and load an export as AlertCLIP again.

``python -m alertclip.export runs/mini/full --format huggingface --out FOLDER``

An Alert-CLIP folder holds:
open_clip_config.json, open_clip_model.safetensors   stock open_clip loads it: local-dir:FOLDER
config.json, model.safetensors                       BLIP instead: transformers loads it
alert_temporal.safetensors, alert_clip.json          temporal head, settings and provenance
adapter/                                             the stage's LoRA as PEFT saves it; it fits the
    weights that the stage started from, after ``attention.split_attention``
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from alertclip.attention import pack_state_dict
from alertclip.backbone import CONFIG, Backbone, load_backbone
from alertclip.blip import BlipRetrieval, is_blip, max_tokens, save_blip
from alertclip.errors import InputError
from alertclip.files import atomic_write, read_json, write_json
from alertclip.lora import has_lora, merge_lora
from alertclip.model import AlertCLIP

WEIGHTS, HEAD, META = "open_clip_model.safetensors", "alert_temporal.safetensors", "alert_clip.json"
ADAPTER = "adapter"
TOKENIZER = ("*token*.json", "vocab.*", "merges.txt", "*.model")  # Hugging Face tokenizer files
Encoders = tuple[Callable[[Tensor], Tensor], Callable[[Sequence[str]], Tensor]]


def export_open_clip(model: AlertCLIP, out: Path, meta: dict[str, Any]) -> Path:
    """Merge the adapters of ``model`` (in place) and write the folder; ``meta`` = provenance.

    Stock ``open_clip.create_model_and_transforms("local-dir:out")`` loads it, or, for BLIP,
    ``BlipForImageTextRetrieval.from_pretrained(out)``. alert_clip.json is written last: a folder
    without it is unfinished.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / META).unlink(missing_ok=True)
    if has_lora(model.adapted):
        _save_adapter(model.adapted, out / ADAPTER)
    model.adapted = model.backbone.model = merge_lora(model.adapted)
    _save_backbone(model.backbone, out)
    _save(_head(model), out / HEAD)
    write_json(out / META, {**_options(model), **meta})
    return out


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


def stock_encoders(folder: Path) -> Encoders:
    """Image and text encoder of an export by open_clip or transformers alone, without our code.

    Normalised pixels (F, 3, H, W) -> (F, D), and texts -> (C, D), both of unit length.
    """
    return _transformers_encoders(folder) if is_blip(folder) else _open_clip_encoders(folder)


def _open_clip_encoders(folder: Path) -> Encoders:
    source = f"local-dir:{folder}"
    model, _, _ = open_clip.create_model_and_transforms(source, require_pretrained=True)
    model, tokenizer = model.eval(), open_clip.get_tokenizer(source)
    image, text = (
        torch.inference_mode()(model.encode_image),
        torch.inference_mode()(model.encode_text),
    )
    return (
        lambda pixels: image(pixels, normalize=True),
        lambda texts: text(tokenizer(list(texts)), normalize=True),
    )


def _transformers_encoders(folder: Path) -> Encoders:
    from transformers import AutoTokenizer, BlipForImageTextRetrieval

    model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    cut = {"truncation": True, "max_length": max_tokens(model.config)}
    tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def image(pixels: Tensor) -> Tensor:
        states = model.vision_model(pixels).last_hidden_state
        return normalize(model.vision_proj(states[:, 0]), dim=-1)

    @torch.inference_mode()
    def text(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(texts), padding=True, return_tensors="pt", **cut)
        states = model.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return normalize(model.text_proj(states[:, 0]), dim=-1)

    return image, text


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


def _save_tokenizer(backbone: Backbone, out: Path) -> None:
    source = backbone.folder
    if source is not None and source.resolve() != out.resolve():
        for pattern in TOKENIZER:
            for file in source.glob(pattern):
                shutil.copyfile(file, out / file.name)
    elif source is None and isinstance(backbone.tokenizer, HFTokenizer):  # SigLIP from the hub
        backbone.tokenizer.save_pretrained(out)


def _save_adapter(adapted: nn.Module, out: Path) -> None:
    # PEFT would look the base model up on the hub to save resized embeddings; there are none.
    adapted.save_pretrained(str(out), safe_serialization=True, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def _head(model: AlertCLIP) -> dict[str, Tensor]:
    state = model.state_dict()
    return {k: v for k, v in state.items() if k.startswith(("temporal.", "pooling."))}


def _options(model: AlertCLIP) -> dict[str, Any]:
    layers = model.temporal.encoder.layers
    return {
        "temporal": {"layers": len(layers), "heads": layers[0].self_attn.num_heads},
        "region_pooling": model.region_pooling,
        "patch_tokens": model.patch_tokens,
    }


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with atomic_write(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)


def convert(folder: Path, kind: str, out: Path) -> Path:
    """Write an Alert-CLIP folder to ``out`` as ``open_clip``, ``huggingface`` or ``peft``."""
    if kind == "huggingface":
        from alertclip.huggingface import export_huggingface

        return export_huggingface(load_alertclip(folder), out)
    if kind == "open_clip":
        return export_open_clip(load_alertclip(folder), out, read_json(folder / META))
    if not (folder / ADAPTER).is_dir():
        raise InputError(f"{folder}: no {ADAPTER}/; give the folder of a training stage")
    return Path(shutil.copytree(folder / ADAPTER, out, dirs_exist_ok=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: convert an Alert-CLIP folder."""
    parser = argparse.ArgumentParser(
        prog="python -m alertclip.export", description="Export a tuned model for other libraries."
    )
    parser.add_argument("folder", type=Path, help="a tuned model, such as runs/mini/full")
    parser.add_argument("--format", choices=("open_clip", "huggingface", "peft"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    try:
        print(convert(args.folder, args.format, args.out))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
