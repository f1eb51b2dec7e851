"""Exact AUC and AP of frames and of videos, with bootstrap intervals over videos.

Both depend on frames only through counts per video at the scores of positive frames. These are
counted once; a bootstrap over videos is then matrix products with the videos' weights.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from alertclip.intervals import Interval, Statistic, percentiles, resampled_counts
from media.errors import InputError

BLOCK = 2048  # thresholds in memory at once


@dataclass(frozen=True)
class FrameScores:
    """Scores and truth of one video's frames, (F,) or (F, C) by class, and the video's label."""

    video: str
    scores: np.ndarray
    truth: np.ndarray
    abnormal: bool

    def __post_init__(self) -> None:
        shapes = self.scores.shape, self.truth.shape
        if shapes[0] != shapes[1]:
            raise InputError(f"{self.video}: scores {shapes[0]} and truth {shapes[1]} differ")
        if not np.isfinite(self.scores).all():
            raise InputError(f"{self.video}: a score is not finite")


Columns = Sequence[Sequence[FrameScores]]
"""The same videos scored several times: once per class, seed or model."""
FrameMetric = Callable[[Sequence[FrameScores], np.ndarray], np.ndarray]
"""Videos and weights (n, V) of the V different video names -> the metric's values (n,)."""


def frame_auc(videos: Sequence[FrameScores], weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve over frames, ties one half; nan where a class has no weight."""
    positive, negative, blocks = count_frames(videos)
    # AUC is a quadratic form in the weights: correct[u, v] counts correctly ordered pairs of a
    # positive frame of video u and a negative frame of video v.
    per_block = (at.T @ (negative - above - tied / 2) for at, above, tied in blocks)
    correct = sum(per_block, np.zeros(2 * positive.shape))
    pairs = (weights @ positive) * (weights @ negative)
    with np.errstate(invalid="ignore"):
        return ((weights @ correct) * weights).sum(axis=1) / pairs


def frame_ap(videos: Sequence[FrameScores], weights: np.ndarray) -> np.ndarray:
    """Average precision over frames, sum of (R_i - R_{i-1}) P_i; nan as in ``frame_auc``."""
    _, negative, blocks = count_frames(videos)
    positives, area = np.zeros((len(weights), 1)), np.zeros(len(weights))
    for at, above, tied in blocks:
        gained = weights @ at.T  # (n, K)
        tp = positives + gained.cumsum(axis=1)
        fp = weights @ (above + tied).T
        area += (gained * tp / np.maximum(tp + fp, 1)).sum(axis=1)
        positives = tp[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weights @ negative > 0, area / positives[:, 0], np.nan)


FRAME_METRICS: dict[str, FrameMetric] = {"AUC": frame_auc, "AP": frame_ap}


def count_frames(
    videos: Sequence[FrameScores],
) -> tuple[np.ndarray, np.ndarray, Iterator[tuple[np.ndarray, ...]]]:
    """Return positive and negative frames per video name, (V,) each, and counts by threshold.

    Thresholds are the scores of positive frames, highest first, in blocks of ``BLOCK``. A block is
    (K, V) counts of positive frames at each threshold, negatives above it and negatives at it.
    """
    numbers = {name: i for i, name in enumerate(video_names(videos))}
    owner = np.repeat([numbers[v.video] for v in videos], [len(v.scores) for v in videos])
    scores = np.concatenate([video.scores for video in videos])
    truth = np.concatenate([video.truth for video in videos]).astype(bool)
    thresholds, n = np.unique(scores[truth]), len(numbers)  # ascending
    below = np.searchsorted(thresholds, scores, side="left")  # thresholds below each score
    equal = np.searchsorted(thresholds, scores, side="right") > below
    k, masks = len(thresholds), (truth, ~truth, ~truth & equal)
    at, higher, tied = (
        csr_array((np.ones(c.sum()), (below[c], owner[c])), shape=(k + 1, n)) for c in masks
    )

    def blocks() -> Iterator[tuple[np.ndarray, ...]]:
        above = higher[[k]].toarray()  # negatives above all thresholds
        for stop in range(k, 0, -BLOCK):
            rows = np.arange(stop - 1, max(stop - BLOCK, 0) - 1, -1)
            inside = higher[rows].toarray()
            running = above + inside.cumsum(axis=0) - inside  # a row's own lie below its threshold
            yield at[rows].toarray(), running, tied[rows].toarray()
            above = running[-1:] + inside[-1:]

    positive, negative = (np.bincount(owner[c], minlength=n).astype(float) for c in masks[:2])
    return positive, negative, blocks()


def video_names(videos: Sequence[FrameScores]) -> list[str]:
    """Return distinct names in order; segments that share a name are resampled together."""
    return list(dict.fromkeys(video.video for video in videos))


def resample(
    columns: Columns, metric: FrameMetric, name: str, n_boot: int, seed: int
) -> np.ndarray:
    """Return a metric of each column, (columns, 1 + n_boot): on all videos, then on resamples.

    All columns share their resamples. Raises InputError with ``name`` if all frames have the same
    label, or the videos differ.
    """
    names = [video_names(videos) for videos in columns]
    if not names[0] or any(other != names[0] for other in names):
        raise InputError(f"{name}: no videos, or not the same ones in all columns")
    for videos in columns:
        if len(kinds := {kind for video in videos for kind in np.unique(video.truth)}) < 2:
            only = "abnormal" if any(kinds) else "normal"
            raise InputError(f"{name}: needs both classes, but all frames for {name} are {only}")
    counts = resampled_counts(len(names[0]), n_boot, seed)
    weights = np.vstack([np.ones(len(names[0])), counts])
    return np.stack([metric(videos, weights) for videos in columns])


def interval(values: np.ndarray, n: int) -> Interval:
    """Return the mean over columns (C, 1 + n_boot) of ``resample``, with its 95% interval."""
    means = mean_of_defined(np.atleast_2d(values))
    return Interval(float(means[0]), *percentiles(means[1:]), n=n)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over columns, (C, n) -> (n,), without nan, where a resample lacks the class."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)


def resampled_metrics(
    columns: Columns, n_boot: int = 1000, seed: int = 0, what: str = "frame"
) -> dict[str, tuple[np.ndarray, int]]:
    """Return ``what`` AUC and AP by name: values of ``resample`` and the number of frames.

    For frames also AUC inside abnormal videos, which measures localisation alone.
    """
    plan = {f"{what} {name}".strip(): (metric, columns) for name, metric in FRAME_METRICS.items()}
    if what == "frame":
        plan["in-clip frame AUC"] = frame_auc, [[v for v in c if v.abnormal] for c in columns]
    return {
        name: (resample(chosen, metric, name, n_boot, seed), sum(len(v.scores) for v in chosen[0]))
        for name, (metric, chosen) in plan.items()
    }


def metric_rows(columns: Columns, n_boot: int, seed: int, what: str = "frame") -> list[dict]:
    """Average ``resampled_metrics`` over columns: rows metric, value, low, high, n (frames)."""
    metrics = resampled_metrics(columns, n_boot, seed, what).items()
    return [{"metric": name, **interval(*part)._asdict()} for name, part in metrics]


def frame_metrics(videos: Sequence[FrameScores], n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return ``metric_rows`` of one column as a table."""
    return pd.DataFrame(metric_rows([videos], n_boot, seed))


def video_metrics(
    scores: np.ndarray, labels: np.ndarray, n_boot: int, seed: int, groups: Sequence[str]
) -> pd.DataFrame:
    """Return ``metric_rows`` of videos: scores, labels, resampled groups (B,); n counts videos."""
    order = np.argsort(groups, kind="stable")
    videos = _single_frames(scores[order], labels[order], [groups[i] for i in order])
    return pd.DataFrame(metric_rows([videos], n_boot, seed, "video"))


def auc_statistic(labels: np.ndarray) -> Statistic:
    """Return video AUC (ties one half) as statistic of bootstrap_interval, paired_difference."""
    return lambda scores, w: frame_auc(_single_frames(scores, labels, range(len(labels))), w)


def _single_frames(scores: np.ndarray, labels: np.ndarray, names: Iterable) -> list[FrameScores]:
    parts = zip(names, scores[:, None], labels[:, None] > 0, strict=True)
    return [FrameScores(name, score, label, bool(label)) for name, score, label in parts]
