"""Read VAGTA as published: both JSON schemas, with every quirk reported."""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from alertclip.records import (
    Box,
    Item,
    Keyframe,
    Region,
    Report,
    clean_negatives,
    count_text,
    frame_time,
    is_text,
    item_key,
)
from media.errors import InputError
from media.files import read_json

# "Normal video:", "<Class> anomaly video:", once "Water incident: Abnormal video showing"
PREFIX = re.compile(
    r"^(?:[^:]{0,60}\bvideos?\b[^:]{0,40}:|[^:]{0,30}: abnormal video showing)\s*", re.IGNORECASE
)
SHORT, LONG = 1.0, 1800.0  # s; segments outside are kept and reported
SAME_TIME = 0.05  # s; segments that touch within the annotations' rounding do not overlap
ROUNDING = 0.01  # share of the frame by which a box may leave it; VAGTA's do by 1e-14
Segment = tuple[float, float] | None


def load_vagta(annotations: Path, hard_negatives: Path | None = None) -> tuple[list[Item], Report]:
    """Items of a file in the test file's schema, with hard negatives from the qwen file if given.

    Negatives are matched by video, region index and timestamps. The report has a row for every
    quirk and every bad item, which is left out. Raises InputError on a file of another schema.
    """
    rows = read_json(annotations)
    if not isinstance(rows, list):
        raise InputError(f"{annotations}: expected a list of items as in VAGTA's test file")
    report, negatives = Report(), None
    if hard_negatives:
        negatives = {_region_key(row): row for row in _qwen_rows(hard_negatives, report)}
    items = [i for row in rows if (i := _item(row, negatives, report)) is not None]
    for region in sorted(negatives or ()):
        report.add(region, "hard negatives without a region", "not used")
    return _unique(items, report), report


def load_surrogate(hard_negatives: Path) -> tuple[list[Item], Report]:
    """Training items from the qwen file alone; ``Item.surrogate`` names the substituted parts.

    The regions of a clip form one item. Its global caption is the first region caption with the
    prefix of the test file; regions keep their time span, with the whole frame as box. Errors and
    report as in ``load_vagta``.
    """
    report = Report()
    groups: dict[tuple[str, Segment], list[dict]] = defaultdict(list)
    for row in _qwen_rows(hard_negatives, report):
        if is_text(row.get("region_caption")):
            groups[row["video"], row["timestamps"]].append(row)
        else:
            report.add(_region_key(row), "no region caption", "region left out")
    items = [_surrogate_item(*group, rows, report) for group, rows in groups.items()]
    return _unique(items, report), report


def strip_prefix(caption: str) -> str:
    """A global caption without "Normal video:" or "<Class> abnormal video:"."""
    return PREFIX.sub("", caption)


def _item(row: Any, negatives: dict[str, dict] | None, report: Report) -> Item | None:
    if (clip := _clip(row, report)) is None:
        return None
    key = item_key(*clip)
    caption, captions, boxes = map(row.get, ("global_caption", "region_captions", "box_infos"))
    texts = [caption, *captions] if isinstance(captions, list) and captions else [None]
    if not all(map(is_text, texts)):
        report.add(key, "captions missing or not text", "item left out")
        return None
    if not isinstance(boxes, list) or len(boxes) != len(captions):
        report.add(key, "boxes do not match region captions", "item left out")
        return None
    if not PREFIX.match(caption):
        report.add(key, "global caption without class prefix", "kept")
    count_text(key, "global caption", caption, report)
    regions = []
    for index, (text, raw) in enumerate(zip(captions, boxes, strict=True)):
        count_text(key, "region caption", text, report)
        hard_negatives: tuple[str, ...] = ()
        if negatives is not None:
            empty = {"hard_negative": [], "region_caption": text}
            match = negatives.pop(_region_name(*clip, index), empty)
            if match.get("region_caption") != text:
                report.add(key, "hard negatives written for another caption", "kept")
            hard_negatives = clean_negatives(key, text, match.get("hard_negative"), report)
        regions.append(Region(text, _track(key, raw, report), hard_negatives))
    item = Item(clip[0], caption, tuple(regions), clip[1])
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
        count_text(key, "region caption", caption, report)
        negatives = clean_negatives(key, caption, row.get("hard_negative"), report)
        regions.append(Region(caption, (), negatives, _span(key, row.get("frames_25"), report)))
    item = Item(video, "", tuple(regions), timestamps)
    prefix = f"{item.class_name} abnormal video" if item.is_abnormal else "Normal video"
    surrogate = ("global caption", "boxes") if item.is_abnormal else ("global caption",)
    action = "templated caption" + (", whole-frame box" if item.is_abnormal else "")
    report.add(key, "surrogate: " + " and ".join(surrogate), action)
    return Item(video, f"{prefix}: {regions[0].caption}", tuple(regions), timestamps, surrogate)


def _qwen_rows(path: Path, report: Report) -> Iterable[dict]:
    """Rows with valid video, region_index and timestamps (s or None); of duplicates the first."""
    content = read_json(path)
    rows = content.get("items") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected VAGTA's qwen file, an object with a list named items")
    seen = set()
    for row in rows:
        if (clip := _clip(row, report)) is None:
            continue
        index = row.get("region_index")
        if type(index) is not int or index < 0:
            report.add(clip[0], "region_index is not a whole number from 0", "region left out")
            continue
        row = row | {"timestamps": clip[1]}
        if (key := _region_key(row)) in seen:
            report.add(key, "duplicate region", "first one kept")
        else:
            seen.add(key)
            yield row


