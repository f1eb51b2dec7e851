"""Disks that are full, folders that cannot be written, and files that are not what they seem."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from test_training import tiny_model
from test_video import SIZE, write_ids

from alertclip import checkpoint
from curation.__main__ import find_videos
from detectors.features import read_features
from media.cache import FrameCache, parallel_fill
from media.files import write_json

from .harness import Case, disk, refused

STOPS = "stops; nothing torn is left"
FULL, READ_ONLY = r"No space left.*make room", r"cannot be written \((Read-only|Not a dir|File ex)"


def save_stage(folder: Path, step: int = 2) -> None:
    model = tiny_model()
    optimizer = torch.optim.AdamW(checkpoint.trainable(model).values())
    checkpoint.save_checkpoint(folder, step, model, optimizer, torch.device("cpu"), 2)


def fill_cache(folder: Path) -> None:
    path = write_ids(folder.parent / "a.mp4")
    parallel_fill(FrameCache(folder, SIZE), [(path, range(40))], 1)


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": save_stage,
    "frame cache": fill_cache,
    "JSON": lambda folder: write_json(folder / "a.json", list(range(100_000))),
    "log": lambda folder: checkpoint.append_row(folder, {"row": "x" * 500_000}),
}


def write_on(options: str, write: Callable[[Path], object], folder: Path) -> str:
    """On a disk that is too small or may not be written; nothing half-written stays on it."""
    with disk(folder / "disk", options) as small:
        message = refused(write, small)
        left = [p for p in small.rglob("*") if p.is_file() and p.name != "log.jsonl"]
        assert not [p for p in left if p.parent.name != "surveys-2"], left
    return message


ONE = np.ones((3, 4), np.float32)
FEATURES: list[tuple[str, Callable[[Path], object], str]] = [
    ("of torch.save", lambda p: torch.save(torch.ones(3, 4), p), "not a readable array"),
    ("objects", lambda p: np.save(p, np.array([ONE, None], object)), "not a readable array"),
    ("of shape (T, 1, D)", lambda p: np.save(p, ONE[:, None]), r"shape \(3, 1, 4\) of float32"),
    ("whole numbers", lambda p: np.save(p, np.ones((3, 4), int)), r"shape \(3, 4\) of int64"),
    ("NaN", lambda p: np.save(p, ONE * [[1], [np.nan], [1]]), r"\(3, 4\), row 1 is not finite"),
    ("1e300", lambda p: np.save(p, np.full((3, 4), 1e300)), r"\(3, 4\), row 0 is not finite"),
]


def read_bad_features(write: Callable[[Path], object], folder: Path) -> str:
    for kind in (np.float16, np.float64):
        np.save(folder / "good.npy", ONE.astype(kind))
        assert read_features(folder / "good.npy").dtype == np.float32
    write(folder / "a.npy")
    return refused(read_features, folder / "a.npy")


def linked_clips(folder: Path) -> str:
    """Class folders on another disk, with a link to a parent in one of them."""
    (folder / "disk/Fight").mkdir(parents=True)
    (folder / "disk/Fight/a.WMV").touch()
    (folder / "disk/Fight/again").symlink_to(folder / "disk/Fight")
    (folder / "root").mkdir()
    (folder / "root/Fight").symlink_to(folder / "disk/Fight")
    (folder / "root/Normal.mp4").symlink_to(folder / "disk/Fight/a.WMV")
    return " ".join(item.video for item in find_videos(folder / "root"))


CASES = [
    *(Case(f"feature file: {given}", "refused by name", rf"a\.npy: .*{says}",
           partial(read_bad_features, write)) for given, write, says in FEATURES),
    Case("folder: links to another disk", "followed", "^Fight/a.WMV Normal.mp4$", linked_clips),
    *(Case(f"disk full: {name}", STOPS, FULL, partial(write_on, "size=64k", write))
      for name, write in WRITERS.items()),
    *(Case(f"read-only folder: {name}", "stops", READ_ONLY, partial(write_on, "ro,size=1m", write))
      for name, write in WRITERS.items()),
]  # fmt: skip
