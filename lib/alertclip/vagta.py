"""Read VAGTA exactly as published: both JSON shapes, every quirk counted."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alertclip import caption_checks
from alertclip.boxes import frame_time
from alertclip.errors import InputError
from alertclip.files import read_json
from alertclip.records import Item, Keyframe, Region, Report, item_key

__all__ = ["Item", "Keyframe", "Region", "Report", "load_surrogate", "load_vagta", "strip_prefix"]

# "Normal video:", "<Class> anomaly video:", once "Water incident: Abnormal video showing"
PREFIX = re.compile(
    r"^(?:[^:]{0,60}\bvideos?\b[^:]{0,40}:|[^:]{0,30}: abnormal video showing)\s*", re.IGNORECASE
)
SAME_TIME = 0.05  # s; segments that touch within the annotations' rounding do not overlap
Segment = tuple[float, float] | None


def load_vagta(annotations: Path, hard_negatives: Path | None = None) -> tuple[list[Item], Report]:
    """Items of a file in the test file's schema, with hard negatives from the qwen file if given.

    Negatives are matched by video, region index and timestamps. Raises InputError if a file is
    missing, malformed or not of this schema; a bad item is left out and becomes a row of the
    report, which also counts every quirk that was mended or kept.
    """
    rows = _read(annotations)
    if not isinstance(rows, list):
        raise InputError(f"{annotations}: expected a list of items as in VAGTA's test file")
    report = Report()
    negatives = _Negatives.read(hard_negatives, report) if hard_negatives else None
    items = [item for row in rows if (item := _item(row, negatives, report)) is not None]
    if negatives:
        negatives.report_unused(report)
    return _checked(items, report), report


def load_surrogate(hard_negatives: Path) -> tuple[list[Item], Report]:
    """Training items from the qwen file alone, with the flagged surrogates.

    Abnormal regions of one video form one item. Global captions are made from the first region
    caption in the style of the test file; regions keep their time span and take the whole frame
    as box. Errors and the report are those of load_vagta.
    """
    report = Report()
    groups: dict[tuple[str, Segment], list[dict]] = defaultdict(list)
    for row in _qwen_rows(hard_negatives, report):
        if not caption_checks.is_text(row.get("region_caption")):
            report.add(_row_key(row), "no region caption", "region left out")
            continue
        groups[row["video"], row["timestamps"]].append(row)
    items = [_surrogate_item(*group, rows, report) for group, rows in groups.items()]
    return _checked(items, report), report


def strip_prefix(caption: str) -> str:
    """A global caption without "Normal video:" or "<Class> abnormal video:"."""
    return PREFIX.sub("", caption)


def _item(row: Any, negatives: "_Negatives | None", report: Report) -> Item | None:
    video = caption_checks.video_path(row, report)
    if video is None:
        return None
    valid, timestamps = caption_checks.segment(video, row.get("timestamps"), report)
    key = item_key(video, timestamps)
    caption, captions, boxes = map(row.get, ("global_caption", "region_captions", "box_infos"))
    texts = [caption, *captions] if isinstance(captions, list) and captions else [None]
    if not all(map(caption_checks.is_text, texts)):
        report.add(key, "captions missing or not text", "item left out")
        return None
    if not isinstance(boxes, list) or len(boxes) != len(captions):
        report.add(key, "boxes do not match region captions", "item left out")
        return None
    if not valid:
        return None
    if not PREFIX.match(caption):
        report.add(key, "global caption without class prefix", "kept")
    caption_checks.text_findings(key, "global caption", caption, report)
    regions = []
    for index, (text, raw) in enumerate(zip(captions, boxes, strict=True)):
        caption_checks.text_findings(key, "region caption", text, report)
        found = negatives.take(key, (video, index, timestamps), text, report) if negatives else ()
        regions.append(Region(text, caption_checks.box_track(key, raw, report), found))
    item = Item(video, caption, tuple(regions), timestamps)
    if item.is_abnormal and not all(boxes):
        report.add(key, "abnormal region without boxes", "whole frame instead")
    return item


def _surrogate_item(video: str, timestamps: Segment, rows: list[dict], report: Report) -> Item:
    key = item_key(video, timestamps)
    rows = sorted(rows, key=lambda row: row["region_index"])
    if [row["region_index"] for row in rows] != list(range(len(rows))):
        report.add(key, "region indices with gaps", "kept in their order")
    regions = []
    for row in rows:
        caption = row["region_caption"]
        caption_checks.text_findings(key, "region caption", caption, report)
        found = caption_checks.clean_negatives(key, caption, row.get("hard_negative"), report)
        regions.append(Region(caption, (), found, _span(key, row.get("frames_25"), report)))
    item = Item(video, "", tuple(regions), timestamps)
    prefix = f"{item.class_name} abnormal video" if item.is_abnormal else "Normal video"
    used = ("global caption", "boxes") if item.is_abnormal else ("global caption",)
    action = "templated caption" + (", whole-frame box" if item.is_abnormal else "")
    report.add(key, "surrogate: " + " and ".join(used), action)
    return Item(video, f"{prefix}: {regions[0].caption}", tuple(regions), timestamps, used)


def _span(key: str, raw: Any, report: Report) -> Segment:
    """Seconds of ``frames_25`` = [first, last], 1-based frames of the annotation clock."""
    pair = caption_checks.number_pair(raw)
    if raw is not None and (pair is None or pair[0] < 1):
        report.add(key, "frames_25 are not two increasing frames", "whole clip instead")
    if pair is None or pair[0] < 1:
        return None
    if pair[0] == pair[1]:
        report.add(key, "region of a single frame", "kept with its nearest sampled frame")
    return frame_time(pair[0]), frame_time(pair[1])


@dataclass
class _Negatives:
    """Rows of the hard-negative file by video, region index and timestamps."""

    rows: dict[tuple[str, int, Segment], dict]
    unused: set[tuple[str, int, Segment]] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, report: Report) -> "_Negatives":
        table = {_region_id(row): row for row in _qwen_rows(path, report)}
        return cls(table, set(table))

    def take(
        self, key: str, region: tuple[str, int, Segment], caption: str, report: Report
    ) -> tuple[str, ...]:
        region = (*region[:2], _rounded(region[2]))
        row = self.rows.get(region, {"hard_negative": [], "region_caption": caption})
        self.unused.discard(region)
        if row.get("region_caption") != caption:
            report.add(key, "hard negatives written for another caption", "kept")
        return caption_checks.clean_negatives(key, caption, row.get("hard_negative"), report)

    def report_unused(self, report: Report) -> None:
        for region in sorted(self.unused, key=str):
            report.add(_row_key(self.rows[region]), "hard negatives without a region", "not used")


def _qwen_rows(path: Path, report: Report) -> Iterable[dict]:
    """Rows with a checked video, region_index and timestamps (s or None); the first of equals."""
    content = _read(path)
    rows = content.get("items") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected VAGTA's qwen file, an object with a list named items")
    seen = set()
    for row in rows:
        video = caption_checks.video_path(row, report)
        if video is None:
            continue
        valid, timestamps = caption_checks.segment(video, row.get("timestamps"), report)
        index = row.get("region_index")
        if type(index) is not int or index < 0:
            report.add(video, "region_index is not a whole number from 0", "region left out")
        elif valid:
            row = row | {"timestamps": timestamps}
            if _region_id(row) in seen:
                report.add(_row_key(row), "duplicate region", "first one kept")
            else:
                seen.add(_region_id(row))
                yield row


def _region_id(row: dict) -> tuple[str, int, Segment]:
    return row["video"], row["region_index"], _rounded(row["timestamps"])


def _row_key(row: dict) -> str:
    return f"{item_key(row['video'], row['timestamps'])} region {row['region_index']}"


def _rounded(segment: Segment) -> Segment:
    return segment and (round(segment[0], 3), round(segment[1], 3))


def _checked(items: list[Item], report: Report) -> list[Item]:
    """Items with unique keys; unusual lengths and overlaps are counted."""
    unique: dict[str, Item] = {}
    for item in items:
        if item.key in unique:
            same = "equal" if item == unique[item.key] else "different"
            report.add(item.key, f"duplicate item, {same} content", "first one kept")
        else:
            unique[item.key] = item
            caption_checks.length_findings(item.key, item.timestamps, report)
    _count_overlaps(unique.values(), report)
    return list(unique.values())


def _count_overlaps(items: Iterable[Item], report: Report) -> None:
    segments = sorted((i.video, *i.timestamps, i.key) for i in items if i.timestamps)
    last, reached = "", 0.0
    for video, start, end, key in segments:
        if video == last and start < reached - SAME_TIME:
            report.add(key, "overlaps an earlier segment", "kept")
        reached = max(reached, end) if video == last else end
        last = video


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); fetch it again") from None
