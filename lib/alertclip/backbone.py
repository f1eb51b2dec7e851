"""Load a pre-trained CLIP or SigLIP (open_clip) or BLIP (transformers), ready for LoRA.

Nothing is unpickled. CONTRIBUTING.md says how to add a family; here, ``take_apart`` describes its
vision tower.
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
PACKAGED = {name: WEIGHTS / name for name in ("miniclip", "minisiglip")}  # no download
CONFIG = "open_clip_config.json"
PatchTokens = Literal["plain", "value"]
Projection = Callable[[Tensor], Tensor]


@dataclass
class Backbone:
    """A model with split attention, its tokenizer and its geometry.

    ``model`` has ``visual``, ``encode_text`` and ``logit_scale`` as in open_clip.
    """

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    name: str
    image_size: tuple[int, int]  # H, W
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grid: tuple[int, int]  # patches: rows, columns
    embed_dim: int
    config: dict[str, Any]  # open_clip's model_cfg; for BLIP, transformers' config


def brings_weights(name: str) -> bool:
    """Whether the name alone determines the weights, so that ``pretrained`` must be None."""
    return name in PACKAGED or name.startswith(("local-dir:", "blip:"))


def load_backbone(name: str, pretrained: str | None = None) -> Backbone:
    """Load a backbone by its name.

    ``name``: ``miniclip``, ``minisiglip``, an open_clip model, ``local-dir:PATH``, or ``blip:NAME``
    with a folder or a model of the Hugging Face hub. ``pretrained``, for open_clip models only: a
    tag, a .safetensors file, or a .pt file of OpenAI, LongCLIP (which reads 248 tokens) or
    open_clip, which is converted beside it; None: random weights. Raises InputError if the weights
    are missing, belong to another model or were trained with another activation.
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
            hint = "; python -m miniworld.prior makes it" if name in PACKAGED else ""
            raise InputError(f"backbone {name}: no {CONFIG} in {folder}{hint}")
        config = read_json(folder / CONFIG).get("model_cfg")
        options["require_pretrained"] = True  # else open_clip would use random weights
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
    except Exception as error:  # hub, network, parser and bad files share no error class
        raise InputError(_loading_error(name, pretrained, folder, error)) from error
    return from_clip(model, tokenizer, name, config)


def from_clip(
    model: nn.Module, tokenizer: Callable[[list[str]], Tensor], name: str, config: dict[str, Any]
) -> Backbone:
    """Split a stock open_clip CLIP or SigLIP in place and wrap it. ``config`` is its model_cfg."""
    visual = model.visual
    if hasattr(visual, "transformer") and hasattr(model, "transformer"):  # CLIP
        supported = visual.attn_pool is None and visual.pool_type in ("tok", "avg")
    else:  # SigLIP
        trunk = getattr(visual, "trunk", None)
        supported = isinstance(trunk, VisionTransformer) and isinstance(model.text, TextTransformer)
        supported = supported and isinstance(trunk.attn_pool, AttentionPoolLatent)
    if not supported:
        raise InputError(
            f"backbone {name}: needs open_clip's own ViT and text tower, like ViT-B-32-quickgelu,"
            " or SigLIP's, like ViT-B-16-SigLIP"
        )
    split_attention(model)
    return _describe(model, tokenizer, name, config["embed_dim"], config)


def _describe(
    model: nn.Module, tokenizer: Callable, name: str, embed_dim: int, config: dict[str, Any]
) -> Backbone:
    visual = model.visual
    size, grid = tuple(visual.image_size), take_apart(visual)[1]
    mean = tuple(getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD)
    return Backbone(model.eval(), tokenizer, name, size, mean, std, grid, embed_dim, config)


