"""Export the tuned model for other libraries, and load an export as AlertCLIP.

``python -m alertclip.export runs/mini/full --out FOLDER`` writes a transformers ``CLIPModel``.

An Alert-CLIP folder holds:
open_clip_config.json, open_clip_model.safetensors   CLIP, SigLIP: for stock open_clip
config.json, model.safetensors                       BLIP: for transformers
alert_temporal.safetensors, alert_clip.json          temporal head, settings and provenance
adapter/                                             the stage's LoRA as saved by PEFT, for the
    weights that the stage started from, after ``attention.split_attention``
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
from open_clip.tokenizer import HFTokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alertclip.attention import pack_state_dict
from alertclip.backbone import CONFIG, Backbone, load_backbone
from alertclip.blip import BlipRetrieval, renamed, save_blip
from alertclip.lora import has_lora, merge_lora
from alertclip.model import AlertCLIP
from media.errors import InputError
from media.files import atomic_write, read_json, share, write_json, writing

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPTokenizer

WEIGHTS, HEAD, META = "open_clip_model.safetensors", "alert_temporal.safetensors", "alert_clip.json"
ADAPTER = "adapter"


def export_open_clip(model: AlertCLIP, out: Path, meta: dict[str, Any]) -> Path:
    """Merge the adapters of ``model`` (in place) and write the folder; ``meta``: provenance.

    Stock ``open_clip.create_model_and_transforms("local-dir:out")`` loads it, or, for BLIP,
    ``BlipForImageTextRetrieval.from_pretrained(out)``. alert_clip.json is written last: a folder
    without it is unfinished.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / META).unlink(missing_ok=True)
    if has_lora(model.adapted):
        # PEFT would look the base model up on the hub, to see if its embeddings were resized.
        with writing(out / ADAPTER):
            model.adapted.save_pretrained(str(out / ADAPTER), save_embedding_layers=False)
        (out / ADAPTER / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    model.adapted = model.backbone.model = merge_lora(model.adapted)
    _save_backbone(model.backbone, out)
    _save(_head(model).state_dict(), out / HEAD)
    layers = model.temporal.encoder.layers
    options = {
        "temporal": {"layers": len(layers), "heads": layers[0].self_attn.num_heads},
        "region_pooling": model.region_pooling,
        "patch_tokens": model.patch_tokens,
    }
    share(out)
    write_json(out / META, options | meta)
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
        _head(model).load_state_dict(load_file(folder / HEAD))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{folder / HEAD}: not the head that {META} describes ({error}); export it again"
        ) from None
    require_finite(model, folder)
    return model.eval()


def require_finite(model: AlertCLIP, where: Path | str) -> None:
    """Raise InputError naming a parameter with NaN or infinity; buffers (masks) may hold them."""
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if broken:
        raise InputError(
            f"{where}: {broken[0]} and {len(broken) - 1} other weights are not finite; the training"
            " that made them diverged, or the file is damaged: export an earlier checkpoint"
        )


def _save_backbone(backbone: Backbone, out: Path) -> None:
    if isinstance(backbone.model, BlipRetrieval):
        save_blip(backbone, out)
        return
    if isinstance(backbone.tokenizer, HFTokenizer):  # not CLIP's own
        backbone.tokenizer.save_pretrained(out)
    preprocess = {
        "mean": backbone.mean,
        "std": backbone.std,
        "interpolation": "bicubic",
        "resize_mode": "squash",  # no crop: boxes are shares of the whole frame
    }
    write_json(out / CONFIG, {"model_cfg": backbone.config, "preprocess_cfg": preprocess})
    _save(pack_state_dict(backbone.model.state_dict()), out / WEIGHTS)


def _head(model: AlertCLIP) -> nn.Module:
    return nn.ModuleDict({"temporal": model.temporal, "pooling": model.pooling})


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with atomic_write(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)


def export_huggingface(model: AlertCLIP, out: Path) -> Path:
    """Write a folder for ``CLIPModel.from_pretrained(out)``; merges the adapters of ``model``.

    Raises InputError on what ``CLIPModel`` cannot express: another family, average pooling,
    non-square images, or another vocabulary than CLIP's.
    """
    model.adapted = model.backbone.model = merge_lora(model.adapted)
    from transformers import CLIPImageProcessor, CLIPModel

    clip = CLIPModel(_clip_config(model))
    state = model.clip.state_dict()
    for name in ("visual.proj", "text_projection"):  # parameters here, nn.Linear there
        state[name] = state[name].T.contiguous()
    clip.load_state_dict(renamed(state, "clip"), strict=True)
    clip.save_pretrained(out)
    height, width = model.image_size
    CLIPImageProcessor(
        size={"height": height, "width": width},  # squash, do not crop
        do_center_crop=False,
        resample=3,  # bicubic
        image_mean=list(model.backbone.mean),
        image_std=list(model.backbone.std),
    ).save_pretrained(out)
    _clip_tokenizer(model.clip.context_length).save_pretrained(out)
    share(out)
    return out


def _clip_config(model: AlertCLIP) -> "CLIPConfig":
    from transformers import CLIPConfig

    clip, visual = model.clip, model.clip.visual
    height, width = model.image_size
    supported = isinstance(clip, open_clip.CLIP) and visual.pool_type == "tok"
    if not supported or height != width or clip.vocab_size != 49408:
        raise InputError(
            f"{model.backbone.name}: CLIPModel needs a CLIP with class-token pooling, square images"
            " and CLIP's vocabulary; use the open_clip export"
        )
    activation = "quick_gelu" if model.backbone.config.get("quick_gelu") else "gelu"

    def tower(transformer: nn.Module, **options: int) -> dict[str, Any]:
        block = transformer.resblocks[0]
        return options | {
            "projection_dim": model.backbone.embed_dim,
            "hidden_act": activation,
            "hidden_size": transformer.width,
            "num_hidden_layers": transformer.layers,
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.c_fc.out_features,
        }

    sizes = {"vocab_size": clip.vocab_size, "max_position_embeddings": clip.context_length}
    token_ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    return CLIPConfig(
        text_config=tower(clip.transformer, **sizes, **token_ids),
        vision_config=tower(visual.transformer, image_size=height, patch_size=visual.patch_size[0]),
        projection_dim=model.backbone.embed_dim,
    )


def _clip_tokenizer(context_length: int) -> "CLIPTokenizer":
    """open_clip's tokenizer for transformers.

    It pads with the end token, as OpenAI's does, and open_clip pads with id 0. Embeddings are the
    same, since attention is causal and the feature is read at the first end token.
    """
    from transformers import CLIPTokenizer

    bpe = open_clip.SimpleTokenizer()
    renamed_tokens = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return CLIPTokenizer(
        vocab={renamed_tokens.get(token, token): i for token, i in bpe.encoder.items()},
        merges=list(bpe.bpe_ranks),
        pad_token="<|endoftext|>",
        model_max_length=context_length,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: convert an Alert-CLIP folder to a ``CLIPModel``."""
    parser = argparse.ArgumentParser(
        prog="python -m alertclip.export", description="Export a tuned model for transformers."
    )
    parser.add_argument("folder", type=Path, help="a tuned model, such as runs/mini/full")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    try:
        print(export_huggingface(load_alertclip(args.folder), args.out))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
