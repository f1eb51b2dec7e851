"""Visual quality of a clip: eight measures of its decoded frames, each scored from 1 to 5.

The thresholds in ``LEVELS`` are absolute. They were chosen on the mini world's development clips,
clean and with planted faults; no test clip was used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image
from scipy.ndimage import median_filter

from media.files import read_json, sha256_file, sha256_json, write_json
from media.survey import VideoInfo
from media.video import read_frames

WINDOWS, RUN = 8, 8  # sampled windows of consecutive frames: motion needs neighbours
Span = tuple[float, float] | None
HASHED = 8  # frames per clip with a perceptual hash
STILL = 1.0  # grey levels: a smaller change in every cell is a standstill
AROUND = 9  # width of the median filter over frame intervals
CELLS = (16, 12)  # columns x rows
TAPS, GRID = 11, 8  # pixels: width of the second blur, side of a coding block

# Thresholds between the scores 1|2|3|4|5. Falling thresholds: a smaller value is better.
LEVELS: dict[str, tuple[float, float, float, float]] = {
    "decodable": (0.5, 0.8, 0.95, 0.999),  # share of the declared frames that decode
    "missing": (0.5, 0.25, 0.1, 0.03),  # share of frames missing from the time axis
    "frozen": (0.5, 0.35, 0.25, 0.15),  # share of the clip in its longest standstill
    "blur": (0.55, 0.52, 0.49, 0.46),  # Crete's blur effect
    "luma": (14.0, 20.0, 26.0, 32.0),  # mean grey level, 0 to 255
    "glare": (0.6, 0.4, 0.25, 0.15),  # share of pixels above 250
    "contrast": (5.0, 8.0, 12.0, 18.0),  # standard deviation of grey levels
    "blockiness": (4.0, 2.8, 2.0, 1.6),  # steps on the coding grid over steps beside it
}


class Quality(NamedTuple):
    """Measurements of one clip; ``hashes`` and ``motion`` serve ``redundancy``."""

    values: dict[str, float]  # by the names of LEVELS
    hashes: np.ndarray  # (HASHED, 64) bool
    motion: np.ndarray  # (n - 1,) mean change between n sampled frames, grey levels
    report: str = ""  # number of frames that decode, if not all


def level(value: float, thresholds: Sequence[float]) -> int:
    """Score from 1 to 5: one plus the thresholds (rising or falling) that are reached; nan: 1."""
    rising = thresholds[0] < thresholds[-1]
    return 1 + sum(value >= t if rising else value <= t for t in thresholds)


def score_quality(values: dict[str, float]) -> tuple[int, str]:
    """Score and name of the worst measure."""
    scores = {name: level(value, LEVELS[name]) for name, value in values.items()}
    worst = min(scores, key=scores.__getitem__)
    return scores[worst], worst


def frame_numbers(first: int, last: int) -> np.ndarray:
    """Frame numbers sampled from [first, last): all, or WINDOWS runs of RUN consecutive ones."""
    if last - first <= WINDOWS * RUN:
        return np.arange(first, last)
    starts = np.linspace(first, last - RUN, WINDOWS).round().astype(int)
    return (starts[:, None] + np.arange(RUN)).ravel()


def measure(path: Path, info: VideoInfo, span: Span, store: Path) -> Quality:
    """Measure a clip (``span`` in s; None = whole video), or read its result from ``store``."""
    file = store / f"{sha256_json([info.sha256, span, sha256_file(__file__)])[:40]}.json"
    if not file.exists():
        write_json(file, _measure(path, info, span))
    stored = read_json(file)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(stored["hashes"]), np.uint8))
    hashes = bits.reshape(HASHED, -1).astype(bool)
    return Quality(stored["values"], hashes, np.array(stored["motion"]), info.report)


def _measure(path: Path, info: VideoInfo, span: Span) -> dict[str, Any]:
    start, end = span or (0.0, info.duration)
    first = info.frame_at(start)
    last = max(first + 1, round(min(info.position(end), info.frames)))
    frames = read_frames(path, frame_numbers(first, last), (info.height, info.width), info)
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    changes = cell_changes(grey)
    sample = grey[np.linspace(0, len(grey) - 1, min(len(grey), 16)).round().astype(int)]
    per_frame = {
        "blur": [blur_effect(frame) for frame in sample],
        "luma": sample.mean(axis=(1, 2)),
        "glare": (sample > 250).mean(axis=(1, 2)),
        "contrast": sample.std(axis=(1, 2)),
        "blockiness": [blockiness(frame) for frame in sample],
    }
    values = {name: np.median(measured) for name, measured in per_frame.items()}
    values |= {"decodable": info.decoded / max(info.promised, 1)}
    values |= {"missing": missing_share(info.times), "frozen": longest_standstill(changes)}
    return {
        "values": {name: round(float(values[name]), 5) for name in LEVELS},
        "hashes": np.packbits(perceptual_hashes(frames)).tobytes().hex(),
        "motion": np.round(changes.mean(axis=(1, 2)), 4).tolist(),
    }


def missing_share(times: Sequence[float]) -> float:
    """Share of frames missing from increasing ``times``: a gap of k usual steps lacks k - 1.

    The usual step is the local median, so that a change of the frame rate loses nothing.
    """
    steps = np.diff(times)
    if not len(steps):
        return 0.0
    lost = np.maximum(np.round(steps / median_filter(steps, AROUND, mode="nearest")) - 1, 0).sum()
    return float(lost / (lost + len(steps) + 1))


def blur_effect(grey: np.ndarray) -> float:
    """Share of the gradient that survives another blur: 0 sharp to 1 (Crete et al. 2007)."""
    image, shares = grey.astype(np.float32), []
    for axis, kernel in ((0, (1, TAPS)), (1, (TAPS, 1))):
        sharp, soft = (np.abs(np.diff(x, axis=axis)) for x in (image, cv2.blur(image, kernel)))
        total, lost = sharp.sum(), np.maximum(sharp - soft, 0).sum()
        shares.append(1.0 if total == 0 else float((total - lost) / total))
    return max(shares)


def blockiness(grey: np.ndarray) -> float:
    """Mean grey-level step across coding-block borders over that elsewhere (Wang et al. 2002)."""
    image, ratios = grey.astype(np.float32), []
    for axis in (0, 1):
        steps = np.abs(np.diff(image, axis=axis)).mean(axis=1 - axis)
        border = np.arange(1, len(steps) + 1) % GRID == 0
        ratios.append((steps[border].mean() + 0.1) / (steps[~border].mean() + 0.1))
    return float(max(ratios))


def cell_changes(grey: np.ndarray) -> np.ndarray:
    """Mean change per cell, so that a small person counts: (n, H, W) -> (n - 1, rows, columns)."""
    pairs = zip(grey[:-1], grey[1:], strict=True)
    cells = [cv2.resize(cv2.absdiff(a, b), CELLS, interpolation=cv2.INTER_AREA) for a, b in pairs]
    return np.array(cells, np.float32).reshape(-1, CELLS[1], CELLS[0])


def longest_standstill(changes: np.ndarray) -> float:
    """Longest run of frame steps in which no cell changes, as a share of all steps."""
    still = changes.max(axis=(1, 2), initial=0.0) < STILL
    if not len(still):
        return 1.0  # a single frame
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still, [0]])))
    return float((edges[1::2] - edges[::2]).max(initial=0) / len(still))


def perceptual_hashes(frames: np.ndarray) -> np.ndarray:
    """pHash (Zauner 2010) of HASHED evenly spaced frames: (HASHED, 64) bool."""
    indices = np.linspace(0, len(frames) - 1, HASHED).round().astype(int)
    return np.stack([imagehash.phash(Image.fromarray(frames[i])).hash.ravel() for i in indices])
