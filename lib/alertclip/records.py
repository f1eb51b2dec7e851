"""Annotated clips, box tracks over time, caption checks, and the report of quirks."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from media.files import atomic_write

CLOCK = 25.0  # frames per second of the annotation clock, not of the videos
HALF_WINDOW = 8  # annotation frames on each side of a lone keyframe (ours)
Box = tuple[float, float, float, float]  # normalised x1 y1 x2 y2
MAX_TOKENS = 20  # of captions: the contract of the hard-negative prompts (supplementary A.4)
WHOLE_FRAME: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Keyframe:
    """Box at 1-based ``frame`` of the 25-fps clock; disabled: no box up to the next keyframe."""

    frame: int
    box: Box
    enabled: bool = True


@dataclass(frozen=True)
class Region:
    """A region caption with its box track; an empty track is the whole frame.

    ``span`` (s) bounds the region where only its times are known (see ``vagta.load_surrogate``).
    """

    caption: str
    track: tuple[Keyframe, ...] = ()
    hard_negatives: tuple[str, ...] = ()
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Item:
    """One clip: a video or, with ``timestamps`` (s), a segment of it."""

    video: str
    global_caption: str
    regions: tuple[Region, ...]
    timestamps: tuple[float, float] | None = None
    surrogate: tuple[str, ...] = ()

    @property
    def class_name(self) -> str:
        """Class from the path; "Normal" for normal videos."""
        folder = PurePosixPath(self.video).parent
        normal = "Normal" in folder.name or "Normal" in folder.parent.name
        return "Normal" if normal else folder.name

    @property
    def is_abnormal(self) -> bool:
        """Whether the video is of an abnormal class."""
        return self.class_name != "Normal"

    @property
    def dataset(self) -> str:
        """Source dataset, from the root of the path."""
        return "MSAD" if self.video.startswith("MSAD") else "UCF-Crime"

    @property
    def key(self) -> str:
        """Unique name of the clip (see ``item_key``)."""
        return item_key(self.video, self.timestamps)


def item_key(video: str, timestamps: tuple[float, float] | None) -> str:
    """Name of a clip: its video and, for a segment, "#start-end" in s."""
    return video if timestamps is None else "{}#{:.10g}-{:.10g}".format(video, *timestamps)


LEFT_OUT = "left out"  # action of a finding whose item is not used


@dataclass(frozen=True)
class Finding:
    """One quirk of one item, and how it was handled."""

    item: str
    reason: str
    action: str


@dataclass
class Report:
    """All findings; nothing is dropped without a row here."""

    rows: list[Finding] = field(default_factory=list)

    def add(self, item: str, reason: str, action: str) -> None:
        """Add one finding."""
        self.rows.append(Finding(item, reason, action))

    def counts(self) -> Counter:
        """Number of findings per reason."""
        return Counter(row.reason for row in self.rows)

    def to_csv(self, path: Path) -> None:
        """Write one row per finding: item, reason, action."""
        table = pd.DataFrame(self.rows, columns=["item", "reason", "action"])
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)


def frame_time(frame: float) -> float:
    """Seconds of a 1-based annotation frame."""
    return (frame - 1) / CLOCK


def region_span(region: Region) -> tuple[float, float] | None:
    """Start and end (s) of the region; None: the whole clip."""
    return _track_span(region.track) if region.track else region.span


def _track_span(track: tuple[Keyframe, ...]) -> tuple[float, float]:
    """Time (s) of the first and last box; a lone keyframe stands for a short window."""
    start, end = frame_time(track[0].frame), frame_time(track[-1].frame)
    if len(track) > 1:
        return start, end
    return max(0.0, start - HALF_WINDOW / CLOCK), end + HALF_WINDOW / CLOCK


def box_at(track: tuple[Keyframe, ...], time: float) -> Box | None:
    """Box of a track at ``time`` (s), linear between keyframes; None where there is no box.

    There is no box between a disabled keyframe and the next, nor beyond the last keyframe.
    """
    if not track:
        return WHOLE_FRAME
    start, end = _track_span(track)
    if not start - 1e-9 <= time <= end + 1e-9:
        return None
    if len(track) == 1:
        return track[0].box
    frame = time * CLOCK + 1
    if abs(frame - round(frame)) < 1e-6:  # undo rounding of a frame's time
        frame = round(frame)
    after = int(np.searchsorted([k.frame for k in track], frame, side="right"))
    before, following = track[min(after, len(track) - 1) - 1 :][:2]
    for keyframe in (before, following):
        if frame == keyframe.frame:
            return keyframe.box
    if not before.enabled:
        return None
    weight = float(np.clip((frame - before.frame) / (following.frame - before.frame), 0, 1))
    pairs = zip(before.box, following.box, strict=True)
    return tuple((1 - weight) * a + weight * b for a, b in pairs)


def boxes_at(region: Region, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (T, 4) of a region at ``times`` (T,) s, and mask (T,) True where it exists.

    If no time falls into the region, the nearest one takes its box, so that every region has at
    least one frame.
    """
    boxes, span = np.tile(np.float32(WHOLE_FRAME), (len(times), 1)), region_span(region)
    if span is None:
        return boxes, np.ones(len(times), bool)
    if region.track:
        at_times = [box_at(region.track, time) for time in times]
    else:
        at_times = [WHOLE_FRAME if span[0] <= time <= span[1] else None for time in times]
    mask = np.array([box is not None for box in at_times])
    if not mask.any():
        nearest = int(np.maximum(span[0] - times, times - span[1]).argmin())
        closest = float(np.clip(times[nearest], *span))
        at_times[nearest] = box_at(region.track, closest) or region.track[0].box
        mask[nearest] = True
    boxes[mask] = [box for box in at_times if box is not None]
    return boxes, mask


def is_text(value: Any) -> bool:
    """Whether a value is a string with visible characters that UTF-8 can encode."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any("\ud800" <= c <= "\udfff" for c in value)  # half of a surrogate pair


@cache
def token_count(text: str) -> int:
    """Number of CLIP BPE tokens of a text, without start and end."""
    return len(_tokenizer().encode(text))


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # imports torch and reads a vocabulary

    return SimpleTokenizer()


def clean_negatives(key: str, caption: str, raw: Any, report: Report) -> tuple[str, ...]:
    """Hard negatives of a region that differ from its caption and from one another."""
    if not isinstance(raw, list | tuple):
        report.add(key, "hard negatives are not a list", "region without hard-negative loss")
        return ()
    kept: list[str] = []
    for text in raw:
        if not is_text(text):
            report.add(key, "hard negative is not text", "dropped")
            continue
        count_text(key, "hard negative", text, report)
        if " ".join(text.split()).casefold() == " ".join(caption.split()).casefold():
            report.add(key, "hard negative equals its caption", "dropped")
        elif text in kept:
            report.add(key, "repeated hard negative", "dropped")
        else:
            kept.append(text)
    if not kept:
        report.add(key, "no hard negative", "region without hard-negative loss")
    return tuple(kept)


def count_text(key: str, kind: str, text: str, report: Report) -> None:
    """Report a text that is not plain ASCII or longer than MAX_TOKENS."""
    if not text.isascii():
        report.add(key, f"{kind} not plain ASCII", "kept")
    if token_count(text) > MAX_TOKENS:
        report.add(key, f"{kind} over {MAX_TOKENS} CLIP tokens", "kept")
