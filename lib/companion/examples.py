"""Counts, boxes, captions and a few clips of a dataset, for notebooks 01, 03 and 04."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alertclip.clips import ClipDataset
from alertclip.records import WHOLE_FRAME, Item, Report, box_at, region_span
from companion.figures.images import CORNERS
from companion.profiles import Params
from companion.splits import load_split, prepare_data
from media.cache import FrameCache
from media.video import read_frames

Loaded = Mapping[str, tuple[list[Item], Report]]
SHOWN = (240, 320)  # H, W of example frames
MOST_FRAMES = 8  # per clip: a batch with gradients fits into little memory


def items_per_class(loaded: Loaded) -> pd.DataFrame:
    """Items per class and split: columns class_name, split, items."""
    rows = [(i.class_name, split) for split, (items, _) in loaded.items() for i in items]
    table = pd.DataFrame(rows, columns=["class_name", "split"])
    return table.value_counts(sort=False).reset_index(name="items")


def report_counts(loaded: Loaded) -> pd.DataFrame:
    """Number of validation findings: columns split, reason, action, items."""
    rows = [(s, r.reason, r.action) for s, (_, report) in loaded.items() for r in report.rows]
    table = pd.DataFrame(rows, columns=["split", "reason", "action"])
    return table.value_counts(sort=False).reset_index(name="items")


def box_examples(
    P: Params, items: Sequence[Item], count: int, seed: int
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Middle frames of ``count`` annotated events of different classes, with their boxes."""
    frames, rows = [], []
    for item in _one_per_class([i for i in items if i.is_abnormal], count, seed):
        region, path = item.regions[0], P.data_dir / item.video
        info = FrameCache(P.cache_dir, SHOWN).info(path)
        time = sum(region_span(region) or item.timestamps or (0, info.duration)) / 2
        index = info.frame_at(time)
        box = box_at(region.track, time) or WHOLE_FRAME
        rows.append((len(frames), f"{item.class_name}, {time:.1f} s", *box, region.caption, 1))
        frames.append(read_frames(path, [index], SHOWN)[0])
    columns = ["frame", "title", "x1", "y1", "x2", "y2", "caption", "label"]
    return frames, pd.DataFrame(rows, columns=columns)


def caption_examples(items: Sequence[Item], count: int, seed: int) -> pd.DataFrame:
    """Global caption, region caption and hard negatives of ``count`` items of different classes."""
    return pd.DataFrame(
        {
            "class": item.class_name,
            "global caption": item.global_caption,
            "region caption": item.regions[0].caption,
            "hard negatives": " | ".join(item.regions[0].hard_negatives),
        }
        for item in _one_per_class([i for i in items if i.regions], count, seed)
    )


def _one_per_class(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    order = np.random.default_rng(seed).permutation(len(items))
    first = {items[i].class_name: items[i] for i in reversed(order)}
    return list(first.values())[:count]


def twin_clips(P: Params, image_size: tuple[int, int], pairs: int = 4) -> list[dict[str, Any]]:
    """Training samples in pairs: an everyday event, then the abnormal clip most like it.

    One pair per class, easiest first, without regions that no sampled frame shows. The mini world
    renders twins from one seed; other data pair an abnormal clip with any normal one.
    """
    prepare_data(P)
    chosen = pairs_of(load_split(P, "train")[0], P.data_dir / "clips.csv")[:pairs]
    items = [item for pair in chosen for item in pair]
    frames, cache = min(MOST_FRAMES, P.data.num_frames), FrameCache(P.cache_dir, image_size)
    clips = ClipDataset(P.data_dir, items, frames, cache, P.workers, True, P.data.frame_spacing)
    samples = map(clips.__getitem__, range(len(clips)))
    return [s | {"regions": [r for r in s["regions"] if r[1].any()]} for s in samples]


def pairs_of(items: list[Item], world: Path) -> list[tuple[Item, Item]]:
    """(normal, abnormal) items, one pair per class; ``world``: clips.csv of the mini world."""
    normal = [item for item in items if not item.is_abnormal]
    abnormal = [item for item in items if item.is_abnormal]
    boxed = [i for i in abnormal if any(r.track for r in i.regions)] or abnormal
    twin_of: dict[str, Item] = {}
    if world.is_file():
        clips = pd.read_csv(world).set_index("video")
        of_seed = {clips.loc[item.video, "seed"]: item for item in normal}
        twin_of = {i.key: of_seed[clips.loc[i.video, "seed"]] for i in boxed}
        boxed.sort(key=lambda i: clips.loc[i.video, ["distance", "night", "occlusion"]].sum())
    easiest = {item.class_name: item for item in reversed(boxed)}
    pairs = enumerate(sorted(easiest.values(), key=boxed.index))
    return [(twin_of.get(item.key, normal[n % len(normal)]), item) for n, item in pairs]


def frames_and_boxes(clips: Sequence[dict[str, Any]]) -> tuple[np.ndarray, pd.DataFrame]:
    """Frames (N, T, H, W, 3) of samples, and the table that `figures.images.twin_frames` draws."""
    tables = []
    for n, clip in enumerate(clips):
        columns = {"clip": n, "caption": clip["global_caption"], "label": clip["label"]}
        for boxes, mask, *_ in clip["regions"]:
            table = pd.DataFrame(np.where(mask[:, None], boxes, np.nan), columns=CORNERS)
            table.insert(0, "frame", range(len(table)))
            tables.append(pd.DataFrame(columns, table.index).join(table))
    return np.stack([clip["frames"] for clip in clips]), pd.concat(tables, ignore_index=True)


def similarity_table(similarity: Mapping[str, np.ndarray], captions: Sequence[str]) -> pd.DataFrame:
    """Similarity matrices (B, B) by model, as the table that `batch_similarity` draws."""
    return pd.DataFrame(
        {"model": model, "clip": i + 1, "caption": j + 1, "text": captions[i], "cosine": float(x)}
        for model, matrix in similarity.items()
        for (i, j), x in np.ndenumerate(matrix)
    )
