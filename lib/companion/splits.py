"""Clips of a profile's splits: the one place that knows which files a profile reads.

The mini world is rendered on first use; real data are only checked, never downloaded. After that,
both are read in the same way.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

import miniworld
from alertclip.clips import ClipDataset
from alertclip.records import Item, Region, Report
from alertclip.vagta import load_surrogate, load_vagta, strip_prefix
from companion.profiles import Params
from companion.sources import missing_data
from media.cache import FrameCache
from media.errors import InputError

Split = Literal["train", "dev", "test"]


def prepare_data(P: Params) -> Path:
    """Render the mini world if needed, or check the real data; return the data root."""
    if P.data.world == "miniworld":
        world, sizes = P.world, (P.world.train, P.world.dev, P.world.test)
        miniworld.generate(P.data_dir, *sizes, world.style, world.seed, max(1, P.workers))
    if missing := missing_data(P):
        raise InputError("\n- ".join([f"profile {P.profile} lacks data:", *map(str, missing)]))
    return P.data_dir


def load_split(P: Params, split: Split) -> tuple[list[Item], Report]:
    """Items of a split, and the validation report of the files they came from.

    dev is a file of its own if the profile names one, else a share of the training videos; train
    is then the rest, so the two never share a video.
    """
    if split == "test":
        items, report = _read(load_vagta, P, P.data.annotations_test, P.data.hard_negatives_test)
        return drawn(items, P), report
    if split == "dev" and P.data.annotations_dev:
        return _read(load_vagta, P, P.data.annotations_dev)
    negatives = P.data.hard_negatives_train
    if is_surrogate(P):
        items, report = _read(load_surrogate, P, negatives)
    else:
        has_negatives = (P.data_dir / negatives).is_file()
        names = [P.data.annotations_train, negatives if has_negatives else ""]
        items, report = _read(load_vagta, P, *names)
    items = drawn(items, P)
    if P.data.strip_class_prefix:
        items = [replace(i, global_caption=strip_prefix(i.global_caption)) for i in items]
    if P.data.region_negatives == "standard":
        items = standard_negatives(items, P.seed)
    if P.data.annotations_dev:
        return items, report
    train, validation = split_validation(items, P.data.validation_fraction, P.seed)
    return (train if split == "train" else validation), report


def drawn(items: list[Item], P: Params) -> list[Item]:
    """All items or, in a rehearsal, a draw by seed with at most half from each label."""
    if not (count := P.rehearsal.clips):
        return items
    order = np.random.default_rng(P.seed).permutation(len(items))
    labels = ([i for i in order if items[i].is_abnormal == label] for label in (True, False))
    return [items[i] for i in sorted(i for part in labels for i in part[: count // 2])]


def split_validation(
    items: Sequence[Item], fraction: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Training and validation items: whole videos, the same share of each class, by ``seed``.

    A class with two or more videos is in both; a single video stays in training.
    """
    by_class: dict[str, list[str]] = defaultdict(list)
    for item in items:
        by_class[item.class_name].append(item.video)
    held_out: set[str] = set()
    for name, all_videos in sorted(by_class.items()):
        videos = sorted(set(all_videos))
        count = min(max(1, round(fraction * len(videos))), len(videos) - 1)
        order = np.random.default_rng([seed, *name.encode()]).permutation(len(videos))
        held_out |= {videos[i] for i in order[:count]}
    train = [item for item in items if item.video not in held_out]
    return train, [item for item in items if item.video in held_out]


def standard_negatives(items: list[Item], seed: int) -> list[Item]:
    """The items with hard negatives replaced by other regions' captions, drawn by seed."""
    rng = np.random.default_rng(seed)
    captions = sorted({region.caption for item in items for region in item.regions})
    if len(captions) < 2:
        raise InputError("region_negatives: standard needs regions with different captions")

    def with_random_captions(region: Region) -> Region:
        others = rng.permutation(len(captions))[: len(region.hard_negatives) + 1]
        kept = [captions[i] for i in others if captions[i] != region.caption]
        return replace(region, hard_negatives=tuple(kept[: len(region.hard_negatives)]))

    return [replace(item, regions=tuple(map(with_random_captions, item.regions))) for item in items]


def require_disjoint(P: Params) -> None:
    """Raise InputError naming a video that appears in two of train, dev and test."""
    owner: dict[str, Split] = {}
    for split in ("train", "dev", "test"):
        for video in {item.video for item in load_split(P, split)[0]}:
            if owner.setdefault(video, split) != split:
                raise InputError(f"{video} is in both {owner[video]} and {split}: keep it in one")


def is_surrogate(P: Params) -> bool:
    """Whether hard-negative texts stand in for missing training captions."""
    return P.data.world == "vagta" and not (P.data_dir / P.data.annotations_train).is_file()


def clip_dataset(P: Params, split: Split, image_size: tuple[int, int]) -> ClipDataset:
    """Clips of a split at ``image_size`` (H, W), decoded through the shared frame cache.

    Unreadable and repaired clips are listed in the run's videos/<split>.csv.
    """
    items, _ = load_split(P, split)
    frames = FrameCache(P.cache_dir, image_size)
    cover = split == "train"  # every region is seen; evaluation must not know where to look
    sampling = P.data.num_frames, frames, P.workers, cover, P.data.frame_spacing
    dataset = ClipDataset(P.data_dir, items, *sampling)
    Report([*dataset.failures, *dataset.notes]).to_csv(P.run_dir / "videos" / f"{split}.csv")
    return dataset


def _read(loader: Callable, P: Params, *names: str) -> tuple[list[Item], Report]:
    """Items and report that ``loader`` reads from annotation files; cached until a file changes."""
    files = tuple(P.data_dir / name for name in names if name)
    return _parsed(loader, files, tuple(f.stat().st_mtime_ns for f in files if f.is_file()))


@cache
def _parsed(loader: Callable, files: tuple[Path, ...], _: tuple) -> tuple[list[Item], Report]:
    return loader(*files)
