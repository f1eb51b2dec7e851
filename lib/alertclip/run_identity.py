"""What decides the result of a stage, and what to do with a folder of another result."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from alertclip import distributed
from alertclip.checkpoint import STATE, checkpoints, read_state, sweep, trainable
from alertclip.files import locked, sha256_json
from alertclip.stage_settings import StageSettings

# They change what is written, not what is learned: a resume may alter them.
BOOKKEEPING = ("save_steps", "save_limit", "validate_steps")


def run_identity(
    model: nn.Module,
    settings: StageSettings,
    *,
    seed: int,
    items: int,
    regions: bool,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that decides the result of a stage: equal identities may share checkpoints."""
    learned = {k: v for k, v in settings.as_dict().items() if k not in BOOKKEEPING}
    run = {"seed": seed, "items": items, "regions": regions}
    weights = {"trainable": sha256_json(sorted(trainable(model))), "initial": weights_hash(model)}
    return learned | run | weights | dict(provenance)


def weights_hash(model: nn.Module) -> str:
    """Hexadecimal SHA-256 of all of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def claimed(out: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Own the folder ``out`` for the length of the block, as the folder of this run.

    Raises InputError if another run is at work there, or if the processes of this one differ.
    """
    distributed.require_equal(identity, "settings, data or weights")
    if distributed.rank() > 0:
        distributed.barrier()
        yield
        return
    with locked(out.with_name(f".{out.name}.lock"), wait=False):
        claim_folder(out, identity)
        sweep(out)
        distributed.barrier()
        yield


def claim_folder(out: Path, identity: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of this run: one of another run is renamed, never overwritten.

    A reader who changes a parameter and comes back finds the first result again, under its name.
    """
    found = _found(out)
    if found == identity:
        return
    if found is not None:
        aside = _aside(out, found)
        if aside.exists():  # an older, shorter copy of the same run
            shutil.rmtree(aside)
        out.rename(aside)
        changed = [n for n in sorted(found.keys() | identity) if found.get(n) != identity.get(n)]
        print(f"{out.name}: {', '.join(changed)} changed; the former run is kept as {aside.name}")
    if _found(_aside(out, identity)) == identity:
        if out.exists():  # begun and stopped before its first checkpoint: nothing is lost
            shutil.rmtree(out)
        _aside(out, identity).rename(out)
    out.mkdir(parents=True, exist_ok=True)


def _found(out: Path) -> dict[str, Any] | None:
    folders = [out / "final", *reversed(checkpoints(out))]
    states = (read_state(folder) for folder in folders if (folder / STATE).exists())
    return next((state["identity"] for state in states if state), None)


def _aside(out: Path, identity: Mapping[str, Any]) -> Path:
    return out.with_name(f"{out.name}-{sha256_json(identity)[:8]}")
