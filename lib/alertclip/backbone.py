"""A backbone of any family, ready for LoRA, with the facts others need of it.

Families: CLIP and SigLIP from open_clip, BLIP from transformers (``alertclip.families``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import list_pretrained_tags_by_model
from torch import Tensor, nn

from alertclip import clip_tower, siglip
from alertclip.attention import split_attention
from alertclip.blip import is_blip, read_blip
from alertclip.errors import InputError
from alertclip.families import take_apart
from alertclip.files import read_json
from alertclip.memory import keep_freed_memory

WEIGHTS = Path(__file__).resolve().parents[1] / "miniworld/weights"
MINICLIP, MINISIGLIP = WEIGHTS / "miniclip", WEIGHTS / "minisiglip"
PACKAGED = {"miniclip": MINICLIP, "minisiglip": MINISIGLIP}
CONFIG = "open_clip_config.json"


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
    """Does the name alone say which weights, so that ``pretrained`` stays empty?"""
    return name in PACKAGED or name.startswith(("local-dir:", "blip:"))


def load_backbone(name: str, pretrained: str | None = None) -> Backbone:
    """Load ``miniclip``, ``minisiglip``, an open_clip model by its name, ``local-dir:PATH`` or
    ``blip:NAME``, NAME being a folder or a model of the Hugging Face hub.

    ``pretrained`` is a tag of open_clip or a .safetensors file; the others bring their own weights.
    A name with None gets random weights, by torch's seed. Raises InputError if weights are not at
    hand (what, from where, to put where) or were trained with another activation (QuickGELU).
    """
    keep_freed_memory()  # every long computation starts here
    if brings_weights(name):
        if pretrained is None:
            return _load_whole(name)
        raise InputError(
            f"backbone {name} brings its own weights: leave pretrained empty, not {pretrained}"
        )
    config = open_clip.get_model_config(name)
    if config is None:
        raise InputError(f"backbone {name}: no such open_clip model; see open_clip.list_models()")
    if pretrained is not None:
        _check_weights(name, pretrained, config)
    try:
        model, _, _ = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, **_pixel_statistics(name, pretrained)
        )
        tokenizer = open_clip.get_tokenizer(name)  # SigLIP's comes from the hub
    except Exception as error:  # hub, network and file errors share no base class
        raise InputError(_missing(name, pretrained, config, error)) from error
    return from_clip(model, tokenizer, name, config)


def from_clip(
    model: nn.Module,
    tokenizer: Callable[[list[str]], Tensor],
    name: str,
    config: dict[str, Any],
    folder: Path | None = None,
) -> Backbone:
    """Split a stock open_clip CLIP or SigLIP in place and wrap it. ``config`` is its model_cfg."""
    _check_architecture(model, name)
    split_attention(model)
    visual = model.visual
    tower = visual if clip_tower.fits(model) else model.text  # which knows the dimension
    return Backbone(
        model=model.eval(),
        tokenizer=tokenizer,
        name=name,
        image_size=tuple(visual.image_size),
        mean=tuple(getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD),
        grid=take_apart(visual).grid,
        embed_dim=tower.output_dim,
        config=config,
        folder=folder,
    )


def _load_whole(name: str) -> Backbone:
    if name.startswith("blip:"):
        return _load_blip(name, name.removeprefix("blip:"))
    folder = PACKAGED.get(name) or Path(name.removeprefix("local-dir:"))
    return _load_blip(name, str(folder)) if is_blip(folder) else _load_folder(name, folder)


def _load_blip(name: str, source: str) -> Backbone:
    model, tokenizer, processor = read_blip(source)
    return Backbone(
        model=model.eval(),
        tokenizer=tokenizer,
        name=name,
        image_size=model.visual.image_size,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        grid=model.visual.grid,
        embed_dim=model.text.proj.out_features,
        config=model.architecture.to_dict(),
    )


def _load_folder(name: str, folder: Path) -> Backbone:
    if not (folder / CONFIG).is_file():
        make = "; python -m miniworld.prior makes it" if name in PACKAGED else ""
        raise InputError(f"backbone {name}: no {CONFIG} in {folder}{make}")
    settings = read_json(folder / CONFIG)
    if not isinstance(settings, dict):
        raise InputError(f"{folder / CONFIG}: must be a mapping with model_cfg; export it again")
    config = settings.get("model_cfg", {})
    source = f"local-dir:{folder}"
    try:
        # Without weights in the folder open_clip would go on with random ones.
        model, _, _ = open_clip.create_model_and_transforms(source, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:  # parsing, missing and misfit files share no base class
        raise InputError(
            f"backbone {name}: {folder} needs {CONFIG}, open_clip_model.safetensors that fits it"
            f" and, if it names one, its tokenizer ({type(error).__name__}: {error})"
        ) from error
    return from_clip(model, tokenizer, name, config, folder)


def _check_architecture(model: nn.Module, name: str) -> None:
    if not clip_tower.fits(model) and not siglip.fits(model):
        raise InputError(
            f"backbone {name}: needs open_clip's own ViT and text tower, like ViT-B-32-quickgelu,"
            " or SigLIP's, like ViT-B-16-SigLIP"
        )


def _pixel_statistics(name: str, pretrained: str | None) -> dict[str, Any]:
    """Mean and standard deviation for weights in a file, which open_clip would take to be CLIP's.

    They are those of the config beside the file, else of the model's published weights.
    """
    if pretrained is None or open_clip.get_pretrained_cfg(name, pretrained):
        return {}
    beside = Path(pretrained).with_name(CONFIG)
    if beside.is_file():
        found = read_json(beside).get("preprocess_cfg", {})
    else:
        tags = list_pretrained_tags_by_model(name)
        found = open_clip.get_pretrained_cfg(name, tags[0]) if tags else {}
    return {f"image_{key}": tuple(found[key]) for key in ("mean", "std") if found.get(key)}


def _check_weights(name: str, pretrained: str, config: dict[str, Any]) -> None:
    """Refuse weights that are not there, may hold code, or expect the other activation."""
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    trained_with = tag or _config_beside(name, Path(pretrained))
    if trained_with is None or _quick(trained_with) == _quick(config):
        return
    stem = name.removesuffix("-quickgelu")
    right = f"{stem}-quickgelu" if _quick(trained_with) else stem
    # The other activation loads without a word and is silently wrong.
    raise InputError(
        f"backbone {name} and weights {pretrained} differ in the activation (QuickGELU):"
        f" use backbone={right}"
    )


def _quick(config: dict[str, Any]) -> bool:
    return bool(config.get("quick_gelu"))


def _config_beside(name: str, path: Path) -> dict[str, Any] | None:
    """The model_cfg beside a weights file, such as our exports have; None if there is none."""
    if not path.is_file():
        tags = ", ".join(list_pretrained_tags_by_model(name))
        raise InputError(f"pretrained {path}: no such file, and {name} has the tags {tags}")
    if path.suffix != ".safetensors":
        raise InputError(f"pretrained {path}: may hold code; convert it to .safetensors")
    beside = path.with_name(CONFIG)
    return read_json(beside)["model_cfg"] if beside.is_file() else None


def _missing(name: str, pretrained: str | None, config: dict[str, Any], error: Exception) -> str:
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else None
    if not tag:
        return f"backbone {name}, pretrained {pretrained}: {type(error).__name__}: {error}"
    hub = tag.get("hf_hub", "").rstrip("/")
    where = f"{hub} on the Hugging Face hub" if hub else tag.get("url", "its authors")
    if "hf_tokenizer_name" in config.get("text_cfg", {}):
        return (
            f"weights {pretrained} of {name}, or their tokenizer, are not in the cache and could"
            f" not be fetched ({type(error).__name__}). Take all files of {where}, put them into a"
            " folder and pass backbone=local-dir:FOLDER with pretrained empty"
        )
    return (
        f"weights {pretrained} of {name} are not in the cache and could not be fetched"
        f" ({type(error).__name__}). Take open_clip_model.safetensors from {where}, put it"
        " anywhere and pass pretrained=FOLDER/open_clip_model.safetensors"
    )
