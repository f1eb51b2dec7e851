"""What notebook 01 shows of a data set: counts, the validation report, boxes, captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from alertclip.boxes import box_at, region_span
from alertclip.vagta import Item, Report
from alertclip.video import probe, read_frames
from companion.profiles import Params

Loaded = Mapping[str, tuple[list[Item], Report]]
SHOWN = (240, 320)  # H, W of example frames


def items_per_class(loaded: Loaded) -> pd.DataFrame:
    """Items per class and split: columns class_name, split, items."""
    rows = [(i.class_name, split) for split, (items, _) in loaded.items() for i in items]
    table = pd.DataFrame(rows, columns=["class_name", "split"])
    return table.value_counts(sort=False).rename("items").reset_index()


def report_counts(loaded: Loaded) -> pd.DataFrame:
    """Validation findings counted: columns split, reason, action, items."""
    rows = [
        {"split": split, "reason": row.reason, "action": row.action}
        for split, (_, report) in loaded.items()
        for row in report.rows
    ]
    table = pd.DataFrame(rows, columns=["split", "reason", "action"])
    return table.value_counts(sort=False).rename("items").reset_index()


def save_reports(loaded: Loaded, folder: Path) -> None:
    """Write validation_<split>.csv, one row per finding."""
    for split, (_, report) in loaded.items():
        report.to_csv(folder / f"validation_{split}.csv")


def box_examples(
    P: Params, items: Sequence[Item], count: int, seed: int
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Frames in the middle of annotated events, one class after the other, with their boxes."""
    chosen = _one_per_class([i for i in items if i.is_abnormal], count, seed)
    frames, rows = [], []
    for number, item in enumerate(chosen):
        region = item.regions[0]
        start, end = region_span(region)
        path = P.data_dir / item.video
        time = (start + end) / 2
        info = probe(path)
        index = min(round(time * info.fps), info.frames - 1)
        frames.append(read_frames(path, [index], SHOWN)[0])
        box = box_at(region.track, time) or (0.0, 0.0, 1.0, 1.0)
        rows.append(
            {"frame": number, "title": f"{item.class_name}, {time:.1f} s"}
            | dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
            | {"caption": region.caption, "label": 1}
        )
    return frames, pd.DataFrame(rows)


def caption_examples(items: Sequence[Item], count: int, seed: int) -> pd.DataFrame:
    """Global caption, region caption and hard negatives of a few items of different classes."""
    rows = [
        {
            "class": item.class_name,
            "global caption": item.global_caption,
            "region caption": item.regions[0].caption,
            "hard negatives": " | ".join(item.regions[0].hard_negatives),
        }
        for item in _one_per_class(items, count, seed)
    ]
    return pd.DataFrame(rows)


def _one_per_class(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    order = np.random.default_rng(seed).permutation(len(items))
    shuffled = [items[i] for i in order]
    first = {item.class_name: item for item in reversed(shuffled)}
    return list(first.values())[:count]