def _region_key(row: dict) -> str:
    return _region_name(row["video"], row["timestamps"], row["region_index"])


def _region_name(video: str, segment: Segment, index: int) -> str:
    """Name that matches a region between the two files; times rounded to a millisecond."""
    segment = segment and (round(segment[0], 3), round(segment[1], 3))
    return f"{item_key(video, segment)} region {index}"


def _unique(items: list[Item], report: Report) -> list[Item]:
    """Items with unique keys; unusual lengths and overlaps are reported."""
    unique: dict[str, Item] = {}
    for item in items:
        if item.key in unique:
            content = "equal" if item == unique[item.key] else "different"
            report.add(item.key, f"duplicate item, {content} content", "first one kept")
            continue
        unique[item.key] = item
        length = item.timestamps[1] - item.timestamps[0] if item.timestamps else SHORT
        if not SHORT <= length <= LONG:
            limit = f"shorter than {SHORT:g}" if length < SHORT else f"longer than {LONG:g}"
            report.add(item.key, f"segment {limit} s", "kept")
    latest_end: dict[str, float] = {}
    segments = sorted((i.video, *i.timestamps, key) for key, i in unique.items() if i.timestamps)
    for video, start, end, key in segments:
        if start < latest_end.get(video, start) - SAME_TIME:
            report.add(key, "overlaps an earlier segment", "kept")
        latest_end[video] = max(end, latest_end.get(video, end))
    return list(unique.values())


def _number(value: Any) -> float | None:
    """A finite JSON number as float, else None; true and "1" are not numbers."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None


def _ordered_pair(raw: Any) -> Segment:
    """Two non-negative numbers in order; else None."""
    pair = tuple(map(_number, raw)) if isinstance(raw, list) else ()
    return pair if len(pair) == 2 and None not in pair and 0 <= pair[0] <= pair[1] else None


def _clip(row: Any, report: Report) -> tuple[str, Segment] | None:
    """Video path, below the data root, and segment (s) of a row; no segment: the whole video.

    An invalid row is reported and gives None.
    """
    video = row.get("video") if isinstance(row, dict) else None
    if not is_text(video) or not video.isprintable():
        report.add(ascii(row)[:80], "no video path", "item left out")
        return None
    path = PurePosixPath(video)
    if path.is_absolute() or ".." in path.parts or "\\" in video or not path.name:
        report.add(video, "path leaves the data root", "item left out")
        return None
    raw = row.get("timestamps")
    pair = _ordered_pair(raw)
    if raw is not None and (pair is None or pair[0] == pair[1]):
        report.add(video, "timestamps are not two increasing seconds", "item left out")
        return None
    return video, pair


def _span(key: str, raw: Any, report: Report) -> Segment:
    """Seconds of ``frames_25`` = [first, last], 1-based frames of the annotation clock."""
    pair = _ordered_pair(raw)
    if pair is None or pair[0] < 1:
        if raw is not None:
            report.add(key, "frames_25 are not two increasing frames", "whole clip instead")
        return None
    if pair[0] == pair[1]:
        report.add(key, "region of a single frame", "kept with its nearest sampled frame")
    return frame_time(pair[0]), frame_time(pair[1])


def _track(key: str, raw: Any, report: Report) -> tuple[Keyframe, ...]:
    """Keyframes in order of time; (), the whole frame, without a readable track."""
    if not raw:
        return ()
    try:
        keyframes = [_keyframe(key, k, report) for k in raw]
    except (TypeError, KeyError, ValueError) as error:
        report.add(key, f"bad box: {error}", "track dropped, whole frame instead")
        return ()
    if any(a.frame >= b.frame for a, b in zip(keyframes, keyframes[1:], strict=False)):
        report.add(key, "keyframes not increasing", "sorted, last of equal frames kept")
        keyframes = sorted({k.frame: k for k in keyframes}.values(), key=lambda k: k.frame)
    if len(keyframes) == 1:
        report.add(key, "track with a single keyframe", "short window around it")
    if keyframes[-1].enabled:
        report.add(key, "last keyframe enabled", "box ends there")
    return tuple(keyframes)


def _keyframe(key: str, raw: Any, report: Report) -> Keyframe:
    if not isinstance(raw, dict) or not {"frame", "bbox", "enabled"} <= raw.keys():
        raise ValueError("a keyframe needs frame, bbox and enabled")
    frame = _number(raw["frame"])
    if frame is None or frame < 1 or frame != int(frame) or not isinstance(raw["enabled"], bool):
        raise ValueError("frame is not a whole number from 1, or enabled not true or false")
    return Keyframe(int(frame), _box(key, raw["bbox"], report), raw["enabled"])


def _box(key: str, raw: Any, report: Report) -> Box:
    corners = tuple(_number(x) for x in raw) if isinstance(raw, list) else ()
    if len(corners) != 4 or None in corners:
        raise ValueError("not four finite numbers")
    clamped = tuple(min(1.0, max(0.0, x)) for x in corners)
    if max(abs(a - b) for a, b in zip(corners, clamped, strict=True)) > ROUNDING:
        raise ValueError("outside the frame (pixels instead of shares?)")
    if not (clamped[0] < clamped[2] and clamped[1] < clamped[3]):
        raise ValueError("inverted or empty")
    if clamped != corners:
        report.add(key, "box beyond the frame by rounding", "clamped")
    return clamped
