"""Official checkpoints of both detectors, read without running anything that they hold.

VadCLIP's file is a state dict that also holds its frozen CLIP, as ``clipmodel.*``, or a training
checkpoint with the optimiser beside it. AnomalyCLIP's is Lightning's, with pickled settings beside
the weights, which have the prefix ``net.``; its prototype m is in another file.
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
WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")  # of DataParallel and torch.compile
FROZEN = ("image_encoder.", "token_embedding.")  # CLIP's in AnomalyCLIP's files; unused here


class Placeholder:
    """Stands for an object of a class other than tensors and plain values; keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""


def read_tensors(path: Path | str) -> Any:
    """The content of a file that torch.save wrote; nothing that it names is imported or called.

    Classes and functions beyond torch's own list of harmless ones become ``Placeholder``, so that
    the tensors beside them can be read. InputError where torch refuses even this: a file that
    names ``os``, containers of other classes than dict and list, or no file of torch.save.
    """
    try:
        # Files from before torch 1.6 are no archives, whose names can be listed beforehand.
        unknown = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        with safe_globals([(Placeholder, name) for name in unknown]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split("\n\n")[1:-1]).strip() or error  # less torch's advice
        what = f"{path}: not a checkpoint of plain tensors ({reason})"
        told = "If you trust the file, save its state_dict alone and load that"
        raise InputError(f"{what}. {told}") from error


def load_clip(clip: nn.Module, path: Path | str) -> None:
    """Load into ``clip`` the CLIP that an official VadCLIP checkpoint holds; InputError if none."""
    weights = {n.removeprefix(CLIP): t for n, t in _state(path).items() if n.startswith(CLIP)}
    if not weights:
        raise InputError(f"{path}: holds no CLIP; name the weights, such as --pretrained openai")
    _load(clip, weights, path)


def load_vadclip(model: VadCLIP, path: Path | str) -> None:
    """Load an official file less its CLIP, or nothing: InputError names what does not fit."""
    state = {name: t for name, t in _state(path).items() if not name.startswith(CLIP)}
    tower = {n: t for n, t in model.state_dict().items() if n.startswith("text.")}
    _load(model, state | pack_state_dict(tower), path)


def load_anomalyclip(model: AnomalyCLIP, path: Path | str, prototype: Tensor) -> None:
    """Load an official checkpoint and its ``prototype`` (D,) into ``model``; errors as above."""
    if getattr(prototype, "shape", None) != model.prototype.shape:
        raise InputError(f"{path}: its prototype must be a vector of {len(model.prototype)}")
    named = {name.removeprefix(LIGHTNING): tensor for name, tensor in _state(path).items()}
    _load(model, {n: t for n, t in named.items() if not n.startswith(FROZEN)}, path)
    model.prototype.copy_(prototype)


def _state(path: Path | str) -> dict[str, Tensor]:
    """The weights in a file by name: its whole content, or its entry of Lightning or VadCLIP."""
    state = read_tensors(path)
    if isinstance(state, Mapping):
        state = state.get("state_dict", state.get("model_state_dict", state))
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no state dict, names to tensors; save its state_dict")
    if broken := [n for n, t in state.items() if t.isnan().any()]:
        raise InputError(f"{path}: {broken[0]} holds NaN; take another checkpoint")
    return {WRAPPERS.sub("", name): tensor for name, tensor in state.items()}


def _load(model: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Load a state with packed attention weights, split to q, k and v where the model's are."""
    own = model.state_dict()
    parts = state, pack_state_dict(own)
    have, want = ({name: tuple(t.shape) for name, t in part.items()} for part in parts)
    if differ := sorted({name for name, _ in want.items() ^ have.items()}):
        found = [f"{n} {have.get(n, 'missing')}, not {want.get(n, 'known')}" for n in differ]
        raise InputError(f"{path}: not of these settings and backbone: {'; '.join(found)}")
    split = {}
    for name, tensor in state.items():
        owner, _, tail = name.rpartition(".in_proj_")
        names = [name] if name in own else [f"{owner}.{part}.{tail}" for part in PARTS]
        split |= zip(names, tensor.chunk(len(names)) if tensor.ndim else [tensor], strict=True)
    model.load_state_dict(split)
