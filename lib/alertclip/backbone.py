"""A pre-trained backbone of any family, ready for LoRA, with its geometry and patch grid.

CLIP and SigLIP come from open_clip, BLIP from transformers. Nothing here unpickles. To add a family
see CONTRIBUTING.md; here, describe its vision tower in ``take_apart``.
"""

import ctypes
import os
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip.pretrained import list_pretrained_tags_by_model
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from alertclip.attention import Projections, split_attention
from alertclip.blip import BlipVision, is_blip, read_blip
from alertclip.checkpoint import ARCHIVE, POSITIONS, as_safetensors, file_header
from media.errors import InputError
from media.files import read_json

WEIGHTS = Path(__file__).resolve().parents[1] / "miniworld/weights"
PACKAGED = {name: WEIGHTS / name for name in ("miniclip", "minisiglip")}  # need no download
CONFIG = "open_clip_config.json"
PatchTokens = Literal["plain", "value"]
Projection = Callable[[Tensor], Tensor]


@dataclass
class Backbone:
    """A model with split attention, its tokenizer and its geometry.

    ``model`` has ``visual``, ``encode_text`` and ``logit_scale`` as open_clip's.
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


def brings_weights(name: str) -> bool:
    """Whether the name alone says which weights, so that ``pretrained`` stays empty."""
    return name in PACKAGED or name.startswith(("local-dir:", "blip:"))


def load_backbone(name: str, pretrained: str | None = None) -> Backbone:
    """Load ``miniclip``, ``minisiglip``, an open_clip model by its name, ``local-dir:PATH`` or
    ``blip:NAME``, where NAME is a folder or a model of the Hugging Face hub.

    ``pretrained``, for open_clip names only: a tag, a .safetensors file, or a .pt file of OpenAI,
    LongCLIP (which reads 248 tokens) or open_clip, which is converted beside it; None: random
    weights. Raises InputError if weights are missing, are of another model or were trained with
    another activation.
    """
    keep_freed_memory()  # every long computation starts here
    folder, options = None, {}
    if brings_weights(name):
        if pretrained is not None:
            raise InputError(
                f"backbone {name} brings its own weights: leave pretrained empty, not {pretrained}"
            )
        folder = PACKAGED.get(name) or Path(name.partition(":")[2])
        if name.startswith("blip:") or is_blip(folder):
            model, tokenizer = read_blip(str(folder))
            config = model.architecture.to_dict()
            return _describe(model, tokenizer, name, config["image_text_hidden_size"], config)
        if not (folder / CONFIG).is_file():
            make = "; python -m miniworld.prior makes it" if name in PACKAGED else ""
            raise InputError(f"backbone {name}: no {CONFIG} in {folder}{make}")
        config = read_json(folder / CONFIG).get("model_cfg")
        options["require_pretrained"] = True  # otherwise open_clip goes on with random weights
    elif (config := open_clip.get_model_config(name)) is None:
        raise InputError(f"backbone {name}: no such open_clip model; see open_clip.list_models()")
    elif pretrained is not None:
        if Path(pretrained).is_file():
            pretrained = str(as_safetensors(Path(pretrained)))
        options = _check_weights(name, pretrained, config) | {"pretrained": pretrained}
        options["force_context_length"] = config["text_cfg"].get("context_length")
    source = f"local-dir:{folder}" if folder else name
    try:
        model, _, _ = open_clip.create_model_and_transforms(source, **options)
        length = options.get("force_context_length")
        tokenizer = open_clip.get_tokenizer(source, length)  # SigLIP's comes from the hub
    except Exception as error:  # hub, network, parsing and misfit files share no base class
        raise InputError(_missing(name, pretrained, folder, error)) from error
    return from_clip(model, tokenizer, name, config)


def from_clip(
    model: nn.Module, tokenizer: Callable[[list[str]], Tensor], name: str, config: dict[str, Any]
) -> Backbone:
    """Split a stock open_clip CLIP or SigLIP in place and wrap it. ``config`` is its model_cfg."""
    visual = model.visual
    if hasattr(visual, "transformer") and hasattr(model, "transformer"):  # CLIP
        known = visual.attn_pool is None and visual.pool_type in ("tok", "avg")
    else:  # SigLIP
        trunk = getattr(visual, "trunk", None)
        known = isinstance(trunk, VisionTransformer) and isinstance(model.text, TextTransformer)
        known = known and isinstance(trunk.attn_pool, AttentionPoolLatent)
    if not known:
        raise InputError(
            f"backbone {name}: needs open_clip's own ViT and text tower, like ViT-B-32-quickgelu,"
            " or SigLIP's, like ViT-B-16-SigLIP"
        )
    split_attention(model)
    return _describe(model, tokenizer, name, config["embed_dim"], config)


def _describe(model: nn.Module, tokenizer: Callable, name: str, *rest: Any) -> Backbone:
    visual = model.visual
    size, grid = tuple(visual.image_size), take_apart(visual)[1]
    mean = tuple(getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD)
    return Backbone(model.eval(), tokenizer, name, size, mean, std, grid, *rest)


def _check_weights(name: str, pretrained: str, config: dict[str, Any]) -> dict[str, Any]:
    """Refuse weights that are missing, of another CLIP or for the other activation.

    Returns the mean and standard deviation of the pixels for weights in a file, which open_clip
    would take to be CLIP's: those of the config beside it, else of the model's published weights.
    The length of that file's texts is put into ``config``.
    """
    path, tag = Path(pretrained), open_clip.get_pretrained_cfg(name, pretrained)
    tags, pixels = list_pretrained_tags_by_model(name), {}
    trained = tag
    if not tag:
        if not path.is_file():
            known = ", ".join(tags)
            raise InputError(f"pretrained {path}: no such file, and {name} has the tags {known}")
        beside = path.with_name(CONFIG)  # our exports have one
        found = read_json(beside) if beside.is_file() else {}
        metadata, shapes = file_header(path)
        stem, vision = shapes.get("visual.conv1.weight"), config["vision_cfg"]
        if stem and stem[::2] != [vision.get("width"), vision.get("patch_size")]:
            raise InputError(f"pretrained {path}: weights of another model than {name}")
        if table := shapes.get(POSITIONS):  # open_clip would squeeze LongCLIP's 248 places into 77
            config["text_cfg"]["context_length"] = table[0]
        archive = metadata.get("source") == ARCHIVE
        trained = {"quick_gelu": True} if archive else found.get("model_cfg")
        published = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
        pixels = found.get("preprocess_cfg") or published
    if trained and bool(trained.get("quick_gelu")) != bool(config.get("quick_gelu")):
        right = name.removesuffix("-quickgelu") + "-quickgelu" * bool(trained.get("quick_gelu"))
        # The other activation loads without an error, and its results are wrong.
        raise InputError(
            f"backbone {name} and weights {pretrained} differ in the activation (QuickGELU):"
            f" use backbone={right}"
        )
    return {f"image_{key}": tuple(pixels[key]) for key in ("mean", "std") if pixels.get(key)}


def _missing(name: str, pretrained: str | None, folder: Path | None, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}"
    if folder:
        return (
            f"backbone {name}: {folder} needs {CONFIG}, open_clip_model.safetensors that fits it"
            f" and, if it names one, its tokenizer ({reason})"
        )
    message = f"backbone {name}, pretrained {pretrained}: {reason}"
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
        mallopt(-4, 0)  # M_MMAP_MAX of malloc.h
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def take_apart(visual: nn.Module) -> tuple[nn.Module, tuple[int, int], Projection]:
    """What the families name differently in a vision tower: BLIP, SigLIP (timm), CLIP (open_clip).

    Its last block; the patch grid (h, w); and what maps the tokens (F, N, width) after that block
    to patch tokens (F, h * w, D) in the space of the texts.
    """
    if isinstance(visual, BlipVision):
        blip = visual.model

        def patches(tokens: Tensor) -> Tensor:
            return visual.proj(blip.post_layernorm(tokens[:, 1:]))  # without the class token

        return blip.encoder.layers[-1], visual.grid, patches
    if isinstance(visual, TimmModel):
        trunk = visual.trunk

        def patches(tokens: Tensor) -> Tensor:
            # Each pooled alone: the feature of an image that has only this token, just as CLIP's.
            x = trunk.attn_pool.values(trunk.norm(tokens[:, trunk.num_prefix_tokens :]))
            return visual.head(trunk.head(trunk.fc_norm(x)))

        return trunk.blocks[-1], tuple(trunk.patch_embed.grid_size), patches

    def patches(tokens: Tensor) -> Tensor:
        return visual.ln_post(tokens[:, 1:]) @ visual.proj

    return visual.transformer.resblocks[-1], tuple(visual.grid_size), patches


def image_and_patches(
    visual: nn.Module, pixels: Tensor, patch_tokens: PatchTokens | None = None
) -> tuple[Tensor, Tensor | None]:
    """Image features (F, D) of normalised pixels (F, 3, H, W), and patch grids (F, D, h, w).

    A grid is the last block's tokens, normed and projected like the image feature (supplementary
    C.2). "value" takes them from a last block without q and k, as FG-CLIP does, which keeps them
    local; None: no grids.
    """
    if patch_tokens is None:
        return visual(pixels), None
    (last, grid, project), seen = take_apart(visual), []
    hook = last.register_forward_hook(lambda _block, x, y: seen.append((x[0], y)))
    try:
        image = visual(pixels)
    finally:
        hook.remove()
    x, tokens = seen[0]
    if patch_tokens == "value":
        parts = last.named_children()
        name, attention = next(part for part in parts if isinstance(part[1], Projections))
        # Copies share the weights, and are still local when checkpointing recomputes them.
        block, attention = copy(last), copy(attention)
        attention.local, block._modules = True, block._modules | {name: attention}
        tokens = block(x)
    return image, project(tokens).transpose(1, 2).unflatten(2, grid)
