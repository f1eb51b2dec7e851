"""Visual quality of a clip, measured from its decoded frames, and its score from 1 to 5.

One function per measure; `LEVELS` holds the fixed thresholds between the scores. They are absolute
(a blurred clip is blurred whatever else the data set holds) and were chosen on the mini world's
development clips, clean and with planted faults; no test clip was looked at.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import imagehash
import numpy as np
from PIL import Image

from alertclip.files import read_json, sha256_file, sha256_json, write_json
from alertclip.video import DecodeWorker, VideoInfo, read_frames
from curation.levels import level
from curation.timestamps import time_axis

WINDOWS, RUN = 8, 8  # windows of consecutive frames: changes need neighbours, exposure needs reach
HASHED = 8  # frames per clip with a perceptual hash
STILL = 1.0  # grey levels: below, no cell of the picture changed
CELLS = (16, 12)  # of the picture, columns x rows

# Thresholds between the scores 1|2|3|4|5; falling ones mean that less is better.
LEVELS: dict[str, tuple[float, float, float, float]] = {
    "decodable": (0.5, 0.8, 0.95, 0.999),  # share of the declared frames that decode
    "missing": (0.5, 0.25, 0.1, 0.03),  # share of frames left out of the time axis
    "frozen": (0.5, 0.35, 0.25, 0.15),  # share of the clip in its longest standstill
    "blur": (0.55, 0.52, 0.49, 0.46),  # Crete's blur effect
    "luma": (14.0, 20.0, 26.0, 32.0),  # mean grey level, 0 to 255
    "glare": (0.6, 0.4, 0.25, 0.15),  # share of pixels at the upper end
    "contrast": (5.0, 8.0, 12.0, 18.0),  # standard deviation of grey levels
    "blockiness": (4.0, 2.8, 2.0, 1.6),  # steps on the coding grid over steps beside it
}


class Quality(NamedTuple):
    """Measurements of one clip. ``hashes`` and ``motion`` identify it (see redundancy)."""

    values: dict[str, float]  # by the names of LEVELS
    hashes: np.ndarray  # (HASHED, 64) bool
    motion: np.ndarray  # (n - 1,) mean change between the n frames looked at, grey levels
    sha256: str


def score_quality(values: dict[str, float]) -> tuple[int, str]:
    """Score of the worst measure, 1 to 5, and the name of that measure."""
    scores = {name: level(value, LEVELS[name]) for name, value in values.items()}
    worst = min(scores, key=scores.__getitem__)
    return scores[worst], worst


def frame_numbers(first: int, last: int) -> np.ndarray:
    """Indices to look at in [first, last): all, or WINDOWS runs of RUN consecutive ones."""
    if last - first <= WINDOWS * RUN:
        return np.arange(first, last)
    starts = np.linspace(first, last - RUN, WINDOWS).round().astype(int)
    return (starts[:, None] + np.arange(RUN)).ravel()


def measure(
    path: Path,
    info: VideoInfo,
    span: tuple[float, float] | None,
    store: Path,
    worker: DecodeWorker,
) -> Quality:
    """Measure a clip (``span`` in s, or the whole video) once; kept in ``store`` by content.

    Raises DecodeError naming the file.
    """
    code = [sha256_file(file) for file in (__file__, Path(__file__).with_name("timestamps.py"))]
    file = store / f"{sha256_json([info.sha256, span, code])[:40]}.json"
    if not file.exists():
        write_json(file, _measure(path, info, span, worker))
    found = read_json(file)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(found["hashes"]), np.uint8))
    hashes = bits.reshape(HASHED, -1).astype(bool)
    return Quality(found["values"], hashes, np.array(found["motion"]), info.sha256)


def _measure(
    path: Path,
    info: VideoInfo,
    span: tuple[float, float] | None,
    worker: DecodeWorker,
) -> dict[str, object]:
    axis = worker.run(path, time_axis)
    start, end = span or (0.0, info.duration)
    first = min(max(0, round(start * info.fps)), info.frames - 1)
    numbers = frame_numbers(first, max(first + 1, min(round(end * info.fps), info.frames)))
    frames = read_frames(path, numbers, (info.height, info.width), "pyav", worker)
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    changes = cell_changes(grey)
    values = picture_values(grey) | {
        "decodable": min(1.0, info.frames / axis["declared"]) if axis["declared"] else 1.0,
        "missing": axis["missing"],
        "frozen": longest_standstill(changes),
    }
    return {
        "values": {name: round(float(values[name]), 5) for name in LEVELS},
        "hashes": np.packbits(perceptual_hashes(frames)).tobytes().hex(),
        "motion": np.round(changes.mean(axis=(1, 2)), 4).tolist(),
    }


def picture_values(grey: np.ndarray) -> dict[str, float]:
    """Medians over frames (n, H, W) uint8 of what one picture shows: blur, exposure, blocks."""
    shown = grey[np.linspace(0, len(grey) - 1, min(len(grey), 16)).round().astype(int)]
    return {
        "blur": float(np.median([blur_effect(frame) for frame in shown])),
        "luma": float(np.median(shown.mean(axis=(1, 2)))),
        "glare": float(np.median((shown > 250).mean(axis=(1, 2)))),
        "contrast": float(np.median(shown.std(axis=(1, 2)))),
        "blockiness": float(np.median([blockiness(frame) for frame in shown])),
    }


def blur_effect(grey: np.ndarray, taps: int = 11) -> float:
    """Share of the gradient that a further blur does not take away: 0 sharp to 1 blurred.

    Crete et al., "The blur effect" (2007): neither contrast nor brightness changes it.
    """
    picture, results = grey.astype(np.float32), []
    for axis, kernel in ((0, (1, taps)), (1, (taps, 1))):
        steps = np.abs(np.diff(picture, axis=axis))
        softer = np.abs(np.diff(cv2.blur(picture, kernel), axis=axis))
        total = steps.sum()
        lost = np.maximum(steps - softer, 0).sum()
        results.append(1.0 if total == 0 else float((total - lost) / total))
    return max(results)


def blockiness(grey: np.ndarray, grid: int = 8) -> float:
    """Mean step across the borders of the coding grid over the mean step elsewhere; 1 = none.

    After Wang, Sheikh and Bovik (2002). Pictures are coded in blocks that begin at the top left.
    """
    picture, ratios = grey.astype(np.float32), []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture, axis=axis)).mean(axis=1 - axis)
        border = np.arange(1, len(steps) + 1) % grid == 0
        ratios.append((steps[border].mean() + 0.1) / (steps[~border].mean() + 0.1))
    return float(max(ratios))


def cell_changes(grey: np.ndarray) -> np.ndarray:
    """Mean absolute change of each cell from frame to frame (n, H, W) -> (n - 1, rows, columns).

    Cells, so that one small person who moves is a change of the picture.
    """
    pairs = zip(grey[:-1], grey[1:], strict=True)
    cells = [cv2.resize(cv2.absdiff(a, b), CELLS, interpolation=cv2.INTER_AREA) for a, b in pairs]
    return np.array(cells, np.float32).reshape(-1, CELLS[1], CELLS[0])


def longest_standstill(changes: np.ndarray) -> float:
    """Share of the steps between frames in the longest run in which no cell changes."""
    still = changes.max(axis=(1, 2), initial=0.0) < STILL
    if not len(still):
        return 1.0  # a single frame
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still, [0]])))
    runs = edges[1::2] - edges[::2]
    return float(runs.max(initial=0) / len(still))


def perceptual_hashes(frames: np.ndarray) -> np.ndarray:
    """pHash (Zauner 2010; ImageHash) of HASHED frames at equal distances: (HASHED, 64) bool."""
    places = np.linspace(0, len(frames) - 1, HASHED).round().astype(int)
    return np.stack([imagehash.phash(Image.fromarray(frames[i])).hash.ravel() for i in places])
