"""Checked values of one annotation item: each is returned clean, or reported with its reason."""

import math
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from alertclip.records import Box, Keyframe, Report

MAX_TOKENS = 20  # the contract of the hard-negative prompts (supplementary A.4)
SHORT, LONG = 1.0, 1800.0  # seconds; segments outside are kept and counted
ROUNDING = 0.01  # a box may leave the frame by this share; VAGTA's do by 1e-14


def is_text(value: Any) -> bool:
    """True for a string with visible characters that UTF-8 can write."""
    return isinstance(value, str) and bool(value.strip()) and not _lone_surrogate(value)


def number(value: Any) -> float | None:
    """A finite JSON number as float, else None; true and "1" are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def video_path(row: Any, report: Report) -> str | None:
    """The item's path below the data root; None, reported, if there is none or it climbs out."""
    video = row.get("video") if isinstance(row, dict) else None
    if not is_text(video) or not video.isprintable():
        report.add(ascii(row)[:80], "no video path", "item left out")
        return None
    path = PurePosixPath(video)
    if path.is_absolute() or ".." in path.parts or "\\" in video or not path.name:
        report.add(video, "path leaves the data root", "item left out")
        return None
    return video


def number_pair(raw: Any) -> tuple[float, float] | None:
    """Two ordered numbers, not negative; else None."""
    if not isinstance(raw, list) or len(raw) != 2:
        return None
    start, end = number(raw[0]), number(raw[1])
    if start is None or end is None or not 0 <= start <= end:
        return None
    return start, end


def segment(video: str, raw: Any, report: Report) -> tuple[bool, tuple[float, float] | None]:
    """Whether ``timestamps`` are usable, and the segment in s; null is the whole video."""
    pair = number_pair(raw)
    if raw is not None and (pair is None or pair[0] == pair[1]):
        report.add(video, "timestamps are not two increasing seconds", "item left out")
        return False, None
    return True, pair


def length_findings(key: str, pair: tuple[float, float] | None, report: Report) -> None:
    """Count segments of unusual length."""
    if pair and pair[1] - pair[0] < SHORT:
        report.add(key, f"segment shorter than {SHORT:g} s", "kept")
    if pair and pair[1] - pair[0] > LONG:
        report.add(key, f"segment longer than {LONG:g} s", "kept")


def box_track(key: str, raw: Any, report: Report) -> tuple[Keyframe, ...]:
    """Keyframes in order of time; () = whole frame, also for a track that cannot be read."""
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
    frame = number(raw["frame"])
    if frame is None or frame < 1 or frame != int(frame) or not isinstance(raw["enabled"], bool):
        raise ValueError("frame is not a whole number from 1, or enabled not true or false")
    return Keyframe(int(frame), _box(key, raw["bbox"], report), raw["enabled"])


def _box(key: str, raw: Any, report: Report) -> Box:
    corners = [number(x) for x in raw] if isinstance(raw, list) else []
    if len(corners) != 4 or None in corners:
        raise ValueError("not four finite numbers")
    clamped = tuple(min(1.0, max(0.0, x)) for x in corners)
    if max(abs(a - b) for a, b in zip(corners, clamped, strict=True)) > ROUNDING:
        raise ValueError("outside the frame (pixels instead of shares?)")
    if not (clamped[0] < clamped[2] and clamped[1] < clamped[3]):
        raise ValueError("inverted or empty")
    if clamped != tuple(corners):
        report.add(key, "box beyond the frame by rounding", "clamped")
    return clamped


def clean_negatives(key: str, caption: str, raw: Any, report: Report) -> tuple[str, ...]:
    """Hard negatives of a region: texts that differ from its caption and from one another."""
    if not isinstance(raw, list | tuple):
        report.add(key, "hard negatives are not a list", "region without hard-negative loss")
        return ()
    kept: list[str] = []
    for text in raw:
        if not is_text(text):
            report.add(key, "hard negative is not text", "dropped")
            continue
        text_findings(key, "hard negative", text, report)
        if _folded(text) == _folded(caption):
            report.add(key, "hard negative equals its caption", "dropped")
        elif text in kept:
            report.add(key, "repeated hard negative", "dropped")
        else:
            kept.append(text)
    if not kept:
        report.add(key, "no hard negative", "region without hard-negative loss")
    return tuple(kept)


def text_findings(key: str, kind: str, text: str, report: Report) -> None:
    """Count texts that are not plain ASCII or longer than the paper says."""
    if not text.isascii():
        report.add(key, f"{kind} not plain ASCII", "kept")
    if token_count(text) > MAX_TOKENS:
        report.add(key, f"{kind} over {MAX_TOKENS} CLIP tokens", "kept")


@cache
def token_count(text: str) -> int:
    """CLIP BPE tokens of a text, without start and end."""
    return len(_tokenizer().encode(text))


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # imports torch and reads a vocabulary

    return SimpleTokenizer()


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
