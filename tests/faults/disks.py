"""Disks that are full, and folders that cannot be written."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch
from test_training import tiny_model
from test_video import SIZE, write_ids

from alertclip import checkpoint
from alertclip.cache import FrameCache, parallel_fill
from alertclip.files import atomic_write, locked, write_json
from companion.figures import write_table

from .harness import Case, disk, refused

FULL, READ_ONLY = r"No space left.*make room", r"cannot be written \((Read-only|Not a dir|File ex)"


def save_stage(folder: Path, step: int = 2) -> None:
    """A checkpoint of the tiny model."""
    model = tiny_model()
    optimizer = torch.optim.AdamW(checkpoint.trainable(model).values())
    checkpoint.save_checkpoint(folder, step, model, optimizer, torch.device("cpu"), 2)


def save_table(folder: Path) -> None:
    """A table of half a megabyte."""
    write_table(pd.DataFrame({"x": np.arange(1e5)}), folder / "a.csv")


def save_notebook(folder: Path) -> None:
    """A notebook of half a megabyte."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text " * 100_000)])
    with atomic_write(folder / "notebook.ipynb") as temporary:
        nbformat.write(book, temporary)


def fill_cache(folder: Path) -> None:
    """Decode a clip into a frame cache."""
    path = write_ids(folder.parent / "a.mp4")
    parallel_fill(FrameCache(folder, SIZE), [(path, range(40))], 1)


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": save_stage,
    "frame cache": fill_cache,
    "CSV": save_table,
    "JSON": lambda folder: write_json(folder / "a.json", list(range(100_000))),
    "notebook": save_notebook,
    "log": lambda folder: checkpoint.append_row(folder, {"row": "x" * 500_000}),
}


def full_disk(name: str, write: Callable[[Path], object]) -> Case:
    """A disk of 64 kB; nothing half-written stays on it."""

    def run(folder: Path) -> str:
        with disk(folder / "disk", "size=64k") as small:
            message = refused(write, small)
            left = [p for p in small.rglob("*") if p.is_file() and p.name != "log.jsonl"]
            assert not [p for p in left if p.parent.name != "surveys"], left
        return message

    return Case(f"disk full: {name}", "stops; nothing torn is left", FULL, run)


def read_only(name: str, write: Callable[[Path], object]) -> Case:
    """A disk that may not be written."""

    def run(folder: Path) -> str:
        with disk(folder / "disk", "ro,size=1m") as small:
            return refused(write, small)

    return Case(f"read-only folder: {name}", "stops", READ_ONLY, run)


def second_run(folder: Path) -> str:
    """Two runs of one folder at once."""
    with locked(folder / ".lock", wait=False):
        return refused(locked(folder / ".lock", wait=False).__enter__)


CASES = [
    *(full_disk(*writer) for writer in WRITERS.items()),
    *(read_only(*writer) for writer in WRITERS.items()),
    Case("two runs at once in one folder", "the second stops", "another run is at", second_run),
]
