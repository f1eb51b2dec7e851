"""Read VAGTA exactly as published: both JSON shapes, every quirk counted (protocols 1.2-1.6)."""

import math
import re
from collections import defaultdict
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from alertclip.data.records import Item, Keyframe, Region, Report
from alertclip.errors import InputError
from alertclip.files import read_json

__all__ = ["Item", "Keyframe", "Region", "Report", "load_surrogate", "load_vagta", "strip_prefix"]

MAX_TOKENS = 20  # the contract of the hard-negative prompts (supplementary A.4)
PREFIX = re.compile(r"^[^:]{0,60}\bvideo\b[^:]{0,40}:\s*", re.IGNORECASE)
Negatives = dict[tuple[Any, ...], tuple[str, ...]]


def load_vagta(annotations: Path, hard_negatives: Path | None = None) -> tuple[list[Item], Report]:
    """Items of a file in the test file's schema, with hard negatives from the qwen file if given.

    Negatives are matched by video and region index, for segments also by timestamps. Raises
    InputError if a file is missing or is not of this schema; bad items become rows of the report.
    """
    rows = read_json(annotations)
    if not isinstance(rows, list):
        raise InputError(f"{annotations}: expected a list of items as in VAGTA's test file")
    report = Report()
    negatives = _negatives_by_region(hard_negatives, report) if hard_negatives else {}
    items = [i for row in rows if (i := _item(row, negatives, report)) is not None]
    _count_duplicates(items, report)
    return items, report


def load_surrogate(hard_negatives: Path) -> tuple[list[Item], Report]:
    """Training items from the qwen file alone, with the flagged surrogates of protocols 1.6.

    Global captions are templated from region captions in the style of the test file; regions keep
    their time span and take the whole frame as box.
    """
    report, groups = Report(), defaultdict(list)
    for row in _qwen_rows(hard_negatives):
        key = _video(row, report)
        if key and isinstance(row.get("region_caption"), str):
            groups[key, _pair(row.get("timestamps"))].append(row)
        elif key:
            report.add(key, "no region caption", "item left out")
    items = [_surrogate_item(*key, rows, report) for key, rows in groups.items()]
    return items, report


def strip_prefix(caption: str) -> str:
    """A global caption without "Normal video:" or "<Class> abnormal video:"."""
    return PREFIX.sub("", caption)


def _surrogate_item(
    video: str, timestamps: tuple[float, float] | None, rows: list[dict], report: Report
) -> Item:
    rows = sorted(rows, key=lambda row: row.get("region_index") or 0)
    regions = []
    for row in rows:
        frames = _pair(row.get("frames_25"))
        span = None if frames is None else ((frames[0] - 1) / 25.0, (frames[1] - 1) / 25.0)
        if span and span[0] == span[1]:
            report.add(video, "region of a single frame", "kept with its nearest sampled frame")
        caption = row["region_caption"]
        negatives = _clean_negatives(video, caption, row.get("hard_negative"), report)
        regions.append(Region(caption, (), negatives, span))
    item = Item(video, "", tuple(regions), timestamps)
    prefix = f"{item.class_name} abnormal video" if item.is_abnormal else "Normal video"
    used = ("global caption", "boxes") if item.is_abnormal else ("global caption",)
    report.add(item.key, "surrogate: " + " and ".join(used), "templated caption, whole-frame box")
    return Item(video, f"{prefix}: {regions[0].caption}", tuple(regions), timestamps, used)


def _item(row: Any, negatives: Negatives, report: Report) -> Item | None:
    video = _video(row, report)
    if video is None:
        return None
    captions, boxes = row.get("region_captions"), row.get("box_infos")
    caption = row.get("global_caption")
    if not isinstance(caption, str) or not isinstance(captions, list) or not captions:
        report.add(video, "captions missing or not text", "item left out")
        return None
    if not isinstance(boxes, list) or len(boxes) != len(captions):
        report.add(video, "boxes do not match region captions", "item left out")
        return None
    timestamps = _timestamps(video, row.get("timestamps"), report)
    if not PREFIX.match(caption):
        report.add(video, "global caption without class prefix", "kept")
    regions = tuple(
        _region(video, timestamps, i, str(text), track, negatives, report)
        for i, (text, track) in enumerate(zip(captions, boxes, strict=True))
    )
    for text in (caption, *(region.caption for region in regions)):
        _check_text(video, text, report)
    return Item(video, caption, regions, timestamps)


def _region(
    video: str,
    timestamps: tuple[float, float] | None,
    index: int,
    caption: str,
    track: Any,
    negatives: Negatives,
    report: Report,
) -> Region:
    found = negatives.get((video, index, timestamps), ())
    found = _clean_negatives(video, caption, list(found), report) if negatives else ()
    return Region(caption, _track(video, track, report), found)


