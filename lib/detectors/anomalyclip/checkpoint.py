"""AnomalyCLIP checkpoints under the official names, ours and those of the authors.

A file holds ``state_dict`` with Lightning's prefix ``net.`` and, in ours, ``ncentroid`` (the
prototype m, which the authors keep in ncentroid.pt) and ``class_names``.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alertclip.attention import PARTS, pack_state_dict
from alertclip.errors import InputError
from alertclip.files import atomic_write
from detectors.anomalyclip.model import AnomalyCLIP

PREFIX = "net."
FROZEN = ("image_encoder.", "token_embedding.")  # CLIP's, in official files; features replace them


def official_state_dict(model: AnomalyCLIP) -> dict[str, Tensor]:
    """Weights under the official names, without prefix; split attention is packed."""
    return pack_state_dict(model.state_dict())


def save_checkpoint(model: AnomalyCLIP, path: Path | str) -> None:
    """Write the model with its prototype and class names, atomically."""
    state = {
        PREFIX + name: tensor.detach().cpu().contiguous()
        for name, tensor in official_state_dict(model).items()
    }
    content = {
        "state_dict": state,
        "ncentroid": model.prototype.cpu(),
        "class_names": list(model.class_names),
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(model: AnomalyCLIP, path: Path | str, prototype: Tensor | None = None) -> None:
    """Load ours or an official checkpoint into ``model``, strictly.

    ``prototype`` (D,) is needed where the file holds none. Raises InputError naming what is
    missing, unknown, of another shape, or trained for other classes; nothing is loaded then.
    """
    content = _read(Path(path))
    names = content.get("class_names", list(model.class_names))
    if names != list(model.class_names):
        raise InputError(f"{path}: was trained for the classes {', '.join(map(str, names))}")
    prototype = content.get("ncentroid") if prototype is None else prototype
    if not isinstance(prototype, Tensor) or prototype.shape != model.prototype.shape:
        raise InputError(
            f"{path}: no prototype of {len(model.prototype)} dimensions; pass prototype="
            " (the authors' ncentroid.pt, or normality_prototype of the normal training videos)"
        )
    state = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if not name.removeprefix(PREFIX).startswith(FROZEN)
    }
    _check(state, official_state_dict(model), path)
    model.load_state_dict(_split_where(state, model.state_dict()))
    model.prototype.copy_(prototype)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(
            f"{path}: not a file of plain tensors. A Lightning checkpoint also holds objects: save"
            " its state_dict alone, where you trust the file, and load that"
        ) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise InputError(f"{path}: holds no state_dict; save {{'state_dict': ...}}")
    return content


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path | str) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    faults = {
        "missing": [name for name in shapes if name not in state],
        "unknown": [name for name in state if name not in shapes],
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, not {shape}"
            for name, shape in shapes.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    found = [f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names]
    if found:
        raise InputError(
            f"{path}: not an AnomalyCLIP of these settings and backbone; {'; '.join(found)}"
        )


def _split_where(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Packed attention weights as q, k and v where the model has split ones."""
    split = {}
    for name, tensor in state.items():
        if name in own:
            split[name] = tensor
            continue
        owner, _, tail = name.rpartition(".in_proj_")
        pieces = zip(PARTS, tensor.chunk(3), strict=True)
        split |= {f"{owner}.{part}.{tail}": piece for part, piece in pieces}
    return split
