"""Frame-level AUC and AP of any number of frames, resampled over videos, exactly.

Both depend on the frames only through counts per video at the scores of positive frames. They are
gathered once; a bootstrap over videos is then matrix products with the videos' weights.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from alertclip.errors import InputError
from alertclip.intervals import Interval, percentiles, resampled_counts

BLOCK = 2048  # thresholds held at once


@dataclass(frozen=True)
class FrameScores:
    """Scores and truth of one video's frames: both (F,); ``abnormal`` is the video's label."""

    video: str
    scores: np.ndarray
    truth: np.ndarray
    abnormal: bool


class Block(NamedTuple):
    """Frames per threshold, highest first, and video (K, V): positive ones whose score is the
    threshold, negative ones that lie above it, and negative ones that equal it."""

    positive: np.ndarray
    above: np.ndarray
    tied: np.ndarray


FrameMetric = Callable[[Sequence[FrameScores], np.ndarray], np.ndarray]
"""Videos and weights (n, V) of the V different video names -> the metric's values (n,)."""


def frame_auc(videos: Sequence[FrameScores], weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve over frames, ties one half; nan where a class has no weight."""
    positive, negative = _totals(videos)
    # A resample's area is a quadratic form: right[u, v] counts pairs of a positive frame of
    # video u and a negative one of video v that are in the right order.
    right = sum(b.positive.T @ (negative - b.above - b.tied / 2) for b in threshold_blocks(videos))
    pairs = (weights @ positive) * (weights @ negative)
    with np.errstate(invalid="ignore"):
        return ((weights @ right) * weights).sum(axis=1) / pairs


def frame_ap(videos: Sequence[FrameScores], weights: np.ndarray) -> np.ndarray:
    """Average precision over frames, sum of (R_i - R_{i-1}) P_i; nan as for ``frame_auc``."""
    positive, negative = _totals(videos)
    found, area = np.zeros((len(weights), 1)), np.zeros(len(weights))
    for block in threshold_blocks(videos):
        gained = weights @ block.positive.T  # (n, K)
        true = found + gained.cumsum(axis=1)
        false = weights @ (block.above + block.tied).T
        area += (gained * true / np.maximum(true + false, 1)).sum(axis=1)
        found = true[:, -1:]
    total = found[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weights @ negative > 0, area / total, np.nan)


FRAME_METRICS: dict[str, FrameMetric] = {"AUC": frame_auc, "AP": frame_ap}


def threshold_blocks(videos: Sequence[FrameScores]) -> Iterator[Block]:
    """The scores of positive frames as thresholds, highest first, ``BLOCK`` of them at a time."""
    owner, scores, truth = _frames(videos)
    thresholds = np.unique(scores[truth])  # ascending
    below = np.searchsorted(thresholds, scores, side="left")  # thresholds below each score
    equal = np.searchsorted(thresholds, scores, side="right") > below
    k, n = len(thresholds), owner.max() + 1
    at, higher, same = (
        csr_array((np.ones(chosen.sum()), (below[chosen], owner[chosen])), shape=(k + 1, n))
        for chosen in (truth, ~truth, ~truth & equal)
    )
    above = higher[[k]].toarray()  # so far: negatives above all thresholds
    for stop in range(k, 0, -BLOCK):
        rows = np.arange(stop - 1, max(stop - BLOCK, 0) - 1, -1)
        inside = higher[rows].toarray()
        running = above + inside.cumsum(axis=0) - inside  # those of the row itself lie below it
        yield Block(at[rows].toarray(), running, same[rows].toarray())
        above = running[-1:] + inside[-1:]


def resample(
    columns: Sequence[Sequence[FrameScores]],
    metric: FrameMetric,
    name: str,
    n_boot: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """A metric of several columns of the same videos, one per class, seed or model.

    Returns (columns, 1 + n_boot): first on the videos as they are, then on resamples, which are
    the same for all columns. Raises InputError naming a video whose scores and truth do not fit,
    or ``name`` if all frames are of one class.
    """
    for videos in columns:
        check_frames(videos, name)
    names = _names(columns[0])
    if any(list(_names(videos)) != list(names) for videos in columns):
        raise InputError(f"{name}: the columns are of different videos")
    counts = resampled_counts(len(names), n_boot, seed)
    weights = np.concatenate([np.ones((1, len(names))), counts])
    return np.stack([metric(videos, weights) for videos in columns])


def interval(values: np.ndarray, n: int) -> Interval:
    """Value with its 95% percentile interval of (1 + n_boot,) as ``resample`` gives them."""
    return Interval(float(values[0]), *percentiles(values[1:]), n=n)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over columns, (C, n) -> (n,), without the nan of those that a resample lacks."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)


def frame_count(videos: Sequence[FrameScores]) -> int:
    """Frames of all videos."""
    return sum(len(video.scores) for video in videos)


def check_frames(videos: Sequence[FrameScores], name: str) -> None:
    """Raise InputError unless every video passes ``check_video`` and both classes occur."""
    if not videos:
        raise InputError(f"{name}: no videos to evaluate")
    for video in videos:
        check_video(video)
    truth = np.concatenate([video.truth for video in videos])
    if truth.all() or not truth.any():
        only = "abnormal" if truth.any() else "normal"
        raise InputError(f"{name}: needs both classes, but all frames for {name} are {only}")


def check_video(video: FrameScores) -> None:
    """Raise InputError unless a video has as many finite scores as frames of truth."""
    scores, frames = len(video.scores), len(video.truth)
    if scores != frames:
        raise InputError(f"{video.video}: {scores} scores for {frames} frames of truth")
    if not np.isfinite(video.scores).all():
        raise InputError(f"{video.video}: a score is not finite")


def _names(videos: Sequence[FrameScores]) -> dict[str, int]:
    """Different video names, numbered: segments of a video are one unit."""
    return {name: i for i, name in enumerate(dict.fromkeys(video.video for video in videos))}


def _frames(videos: Sequence[FrameScores]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Video number, score and truth of all frames."""
    names = _names(videos)
    owner = np.repeat([names[v.video] for v in videos], [len(v.scores) for v in videos])
    scores = np.concatenate([video.scores for video in videos])
    return owner, scores, np.concatenate([video.truth for video in videos]).astype(bool)


def _totals(videos: Sequence[FrameScores]) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative frames per video name: both (V,)."""
    owner, _, truth = _frames(videos)
    size = owner.max() + 1
    return tuple(np.bincount(owner[c], minlength=size).astype(float) for c in (truth, ~truth))
