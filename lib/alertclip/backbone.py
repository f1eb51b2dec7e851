"""A pre-trained backbone of any family, ready for LoRA, with its geometry.

CLIP and SigLIP come from open_clip, BLIP from transformers. Nothing here unpickles.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import list_pretrained_tags_by_model
from open_clip.transformer import TextTransformer
from safetensors import SafetensorError, safe_open
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from alertclip.attention import split_attention
from alertclip.blip import is_blip, read_blip
from alertclip.checkpoint import ARCHIVE, as_safetensors
from alertclip.errors import InputError
from alertclip.files import read_json
from alertclip.tower import take_apart

WEIGHTS = Path(__file__).resolve().parents[1] / "miniworld/weights"
PACKAGED = {name: WEIGHTS / name for name in ("miniclip", "minisiglip")}  # need no download
CONFIG = "open_clip_config.json"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


@dataclass
class Backbone:
    """A model with split attention, its tokenizer and its geometry.

    ``model`` has ``visual``, ``encode_image``, ``encode_text`` and ``logit_scale`` as open_clip's.
    """

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    name: str
    image_size: tuple[int, int]  # H, W
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grid: tuple[int, int]  # patches: rows, columns
    embed_dim: int
    config: dict[str, Any]  # open_clip's model_cfg; of BLIP, transformers' config
    folder: Path | None = None  # where it came from, if an open_clip local-dir


def brings_weights(name: str) -> bool:
    """Whether the name alone says which weights, so that ``pretrained`` stays empty."""
    return name in PACKAGED or name.startswith(("local-dir:", "blip:"))


def load_backbone(name: str, pretrained: str | None = None) -> Backbone:
    """Load ``miniclip``, ``minisiglip``, an open_clip model by its name, ``local-dir:PATH`` or
    ``blip:NAME``, where NAME is a folder or a model of the Hugging Face hub.

    ``pretrained``, for open_clip names only: a tag, a .safetensors file, or a .pt file of OpenAI or
    open_clip, which is converted beside it; None: random weights. Raises InputError if weights are
    missing, are of another model or were trained with another activation.
    """
    keep_freed_memory()  # every long computation starts here
    if brings_weights(name):
        if pretrained is not None:
            raise InputError(
                f"backbone {name} brings its own weights: leave pretrained empty, not {pretrained}"
            )
        source = PACKAGED.get(name) or Path(name.partition(":")[2])
        if name.startswith("blip:") or is_blip(source):
            model, tokenizer = read_blip(str(source))
            size = model.text["proj"].out_features
            return _describe(model, tokenizer, name, size, model.architecture.to_dict())
        return _load_folder(name, source)
    config = open_clip.get_model_config(name)
    if config is None:
        raise InputError(f"backbone {name}: no such open_clip model; see open_clip.list_models()")
    pixels: dict[str, Any] = {}
    if pretrained is not None and Path(pretrained).is_file():
        pretrained = str(as_safetensors(Path(pretrained)))
    if pretrained is not None:
        pixels = _check_weights(name, pretrained, config)
    try:
        model, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained, **pixels)
        tokenizer = open_clip.get_tokenizer(name)  # SigLIP's comes from the hub
    except Exception as error:  # hub, network and file errors share no base class
        raise InputError(_missing(name, pretrained, error)) from error
    return from_clip(model, tokenizer, name, config)


def from_clip(
    model: nn.Module,
    tokenizer: Callable[[list[str]], Tensor],
    name: str,
    config: dict[str, Any],
    folder: Path | None = None,
) -> Backbone:
    """Split a stock open_clip CLIP or SigLIP in place and wrap it. ``config`` is its model_cfg."""
    output = _output(model)
    if output is None:
        raise InputError(
            f"backbone {name}: needs open_clip's own ViT and text tower, like ViT-B-32-quickgelu,"
            " or SigLIP's, like ViT-B-16-SigLIP"
        )
    split_attention(model)
    return _describe(model, tokenizer, name, output.output_dim, config, folder)


def _describe(model: nn.Module, tokenizer: Callable, name: str, *rest: Any) -> Backbone:
    visual = model.visual
    size, grid = tuple(visual.image_size), take_apart(visual).grid
    mean = tuple(getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD)
    return Backbone(model.eval(), tokenizer, name, size, mean, std, grid, *rest)


def _output(model: nn.Module) -> nn.Module | None:
    """The tower that knows the dimension of the embeddings; None if the model is not supported."""
    visual = model.visual
    if hasattr(visual, "transformer") and hasattr(model, "transformer"):  # CLIP
        plain = visual.attn_pool is None and visual.pool_type in ("tok", "avg")
        return visual if plain else None
    trunk, text = getattr(visual, "trunk", None), getattr(model, "text", None)
    pool = getattr(trunk, "attn_pool", None)  # of SigLIP
    siglip = isinstance(trunk, VisionTransformer) and isinstance(pool, AttentionPoolLatent)
    return text if siglip and isinstance(text, TextTransformer) else None


def _load_folder(name: str, folder: Path) -> Backbone:
    if not (folder / CONFIG).is_file():
        make = "; python -m miniworld.prior makes it" if name in PACKAGED else ""
        raise InputError(f"backbone {name}: no {CONFIG} in {folder}{make}")
    settings = read_json(folder / CONFIG)
    source = f"local-dir:{folder}"
    try:
        # require_pretrained: otherwise open_clip goes on with random weights.
        model, _, _ = open_clip.create_model_and_transforms(source, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # parsing, missing and misfit files share no base class
        raise InputError(
            f"backbone {name}: {folder} needs {CONFIG}, open_clip_model.safetensors that fits it"
            f" and, if it names one, its tokenizer ({type(error).__name__}: {error})"
        ) from error
    return from_clip(model, tokenizer, name, settings.get("model_cfg", {}), folder)


def _check_weights(name: str, pretrained: str, config: dict[str, Any]) -> dict[str, Any]:
    """Refuse weights that are missing, another model's, or expect the other activation.

    Returns the mean and standard deviation of the pixels for weights in a file, which open_clip
    would take to be CLIP's: those of the config beside it, else of the model's published weights.
    """
    path, tag = Path(pretrained), open_clip.get_pretrained_cfg(name, pretrained)
    tags = list_pretrained_tags_by_model(name)
    if not tag and not path.is_file():
        known = ", ".join(tags)
        raise InputError(f"pretrained {path}: no such file, and {name} has the tags {known}")
    made = {} if tag else check_fit(path, name, config)
    beside = path.with_name(CONFIG)  # our exports have one
    found = read_json(beside) if not tag and beside.is_file() else {}
    trained = tag or found.get("model_cfg")
    if made.get("source") == ARCHIVE:
        trained = {"quick_gelu": True}
    if trained is not None and bool(trained.get("quick_gelu")) != bool(config.get("quick_gelu")):
        right = name.removesuffix("-quickgelu") + "-quickgelu" * bool(trained.get("quick_gelu"))
        # The other activation loads without an error, and its results are wrong.
        raise InputError(
            f"backbone {name} and weights {pretrained} differ in the activation (QuickGELU):"
            f" use backbone={right}"
        )
    if tag:
        return {}
    published = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
    pixels = found.get("preprocess_cfg") or published
    return {f"image_{key}": tuple(pixels[key]) for key in ("mean", "std") if pixels.get(key)}


def check_fit(path: Path, name: str, config: dict[str, Any]) -> dict[str, str]:
    """Refuse a safetensors file of another CLIP than ``name``, naming a model that fits.

    Returns the file's metadata. Models without these weights, such as SigLIP, are not checked.
    """
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys()) & {"visual.conv1.weight", "text_projection"}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"pretrained {path}: not a safetensors file ({error})") from None
    if shapes.items() - _shapes(config).items():
        configs = {n: open_clip.get_model_config(n) for n in open_clip.list_models()}
        right = [n for n, c in configs.items() if len(keys) == 2 and _shapes(c) == shapes]
        hint = f"; they fit {min(right, key=len)}" if right else ""
        raise InputError(f"pretrained {path}: weights of another model than {name}{hint}")
    return metadata


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes that tell CLIPs apart, from open_clip's model_cfg; nothing of other families."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "patch_size" not in vision or "width" not in vision or "width" not in text:
        return {}
    patch = vision["width"], 3, vision["patch_size"], vision["patch_size"]
    projection = text["width"], config["embed_dim"]
    return {"visual.conv1.weight": patch, "text_projection": projection}


def _missing(name: str, pretrained: str | None, error: Exception) -> str:
    message = f"backbone {name}, pretrained {pretrained}: {type(error).__name__}: {error}"
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else None
    if not tag:
        return message
    return (
        f"{message}. Download {tag.get('hf_hub', '').rstrip('/') or tag.get('url')} from the"
        " Hugging Face hub into a folder and pass backbone=local-dir:FOLDER with pretrained empty"
        " or, for CLIP, pretrained=FILE (.safetensors, or .pt of OpenAI or open_clip)"
    )


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks: training steps on a CPU become a fifth faster.

    Where the environment sets malloc's limits, or without glibc, nothing changes.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt and not chosen:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
