"""Recognition and detection metrics over frames, each with a bootstrap interval over videos.

Scores and truth are per frame; all intervals come from the machinery behind frame_metrics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from alertclip.data.annotations import VideoTruth
from alertclip.diagnosis import Interval, bootstrap_interval
from alertclip.errors import InputError
from alertclip.evaluation.metrics import (
    METRICS,
    FrameScores,
    Metric,
    compress,
    frame_metrics,
    roc_auc,
)

NAMES = {"frame AUC": "micro AUC", "in-clip frame AUC": "AnoAUC"}  # of the field


@dataclass(frozen=True)
class ClassScores:
    """Class probabilities and truth of one video's frames: both (F, C), columns as the classes."""

    video: str
    scores: np.ndarray
    truth: np.ndarray


def anomaly_metrics(
    videos: Sequence[FrameScores], threshold: float = 0.5, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """The field's class-agnostic metrics: columns metric, value, low, high, n.

    micro AUC: one ROC over all frames; frame AP; AnoAUC: frames of abnormal videos only (VadCLIP);
    macro AUC (UBnormal); false-alarm rate at the threshold. InputError names a video whose scores
    and truth differ in length, or the metric whose frames are all of one class.
    """
    table = frame_metrics(videos, n_boot, seed)
    rows = {
        "macro AUC": macro_auc(videos, n_boot, seed),
        "false-alarm rate": false_alarm_rate(videos, threshold, n_boot, seed),
    }
    more = pd.DataFrame([{"metric": name, **row._asdict()} for name, row in rows.items()])
    table = pd.concat([table, more], ignore_index=True)
    return table.assign(metric=table["metric"].replace(NAMES))


def macro_auc(videos: Sequence[FrameScores], n_boot: int = 1000, seed: int = 0) -> Interval:
    """Mean over videos of their own AUC (UBnormal, official code); n counts videos.

    Each video gets a normal frame of score 0 and an abnormal one of score 1, so that it has both.
    """
    values = []
    for video in map(_checked, videos):
        scores = np.concatenate([video.scores, [0.0, 1.0]])
        truth = np.concatenate([video.truth, [0.0, 1.0]])
        values.append(float(roc_auc(scores, truth, 1 - truth)))
    return bootstrap_interval(np.array(values), n_boot=n_boot, seed=seed, groups=_names(videos))


def false_alarm_rate(
    videos: Sequence[FrameScores], threshold: float = 0.5, n_boot: int = 1000, seed: int = 0
) -> Interval:
    """Share of the frames of normal videos that score at least the threshold; n counts frames."""
    normal = [_checked(video) for video in videos if not video.abnormal]
    if not normal:
        raise InputError("false-alarm rate: no normal videos; give the whole test set")
    counts = np.array([[(v.scores >= threshold).sum(), len(v.scores)] for v in normal], float)

    def share(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        alarms, frames = (weights @ values).T
        return alarms / frames

    interval = bootstrap_interval(counts, share, n_boot, seed, groups=_names(normal))
    return interval._replace(n=int(counts[:, 1].sum()))


def class_metrics(
    videos: Sequence[ClassScores],
    classes: Sequence[str],
    normal_class: str,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One-vs-rest frame AUC and AP per class and their means, mAUC and mAP (AnomalyCLIP).

    Columns class_name, metric, value, low, high, n; first the means, "mean", over the abnormal
    classes that occur. A class's positives are its frames, its negatives all other frames of all
    videos. InputError if no class occurs, or names a video whose shapes differ.
    """
    columns = class_columns(videos, classes, normal_class)
    rows = []
    groups = {"mean": list(columns.values())} | {name: [v] for name, v in columns.items()}
    for name, chosen in groups.items():
        for kind, metric in METRICS.items():
            interval = frame_metric(chosen, metric, f"{name} {kind}", n_boot, seed)
            rows.append({"class_name": name, "metric": kind, **interval._asdict()})
    return pd.DataFrame(rows)


def open_vocabulary(
    columns: Sequence[Sequence[FrameScores]],
    truths: Sequence[VideoTruth],
    base: Sequence[str],
    novel: Sequence[str],
    drop_multi_label: bool = False,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Frame AUC and AP overall, on base and on novel classes (OVVAD, Wu et al., CVPR 2024).

    ``columns`` are the scored videos once per detector seed, which are averaged. Columns of the
    result: subset, normals, metric, value, low, high, n. The paper does not say whether base and
    novel include the normal test videos: ``normals`` tells the two readings apart. An abnormal
    video belongs to its first class; ``drop_multi_label`` leaves those with several classes out.
    """
    found = {truth.name: truth for truth in truths}
    parts = {v.video: _part(v, found, base, novel, drop_multi_label) for v in columns[0]}
    subsets = {"overall": {"base", "novel"}, "base": {"base"}, "novel": {"novel"}}
    rows = []
    for subset, wanted in subsets.items():
        for normals in (True, False):
            kept = wanted | {"normal"} if normals else wanted
            chosen = [[v for v in videos if parts[v.video] in kept] for videos in columns]
            for name, metric in METRICS.items():
                what = f"{subset} {name}"
                interval = frame_metric(chosen, metric, what, n_boot, seed)._asdict()
                rows.append({"subset": subset, "normals": normals, "metric": name, **interval})
    return pd.DataFrame(rows)


def frame_metric(
    columns: Sequence[Sequence[FrameScores]],
    metric: Metric,
    name: str,
    n_boot: int,
    seed: int,
    combine: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Interval:
    """A metric over several columns of the same videos, one per class, seed or model.

    All columns see the same resampled videos. ``combine`` makes one number of the columns'
    (len(columns), n) -> (n,); default: the mean of those defined. n counts frames.
    """
    parts = [compress(videos, name) for videos in columns]
    bounds = np.cumsum([0, *(len(part[0]) for part in parts)])
    slices = [slice(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
    owner, scores, positive, negative = map(np.concatenate, zip(*parts, strict=True))
    combine = combine or _mean_of_defined

    def statistic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        each = [
            metric(values[c], weights[:, c] * positive[c], weights[:, c] * negative[c])
            for c in slices
        ]
        return combine(np.stack(each))

    interval = bootstrap_interval(scores, statistic, n_boot, seed, groups=owner)
    return interval._replace(n=int(positive[: bounds[1]].sum() + negative[: bounds[1]].sum()))


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over classes, (C, n) -> (n,), without the nan of those that a resample lacks."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)


def class_columns(
    videos: Sequence[ClassScores], classes: Sequence[str], normal_class: str
) -> dict[str, list[FrameScores]]:
    """Frame scores of each abnormal class that occurs, one-vs-rest, by class."""
    if normal_class not in classes:
        raise InputError(f"normal class {normal_class} is none of {', '.join(classes)}")
    for video in videos:
        shapes = video.scores.shape, video.truth.shape
        if shapes[0] != shapes[1] or shapes[0][1:] != (len(classes),):
            raise InputError(
                f"{video.video}: scores {shapes[0]} and truth {shapes[1]}, expected both to be"
                f" (frames, {len(classes)})"
            )
    columns = {}
    for c, name in enumerate(classes):
        occurs = [bool(video.truth[:, c].any()) for video in videos]
        if name != normal_class and any(occurs):
            columns[name] = [
                FrameScores(v.video, v.scores[:, c], v.truth[:, c], has)
                for v, has in zip(videos, occurs, strict=True)
            ]
    if not columns:
        raise InputError("class metrics: no frame of any abnormal class; check the truth")
    return columns


def _part(
    video: FrameScores,
    found: dict[str, VideoTruth],
    base: Sequence[str],
    novel: Sequence[str],
    drop_multi_label: bool,
) -> str:
    truth = found.get(video.video)
    if truth is None:
        raise InputError(f"{video.video}: no such video in the truth; names must be equal")
    if not truth.is_abnormal:
        return "normal"
    if drop_multi_label and len(truth.classes) > 1:
        return "dropped"
    first = truth.classes[0] if truth.classes else "none"
    if (first in base) == (first in novel):
        raise InputError(f"{video.video}: its class, {first}, must be either base or novel")
    return "base" if first in base else "novel"


def _checked(video: FrameScores) -> FrameScores:
    if len(video.scores) != len(video.truth):
        raise InputError(
            f"{video.video}: {len(video.scores)} scores for {len(video.truth)} frames of truth"
        )
    if not np.isfinite(video.scores).all():
        raise InputError(f"{video.video}: its scores are not finite")
    return video


def _names(videos: Sequence[FrameScores]) -> list[str]:
    return [video.video for video in videos]
