"""Checkpoints that are whole or absent, and random states that make a resume exact."""

import json
import os
import random
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alertclip.files import sha256_file, write_json, writing

TRAINABLE, OPTIMIZER, STATE = "trainable.safetensors", "optimizer.safetensors", "state.json"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that receive gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def torch_rng(device: torch.device) -> list[Tensor]:
    """Torch's random states that a forward pass on ``device`` draws from."""
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def set_torch_rng(states: list[Tensor], device: torch.device) -> None:
    """Restore what ``torch_rng`` returned; a state of another kind of device is left out."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def random_state(device: torch.device) -> dict[str, Any]:
    """Random states of python, numpy and torch as JSON values."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": [bytes(state.tolist()).hex() for state in torch_rng(device)],
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what ``random_state`` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    blobs = [torch.tensor(list(bytes.fromhex(h)), dtype=torch.uint8) for h in state["torch"]]
    set_torch_rng(blobs, device)


def save_checkpoint(
    out: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    limit: int,
) -> Path:
    """Write ``out/checkpoint-<step>`` and delete the oldest beyond ``limit``.

    ``state`` holds at least ``step``; the sum of each file is added, by which a torn checkpoint is
    recognised after a power cut.
    """
    folder = out / f"checkpoint-{state['step']:06d}"
    with _new_folder(folder) as temporary:
        _save(trainable(model), temporary / TRAINABLE)
        _save(_optimizer_tensors(model, optimizer), temporary / OPTIMIZER)
        sums = {name: sha256_file(temporary / name) for name in (TRAINABLE, OPTIMIZER)}
        write_json(temporary / STATE, state | {"sha256": sums})
    for old in checkpoints(out)[:-limit]:
        shutil.rmtree(old)
    return folder


def save_final(out: Path, model: nn.Module, state: dict[str, Any]) -> Path:
    """Write ``out/final``: the trained tensors and the identity of the run that made them."""
    with _new_folder(out / "final") as temporary:
        _save(trainable(model), temporary / TRAINABLE)
        sums = {TRAINABLE: sha256_file(temporary / TRAINABLE)}
        write_json(temporary / STATE, state | {"sha256": sums})
    return out / "final"


def checkpoints(out: Path) -> list[Path]:
    """Checkpoint folders of a stage, oldest first; temporary folders start with a dot."""
    named = (path for path in out.glob("checkpoint-*") if path.is_dir())
    steps = {path: path.name.split("-")[1] for path in named}
    return sorted((p for p, n in steps.items() if n.isdecimal()), key=lambda p: int(steps[p]))


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint whose files are all there and whole."""
    return next((path for path in reversed(checkpoints(out)) if read_state(path)), None)


def read_state(folder: Path) -> dict[str, Any] | None:
    """State of a whole checkpoint or final folder, else None."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        whole = all(sha256_file(folder / n) == digest for n, digest in state["sha256"].items())
        whole = whole and {"step", "identity"} <= state.keys() and TRAINABLE in state["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return state if whole else None


def load_trainable(folder: Path, model: nn.Module) -> None:
    """Copy the saved tensors of ``folder`` into the model's trainable parameters."""
    saved = load_file(folder / TRAINABLE)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(saved[name])


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimiser's moments and step counts from ``folder``."""
    moments: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / OPTIMIZER).items():
        name, slot = key.split("|")
        moments.setdefault(name, {})[slot] = tensor
    names = _names(model)
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    blank = optimizer.state_dict()
    blank["state"] = {i: moments[name] for i, name in enumerate(order) if name in moments}
    optimizer.load_state_dict(blank)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = _names(model)
    return {
        f"{names[parameter]}|{slot}": value
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }


def _names(model: nn.Module) -> dict[nn.Parameter, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _save(tensors: dict[str, Any], path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``folder`` if the block succeeds."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    with writing(folder):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sweep(out: Path) -> None:
    """Delete what a killed run left half-written in ``out``; only the run that owns it may."""
    for path in out.glob(".*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
