"""What notebook 01 shows of a dataset: counts, the validation report, boxes, captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from alertclip.records import WHOLE_FRAME, Item, Report, box_at, region_span
from alertclip.video import probe, read_frames
from companion.profiles import Params

Loaded = Mapping[str, tuple[list[Item], Report]]
SHOWN = (240, 320)  # H, W of example frames


def items_per_class(loaded: Loaded) -> pd.DataFrame:
    """Items per class and split: columns class_name, split, items."""
    rows = [(i.class_name, split) for split, (items, _) in loaded.items() for i in items]
    return _counted(rows, ["class_name", "split"])


def report_counts(loaded: Loaded) -> pd.DataFrame:
    """Validation findings counted: columns split, reason, action, items."""
    rows = [(s, r.reason, r.action) for s, (_, report) in loaded.items() for r in report.rows]
    return _counted(rows, ["split", "reason", "action"])


def _counted(rows: Sequence[tuple], columns: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=columns)
    return table.value_counts(sort=False).rename("items").reset_index()


def save_reports(loaded: Loaded, folder: Path) -> None:
    """Write validation_<split>.csv, one row per finding."""
    for split, (_, report) in loaded.items():
        report.to_csv(folder / f"validation_{split}.csv")


def box_examples(
    P: Params, items: Sequence[Item], count: int, seed: int
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Frames in the middle of annotated events of different classes, with their boxes."""
    frames, rows = [], []
    for item in _one_per_class([i for i in items if i.is_abnormal], count, seed):
        region, path = item.regions[0], P.data_dir / item.video
        time, info = sum(region_span(region)) / 2, probe(path)
        index = info.frame_at(time)
        box = box_at(region.track, time) or WHOLE_FRAME
        rows.append((len(frames), f"{item.class_name}, {time:.1f} s", *box, region.caption, 1))
        frames.append(read_frames(path, [index], SHOWN)[0])
    columns = ["frame", "title", "x1", "y1", "x2", "y2", "caption", "label"]
    return frames, pd.DataFrame(rows, columns=columns)


def caption_examples(items: Sequence[Item], count: int, seed: int) -> pd.DataFrame:
    """Global caption, region caption and hard negatives of a few items of different classes."""
    rows = [
        (i.class_name, i.global_caption, r.caption, " | ".join(r.hard_negatives))
        for i in _one_per_class(items, count, seed)
        for r in i.regions[:1]
    ]
    return pd.DataFrame(
        rows, columns=["class", "global caption", "region caption", "hard negatives"]
    )


def _one_per_class(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    order = np.random.default_rng(seed).permutation(len(items))
    first = {items[i].class_name: items[i] for i in reversed(order)}
    return list(first.values())[:count]