def _track(video: str, track: Any, report: Report) -> tuple[Keyframe, ...]:
    if not track:
        return ()
    try:
        keyframes = [_keyframe(video, k, report) for k in track]
    except (TypeError, KeyError, ValueError) as error:
        report.add(video, f"bad box: {error}", "track dropped, whole frame instead")
        return ()
    if any(a.frame >= b.frame for a, b in zip(keyframes, keyframes[1:], strict=False)):
        report.add(video, "keyframes not increasing", "sorted, repeated frames dropped")
        keyframes = sorted({k.frame: k for k in keyframes}.values(), key=lambda k: k.frame)
    if len(keyframes) == 1:
        report.add(video, "track with a single keyframe", "short window around it")
    elif keyframes[-1].enabled:
        report.add(video, "last keyframe enabled", "box ends there")
    return tuple(keyframes)


def _keyframe(video: str, raw: dict, report: Report) -> Keyframe:
    box, frame = [float(x) for x in raw["bbox"]], int(raw["frame"])
    if len(box) != 4 or not all(map(math.isfinite, box)) or frame < 1:
        raise ValueError("not four finite numbers on a frame from 1")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError("inverted or empty box")
    clamped = tuple(min(1.0, max(0.0, x)) for x in box)
    if clamped != tuple(box):
        if max(abs(a - b) for a, b in zip(box, clamped, strict=True)) > 0.05:
            raise ValueError("box outside the frame; pixels instead of shares?")
        report.add(video, "box beyond the frame by rounding", "clamped")
    return Keyframe(frame, clamped, bool(raw.get("enabled", True)))


def _negatives_by_region(path: Path, report: Report) -> Negatives:
    table: Negatives = {}
    for row in _qwen_rows(path):
        video = _video(row, report)
        if video is None:
            continue
        key = (video, row.get("region_index"), _pair(row.get("timestamps")))
        if key in table:
            report.add(video, "duplicate region in the hard-negative file", "last one kept")
        table[key] = tuple(x for x in row.get("hard_negative") or () if isinstance(x, str))
    return table


def _qwen_rows(path: Path) -> list[dict]:
    content = read_json(path)
    rows = content.get("items") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: expected VAGTA's qwen file, an object with a list named items")
    return rows


def _clean_negatives(video: str, caption: str, raw: Any, report: Report) -> tuple[str, ...]:
    texts = [t for t in raw if isinstance(t, str) and t.strip()] if isinstance(raw, list) else []
    if not texts:
        report.add(video, "no hard negative", "region without hard-negative loss")
    kept = []
    for text in texts:
        if _tokens(text) > MAX_TOKENS:
            report.add(video, f"hard negative over {MAX_TOKENS} CLIP tokens", "kept")
        _check_text(video, text, report)
        if text == caption:
            report.add(video, "hard negative equals its caption", "dropped")
            continue
        kept.append(text)
    if len(set(kept)) < len(kept):
        report.add(video, "repeated hard negative", "dropped")
    return tuple(dict.fromkeys(kept))


def _check_text(video: str, text: str, report: Report) -> None:
    if not text.isascii():
        report.add(video, "text is not plain ASCII", "kept")


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # imports torch and reads a vocabulary

    return SimpleTokenizer()


@cache
def _tokens(text: str) -> int:
    return len(_tokenizer().encode(text))


def _video(row: Any, report: Report) -> str | None:
    video = row.get("video") if isinstance(row, dict) else None
    if not isinstance(video, str) or not video.strip():
        report.add(str(row)[:60], "no video path", "item left out")
        return None
    path = PurePosixPath(video)
    if path.is_absolute() or ".." in path.parts or "\\" in video:
        report.add(video, "path leaves the data root", "item left out")
        return None
    return video


def _timestamps(video: str, raw: Any, report: Report) -> tuple[float, float] | None:
    pair = _pair(raw)
    if raw is not None and pair is None:
        report.add(video, "timestamps are not two increasing numbers", "whole video instead")
    if pair and pair[1] - pair[0] < 1:
        report.add(video, "segment shorter than a second", "kept")
    if pair and pair[1] - pair[0] > 1800:
        report.add(video, "segment longer than half an hour", "kept")
    return pair


def _pair(raw: Any) -> tuple[float, float] | None:
    try:
        start, end = (float(x) for x in raw)
    except (TypeError, ValueError):
        return None
    return (start, end) if math.isfinite(start) and 0 <= start <= end < math.inf else None


def _count_duplicates(items: list[Item], report: Report) -> None:
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            report.add(item.key, "duplicate item", "kept")
        seen.add(item.key)
