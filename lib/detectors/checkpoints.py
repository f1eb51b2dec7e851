"""Read official checkpoints of both detectors without executing anything they contain.

VadCLIP's file is a state dict that includes its frozen CLIP as ``clipmodel.*``, or a training
checkpoint with that state dict and the optimiser's. AnomalyCLIP's is a Lightning checkpoint with
pickled settings and weights under the prefix ``net.``; its prototype m is in a separate file.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from alertclip.attention import PARTS, pack_state_dict
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.vadclip.model import VadCLIP
from media.errors import InputError

CLIP = "clipmodel."
LIGHTNING = "net."
WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")  # DataParallel, torch.compile
FROZEN = ("image_encoder.", "token_embedding.")  # CLIP weights in AnomalyCLIP's files, not used


class Placeholder:
    """Replaces an object that is neither a tensor nor a plain value, and discards its state."""

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        """Accept any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Discard the state."""


def read_tensors(path: Path | str) -> Any:
    """Return the content of a ``torch.save`` file; nothing it names is imported or called.

    Classes and functions that torch does not list as safe become ``Placeholder``, so the tensors
    beside them can be read. InputError if torch still refuses the file: it names ``os``, has
    containers other than dict and list, or was not written by ``torch.save``.
    """
    try:
        # Only zip archives (torch >= 1.6) can be searched for the names beforehand.
        unknown = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        with safe_globals([(Placeholder, name) for name in unknown]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split("\n\n")[1:-1]).strip() or error  # without torch's advice
        what = f"{path}: not a checkpoint of plain tensors ({reason})"
        advice = "If you trust the file, save its state_dict alone and load that"
        raise InputError(f"{what}. {advice}") from error


def load_clip(clip: nn.Module, path: Path | str) -> None:
    """Load the CLIP of an official VadCLIP checkpoint into ``clip``; InputError if it has none."""
    weights = {n.removeprefix(CLIP): t for n, t in _state(path).items() if n.startswith(CLIP)}
    if not weights:
        raise InputError(f"{path}: holds no CLIP; name the weights, such as --pretrained openai")
    _load(clip, weights, path)


def load_vadclip(model: VadCLIP, path: Path | str) -> None:
    """Load an official checkpoint less its CLIP, or nothing; InputError lists what does not fit."""
    state = {name: t for name, t in _state(path).items() if not name.startswith(CLIP)}
    tower = {n: t for n, t in model.state_dict().items() if n.startswith("text.")}
    _load(model, state | pack_state_dict(tower), path)


def load_anomalyclip(model: AnomalyCLIP, path: Path | str, prototype: Tensor) -> None:
    """Load an official checkpoint and its ``prototype`` (D,); InputError if they do not fit."""
    if getattr(prototype, "shape", None) != model.prototype.shape:
        raise InputError(f"{path}: its prototype must be a vector of {len(model.prototype)}")
    named = {name.removeprefix(LIGHTNING): tensor for name, tensor in _state(path).items()}
    _load(model, {n: t for n, t in named.items() if not n.startswith(FROZEN)}, path)
    model.prototype.copy_(prototype)


def _state(path: Path | str) -> dict[str, Tensor]:
    """Return the state dict of a file: all of it, or the entry that Lightning or VadCLIP uses."""
    state = read_tensors(path)
    if isinstance(state, Mapping):
        state = state.get("state_dict", state.get("model_state_dict", state))
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no state dict, names to tensors; save its state_dict")
    if with_nan := [n for n, t in state.items() if t.isnan().any()]:
        raise InputError(f"{path}: {with_nan[0]} holds NaN; take another checkpoint")
    return {WRAPPERS.sub("", name): tensor for name, tensor in state.items()}


def _load(model: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Load ``state``; its packed attention weights are split into q, k, v as in the model."""
    target = model.state_dict()
    both = state, pack_state_dict(target)
    have, want = ({name: tuple(t.shape) for name, t in weights.items()} for weights in both)
    if differ := sorted({name for name, _ in want.items() ^ have.items()}):
        wrong = [f"{n} {have.get(n, 'missing')}, not {want.get(n, 'known')}" for n in differ]
        raise InputError(f"{path}: does not fit the settings and backbone: {'; '.join(wrong)}")
    split = {}
    for name, tensor in state.items():
        owner, _, tail = name.rpartition(".in_proj_")
        names = [name] if name in target else [f"{owner}.{part}.{tail}" for part in PARTS]
        split |= zip(names, tensor.chunk(len(names)) if tensor.ndim else [tensor], strict=True)
    model.load_state_dict(split)
