"""Any open_clip model with packed attention, ready for LoRA, with the facts others need of it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from alertclip.errors import InputError
from alertclip.model.attention import split_attention

MINICLIP = Path(__file__).resolve().parents[1] / "weights" / "miniclip"


@dataclass
class Backbone:
    """An open_clip model with split attention, its tokenizer and its geometry."""

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    name: str
    image_size: tuple[int, int]  # H, W
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grid: tuple[int, int]  # patches: rows, columns
    embed_dim: int
    config: dict
    folder: Path | None = None  # where it came from, if a local-dir


def load_backbone(name: str, pretrained: str | None = None) -> Backbone:
    """Load an open_clip model by name, ``local-dir:PATH`` or ``miniclip``; None = random weights.

    ``pretrained`` is an open_clip tag or a safetensors file. Raises InputError if the weights are
    not at hand (what, from where, to put where) or do not fit the activation (QuickGELU).
    """
    folder = _folder(name)
    source = f"local-dir:{folder}" if folder else name
    _check(name, folder, pretrained)
    try:
        model, _, _ = open_clip.create_model_and_transforms(
            source, pretrained=None if folder else pretrained
        )
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # hub, network and file errors share no base class
        raise InputError(_missing(name, pretrained, error)) from None
    return from_clip(model, tokenizer, name, _config(name, folder), folder)


def from_clip(
    model: nn.Module,
    tokenizer: Callable[[list[str]], Tensor],
    name: str,
    config: dict,
    folder: Path | None = None,
) -> Backbone:
    """Split a stock open_clip CLIP in place and wrap it. ``config`` is its model_cfg."""
    if not hasattr(model.visual, "transformer") or not hasattr(model, "transformer"):
        raise InputError(f"{name}: needs a ViT with open_clip's own text tower, like ViT-B-32")
    split_attention(model)
    mean = getattr(model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    size, grid = model.visual.image_size, model.visual.grid_size
    return Backbone(
        model=model.eval(),
        tokenizer=tokenizer,
        name=name,
        image_size=tuple(size),
        mean=tuple(mean),
        std=tuple(std),
        grid=tuple(grid),
        embed_dim=model.visual.output_dim,
        config=config,
        folder=folder,
    )


def _folder(name: str) -> Path | None:
    if name == "miniclip":
        return MINICLIP
    return Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None


def _check(name: str, folder: Path | None, pretrained: str | None) -> None:
    if folder is not None:
        if not (folder / "open_clip_config.json").is_file():
            make = "; python -m alertclip.prior makes it" if name == "miniclip" else ""
            raise InputError(f"{name}: no open_clip_config.json in {folder}{make}")
        return
    config = open_clip.get_model_config(name)
    if config is None:
        raise InputError(f"{name}: open_clip knows no such model; see open_clip.list_models()")
    # Weights of OpenAI were trained with QuickGELU: plain GELU is silently wrong.
    if pretrained == "openai" and not config.get("quick_gelu"):
        raise InputError(f"{name} with openai weights needs QuickGELU: use {name}-quickgelu")
    if pretrained and Path(pretrained).suffix in (".pt", ".pth", ".bin"):
        raise InputError(f"{pretrained}: may hold code; convert it to .safetensors")


def _config(name: str, folder: Path | None) -> dict:
    if folder is None:
        return open_clip.get_model_config(name)
    from alertclip.files import read_json

    return read_json(folder / "open_clip_config.json")["model_cfg"]


def _missing(name: str, pretrained: str | None, error: Exception) -> str:
    logging.getLogger(__name__).debug("loading %s failed", name, exc_info=error)
    cfg = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    hub = (cfg or {}).get("hf_hub", "").rstrip("/")
    where = f"from {hub} on the Hugging Face hub" if hub else "from its authors"
    return (
        f"weights {pretrained} of {name} could not be loaded ({type(error).__name__}). Fetch"
        f" open_clip_model.safetensors {where}, put it anywhere and pass"
        " -p pretrained=/path/to/open_clip_model.safetensors"
    )


def random_seeded(name: str, seed: int) -> Backbone:
    """The architecture ``name`` with random weights by ``seed``: for tests and dry runs."""
    torch.manual_seed(seed)
    return load_backbone(name, None)