def _check_weights(name: str, pretrained: str, config: dict[str, Any]) -> dict[str, Any]:
    """Raise InputError for weights that are missing, of another model or for another activation.

    Returns the pixel mean and std for weights in a file (open_clip would assume CLIP's): those of
    the config beside it, else of the model's published weights. Sets the context length in
    ``config`` to the file's.
    """
    path, tags, pixels = Path(pretrained), list_pretrained_tags_by_model(name), {}
    trained = open_clip.get_pretrained_cfg(name, pretrained)  # empty unless a tag
    if not trained:
        if not path.is_file():
            known = ", ".join(tags)
            raise InputError(f"pretrained {path}: no such file, and {name} has the tags {known}")
        beside = path.with_name(CONFIG)  # our exports have one
        exported = read_json(beside) if beside.is_file() else {}
        metadata, shapes = file_header(path)
        patch_layer, vision = shapes.get("visual.conv1.weight"), config["vision_cfg"]
        if patch_layer and patch_layer[::2] != [vision.get("width"), vision.get("patch_size")]:
            raise InputError(f"pretrained {path}: weights of another model than {name}")
        if positions := shapes.get(POSITIONS):  # open_clip would resample LongCLIP's 248 to 77
            config["text_cfg"]["context_length"] = positions[0]
        archive = metadata.get("source") == ARCHIVE
        trained = {"quick_gelu": True} if archive else exported.get("model_cfg")
        published = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
        pixels = exported.get("preprocess_cfg") or published
    if trained and bool(trained.get("quick_gelu")) != bool(config.get("quick_gelu")):
        fitting = name.removesuffix("-quickgelu") + "-quickgelu" * bool(trained.get("quick_gelu"))
        # The wrong activation would load without an error and give wrong results.
        raise InputError(
            f"backbone {name} and weights {pretrained} differ in the activation (QuickGELU):"
            f" use backbone={fitting}"
        )
    return {f"image_{key}": tuple(pixels[key]) for key in ("mean", "std") if pixels.get(key)}


def _loading_error(name: str, pretrained: str | None, folder: Path | None, error: Exception) -> str:
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
    """Make glibc keep freed memory for reuse: training steps on a CPU become a fifth faster.

    Does nothing without glibc or where the environment sets malloc's options.
    """
    configured = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt and not configured:
        mallopt(-4, 0)  # M_MMAP_MAX of malloc.h
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def take_apart(visual: nn.Module) -> tuple[nn.Module, tuple[int, int], Projection]:
    """Last block, patch grid (h, w) and patch projection of a vision tower of any family.

    The projection maps the tokens (F, N, width) after that block to patch tokens (F, h * w, D) in
    the space of the texts.
    """
    if isinstance(visual, BlipVision):
        blip = visual.model

        def patches(tokens: Tensor) -> Tensor:
            return visual.proj(blip.post_layernorm(tokens[:, 1:]))  # without the class token

        return blip.encoder.layers[-1], visual.grid, patches
    if isinstance(visual, TimmModel):
        trunk = visual.trunk

        def patches(tokens: Tensor) -> Tensor:
            # Each token is pooled by itself, as the only token of an image.
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

    A grid holds the last block's tokens, normed and projected like the image feature (supplementary
    C.2). "value" computes them without that block's q and k, as FG-CLIP does, so that they stay
    local; None: no grids.
    """
    if patch_tokens is None:
        return visual(pixels), None
    (last, grid, project), captured = take_apart(visual), []
    hook = last.register_forward_hook(lambda _block, x, y: captured.append((x[0], y)))
    try:
        image = visual(pixels)
    finally:
        hook.remove()
    x, tokens = captured[0]
    if patch_tokens == "value":
        children = last.named_children()
        name, attention = next(child for child in children if isinstance(child[1], Projections))
        # Copies share the weights, and stay local when checkpointing recomputes the block.
        block, attention = copy(last), copy(attention)
        attention.local, block._modules = True, block._modules | {name: attention}
        tokens = block(x)
    return image, project(tokens).transpose(1, 2).unflatten(2, grid)
