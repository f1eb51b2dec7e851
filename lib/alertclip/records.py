"""Records of annotated clips, boxes over time, checks of captions, and the report of quirks."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from media.files import atomic_write

CLOCK = 25.0  # frames per second of the annotation clock, not of the videos
HALF_WINDOW = 8  # annotation frames on each side of a track with a single keyframe (ours)
Box = tuple[float, float, float, float]  # normalised x1 y1 x2 y2
MAX_TOKENS = 20  # of captions: the contract of the hard-negative prompts (supplementary A.4)
WHOLE_FRAME: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Keyframe:
    """A drawn box; ``frame`` is 1-based on the 25-fps clock. Not enabled: the track ends here."""

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
        """Class from the path, "Normal" for normal videos."""
        folder = PurePosixPath(self.video).parent
        normal = "Normal" in folder.name or "Normal" in folder.parent.name
        return "Normal" if normal else folder.name

    @property
    def is_abnormal(self) -> bool:
        """True for videos of an abnormal class."""
        return self.class_name != "Normal"

    @property
    def dataset(self) -> str:
        """Source dataset, from the root of the path."""
        return "MSAD" if self.video.startswith("MSAD") else "UCF-Crime"

    @property
    def key(self) -> str:
        """Unique name: the video and, for a segment, its times after #."""
        return item_key(self.video, self.timestamps)


def item_key(video: str, timestamps: tuple[float, float] | None) -> str:
    """Name of a clip: its video and, for a segment, "#start-end" in s."""
    return video if timestamps is None else "{}#{:.10g}-{:.10g}".format(video, *timestamps)


LEFT_OUT = "left out"  # the action of a finding without whose item the work went on


@dataclass(frozen=True)
class Finding:
    """One quirk of one item, and what was done about it."""

    item: str
    reason: str
    action: str


@dataclass
class Report:
    """Everything that was noticed; nothing is dropped without a row here."""

    rows: list[Finding] = field(default_factory=list)

    def add(self, item: str, reason: str, action: str) -> None:
        """Note one quirk."""
        self.rows.append(Finding(item, reason, action))

    def counts(self) -> Counter:
        """Number of findings per reason."""
        return Counter(row.reason for row in self.rows)

    def to_csv(self, path: Path) -> None:
        """Write item, reason, action, one row per finding."""
        table = pd.DataFrame(self.rows, columns=["item", "reason", "action"])
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)


def frame_time(frame: float) -> float:
    """Seconds of a 1-based annotation frame."""
    return (frame - 1) / CLOCK


def region_span(region: Region) -> tuple[float, float] | None:
    """Seconds in which the region exists; None = the whole clip."""
    return _track_span(region.track) if region.track else region.span


def _track_span(track: tuple[Keyframe, ...]) -> tuple[float, float]:
    """First and last second with a box; a single keyframe stands for a short window."""
    start, end = frame_time(track[0].frame), frame_time(track[-1].frame)
    if len(track) > 1:
        return start, end
    return max(0.0, start - HALF_WINDOW / CLOCK), end + HALF_WINDOW / CLOCK


def box_at(track: tuple[Keyframe, ...], time: float) -> Box | None:
    """Box of a track at ``time`` (s), linear between keyframes; None where there is no box.

    A keyframe that is not enabled ends the track; a box is never held beyond the last keyframe.
    """
    if not track:
        return WHOLE_FRAME
    start, end = _track_span(track)
    if not start - 1e-9 <= time <= end + 1e-9:
        return None
    if len(track) == 1:
        return track[0].box
    frame = time * CLOCK + 1
    if abs(frame - round(frame)) < 1e-6:  # a time computed from a frame number is that frame
        frame = round(frame)
    after = int(np.searchsorted([k.frame for k in track], frame, side="right"))
    before, following = track[min(after, len(track) - 1) - 1 :][:2]
    for keyframe in (before, following):
        if frame == keyframe.frame:
            return keyframe.box
    if not before.enabled:
        return None
    share = float(np.clip((frame - before.frame) / (following.frame - before.frame), 0, 1))
    pairs = zip(before.box, following.box, strict=True)
    return tuple((1 - share) * a + share * b for a, b in pairs)


def boxes_at(region: Region, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (T, 4) of a region at ``times`` (T,) s and where it exists, mask (T,).

    Where no time falls into the region, the nearest one takes its box, so that every region keeps
    at least one frame.
    """
    boxes, span = np.tile(np.float32(WHOLE_FRAME), (len(times), 1)), region_span(region)
    if span is None:
        return boxes, np.ones(len(times), bool)
    if region.track:
        found = [box_at(region.track, time) for time in times]
    else:
        found = [WHOLE_FRAME if span[0] <= time <= span[1] else None for time in times]
    mask = np.array([box is not None for box in found])
    if not mask.any():
        nearest = int(np.maximum(span[0] - times, times - span[1]).argmin())
        closest = float(np.clip(times[nearest], *span))
        found[nearest] = box_at(region.track, closest) or region.track[0].box
        mask[nearest] = True
    boxes[mask] = [box for box in found if box is not None]
    return boxes, mask


def is_text(value: Any) -> bool:
    """True for a string with visible characters that UTF-8 can write."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any("\ud800" <= c <= "\udfff" for c in value)  # half of a surrogate pair


@cache
def token_count(text: str) -> int:
    """CLIP BPE tokens of a text, without start and end."""
    return len(_tokenizer().encode(text))


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # imports torch and reads a vocabulary

    return SimpleTokenizer()


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
    """Count a text that is not plain ASCII or longer than the paper says."""
    if not text.isascii():
        report.add(key, f"{kind} not plain ASCII", "kept")
    if token_count(text) > MAX_TOKENS:
        report.add(key, f"{kind} over {MAX_TOKENS} CLIP tokens", "kept")
