"""Weights under the names of the official checkpoints (VadCLIP, Wu et al. 2024).

An official file also holds the frozen CLIP, as ``clipmodel.*``. It is read but never loaded: our
model is given its text tower, which has to be the one that the weights were trained with.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from alertclip.errors import InputError
from alertclip.files import atomic_write
from detectors.vadclip.model import VadCLIP

CLIP = "clipmodel."
TOWER = "text."  # our frozen text tower, where it is a module


class Checkpoint(NamedTuple):
    """A file's tensors: the detector's by official name, and CLIP's without ``clipmodel.``."""

    detector: dict[str, Tensor]
    clip: dict[str, Tensor]


def official_state_dict(model: VadCLIP) -> dict[str, Tensor]:
    """The detector's tensors by official name, without any CLIP."""
    state = model.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith(TOWER)}


def save_checkpoint(model: VadCLIP, path: Path | str) -> None:
    """Write the official state dict of ``model``, less CLIP, atomically."""
    state = {name: tensor.cpu() for name, tensor in official_state_dict(model).items()}
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(model: VadCLIP, path: Path | str) -> None:
    """Load ours or an official checkpoint into ``model``, strictly but for ``clipmodel.*``.

    Raises InputError naming what is missing, unknown or of another shape; nothing is loaded then.
    """
    detector = read_checkpoint(path).detector
    expected = _shapes(official_state_dict(model))
    given = _shapes(detector)
    differ = sorted({name for name, _ in expected.items() ^ given.items()})
    if differ:
        found = [f"{n} {given.get(n, 'missing')}, not {expected.get(n, 'known')}" for n in differ]
        raise InputError(
            f"{path}: not a VadCLIP of these settings and backbone: {'; '.join(found)}"
        )
    model.load_state_dict(detector, strict=False)  # strict above; the text tower stays


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a state dict from ``path``; InputError if it is unreadable or not plain tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{path}: not a file of plain tensors; save its state_dict") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: not a state dict, names to tensors; save its state_dict")
    clip = {name.removeprefix(CLIP): v for name, v in state.items() if name.startswith(CLIP)}
    return Checkpoint({k: v for k, v in state.items() if not k.startswith(CLIP)}, clip)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
