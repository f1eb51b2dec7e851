"""AUC / AP at video and frame level.

Ground truth is end-exclusive: an event [s, e) covers s and not e. Intervals resample videos.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.intervals import Interval, Statistic, bootstrap_interval
from detectors.resampling import (
    FRAME_METRICS,
    FrameMetric,
    FrameScores,
    frame_auc,
    frame_count,
    interval,
    resample,
)

Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def roc_auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of weighted items; ties count one half.

    scores (M,); positive, negative (..., M) are the weights of an item in either class -> (...).
    nan where a class has no weight.
    """
    true, false = _by_threshold(scores, positive, negative)
    above = true.cumsum(axis=-1) - true / 2  # positives that a negative is ranked below
    with np.errstate(invalid="ignore", divide="ignore"):
        return (false * above).sum(axis=-1) / (true.sum(axis=-1) * false.sum(axis=-1))


def average_precision(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Average precision, sum of (R_i - R_{i-1}) P_i over thresholds; arguments as in roc_auc."""
    gained, false = _by_threshold(scores, positive, negative)
    true, false = gained.cumsum(axis=-1), false.cumsum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(true > 0, true / (true + false), 0.0)
        area = (gained * precision).sum(axis=-1)
        return np.where(false[..., -1] > 0, area / true[..., -1], np.nan)


METRICS: dict[str, Metric] = {"AUC": roc_auc, "AP": average_precision}


def auc_statistic(labels: np.ndarray) -> Statistic:
    """AUC over videos as a statistic for bootstrap_interval and paired_difference."""
    return partial(_labelled, roc_auc, np.asarray(labels).astype(float))


def _labelled(
    metric: Metric, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    return metric(scores, weights * labels, weights * (1 - labels))


def video_metrics(
    scores: np.ndarray,
    labels: np.ndarray,
    n_boot: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Video-level AUC and AP: scores (B,), labels (B,) -> columns metric, value, low, high, n."""
    scores, labels = np.asarray(scores, float), np.asarray(labels).astype(float)
    if len(set(labels)) < 2:
        only = "abnormal" if labels.any() else "normal"
        raise InputError(f"AUC and AP need both classes, but all {len(labels)} videos are {only}")
    if not np.isfinite(scores).all():
        raise InputError(f"video scores: score {np.isfinite(scores).argmin()} is not finite")
    rows = []
    for name, metric in METRICS.items():
        statistic = partial(_labelled, metric, labels)
        rows.append((f"video {name}", bootstrap_interval(scores, statistic, n_boot, seed, groups)))
    return _table(rows)


def frame_metrics(videos: Sequence[FrameScores], n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Frame-level AUC and AP over all videos, and AUC inside abnormal videos only.

    Columns metric, value, low, high, n (frames). In-clip AUC leaves normal videos out, so it
    measures localisation alone. InputError names the metric whose frames are all of one class.
    """
    rows = []
    for name, metric, chosen in frame_plan(videos):
        values = resample([chosen], metric, name, n_boot, seed)
        rows.append((name, interval(values[0], frame_count(chosen))))
    return _table(rows)


def frame_plan(videos: Sequence[FrameScores]) -> list[tuple[str, FrameMetric, list[FrameScores]]]:
    """The frame-level metrics by name, each with the videos that it is over."""
    abnormal = [video for video in videos if video.abnormal]
    whole = [(f"frame {name}", metric, list(videos)) for name, metric in FRAME_METRICS.items()]
    return [*whole, ("in-clip frame AUC", frame_auc, abnormal)]


def _table(rows: Iterable[tuple[str, Interval]]) -> pd.DataFrame:
    return pd.DataFrame([{"metric": name, **interval._asdict()} for name, interval in rows])


def _by_threshold(scores: np.ndarray, *weights: np.ndarray) -> list[np.ndarray]:
    """Weights (..., M) summed over equal scores (M,), highest first: each (..., U)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    return [np.add.reduceat(weight[..., order], starts, axis=-1) for weight in weights]
