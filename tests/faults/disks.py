"""Disks that are full, folders that cannot be written, and writers killed half-way."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from test_training import tiny_model
from test_video import SIZE, write_ids

from alertclip import checkpoint
from alertclip.cache import FrameCache, parallel_fill
from alertclip.files import locked, write_json
from companion.figures import write_table

from .case import Case, refused

FULL, READ_ONLY = r"No space left.*make room", r"cannot be written \((Read-only|Not a dir|File ex)"


def save_stage(folder: Path, step: int = 2) -> None:
    """A checkpoint of the tiny model."""
    model = tiny_model()
    optimizer = torch.optim.AdamW(checkpoint.trainable(model).values())
    checkpoint.save_checkpoint(folder, step, model, optimizer, torch.device("cpu"), 2)


def fill_cache(folder: Path) -> None:
    """Decode a clip into a frame cache."""
    path = write_ids(folder.parent / "a.mp4")
    parallel_fill(FrameCache(folder, SIZE), [(path, range(40))], 1)


def save_notebook(folder: Path) -> None:
    """An executed notebook of half a megabyte."""
    from alertclip.files import atomic_write

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text " * 100_000)])
    with atomic_write(folder / "notebook.ipynb") as temporary:
        nbformat.write(book, temporary)


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": save_stage,
    "frame cache": fill_cache,
    "CSV": lambda folder: write_table(pd.DataFrame({"x": np.arange(1e5)}), folder / "a.csv"),
    "JSON": lambda folder: write_json(folder / "a.json", list(range(100_000))),
    "notebook": save_notebook,
    "log": lambda folder: checkpoint.append_row(folder, {"row": "x" * 500_000}),
}


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own; needs the right to mount, else the test is skipped."""
    folder.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(call, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(name: str, write: Callable[[Path], object]) -> Case:
    """A disk of 64 kB; nothing half-written stays on it."""

    def run(folder: Path) -> str:
        with disk(folder / "disk", "size=64k") as small:
            message = refused(write, small)
            left = [p for p in small.rglob("*") if p.is_file() and p.name != "log.jsonl"]
            assert not [p for p in left if p.parent.name != "videos"], left
        return message

    return Case(f"disk full: {name}", "stops; nothing torn is left", FULL, run)


def read_only(name: str, write: Callable[[Path], object]) -> Case:
    """A disk that may not be written."""

    def run(folder: Path) -> str:
        with disk(folder / "disk", "ro,size=1m") as small:
            return refused(write, small)

    return Case(f"read-only folder: {name}", "stops", READ_ONLY, run)


def in_the_way(folder: Path) -> str:
    """A file where the run's folder should be."""
    (folder / "runs").touch()
    return refused(write_json, folder / "runs/params.json", {})


def second_run(folder: Path) -> str:
    """Two runs of one folder at once."""
    with locked(folder / ".lock", wait=False):
        return refused(locked(folder / ".lock", wait=False).__enter__)


CASES = [
    *(full_disk(name, write) for name, write in WRITERS.items()),
    *(read_only(name, write) for name, write in WRITERS.items()),
    Case("read-only folder: a file in its place", "stops", READ_ONLY, in_the_way),
    Case("two runs at once in one folder", "the second stops", "another run is at", second_run),
]


def forked(work: Callable[..., object], *args: object, **options: object) -> BaseProcess:
    """``work(*args, **options)`` in a process that has imported everything already."""

    def alone() -> None:
        torch.set_num_threads(1)  # the fork has no threads of the pool, and would wait for them
        work(*args, **options)

    child = get_context("fork").Process(target=alone, daemon=True)
    child.start()
    return child


def killed(folder: Path, module: object, name: str, write: Callable[[Path], object]) -> None:
    """``write(folder)`` in a process that is killed when ``module.name`` has written half."""
    original = getattr(module, name)

    def half(*args: object, **options: object) -> None:
        original(*args, **options)
        path = next(Path(a) for a in args if isinstance(a, str | Path))
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        setattr(module, name, half)
        write(folder)

    child = forked(work)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
