"""Per-class and open-vocabulary frame metrics with intervals over videos, and false alarms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from detectors.event_annotations import VideoTruth
from detectors.frame_metrics import roc_auc
from detectors.resampling import (
    FRAME_METRICS,
    FrameScores,
    check_video,
    frame_count,
    interval,
    mean_of_defined,
    resample,
)

NAMES = {"in-clip frame AUC": "AnoAUC"}  # of the field


@dataclass(frozen=True)
class ClassScores:
    """Class probabilities and truth of one video's frames: both (F, C), columns as the classes."""

    video: str
    scores: np.ndarray
    truth: np.ndarray


def macro_auc(videos: Sequence[FrameScores]) -> float:
    """Mean over videos of their own AUC (UBnormal, official code).

    Each video gets a normal frame of score 0 and an abnormal one of score 1, so that it has both.
    """
    values = []
    for video in videos:
        check_video(video)
        scores = np.concatenate([video.scores, [0.0, 1.0]])
        truth = np.concatenate([video.truth, [0.0, 1.0]])
        values.append(float(roc_auc(scores, truth, 1 - truth)))
    return float(np.mean(values))


def false_alarm_rate(videos: Sequence[FrameScores], threshold: float = 0.5) -> float:
    """Share of the frames of normal videos that score at least the threshold."""
    normal = [video for video in videos if not video.abnormal]
    if not normal:
        raise InputError("false-alarm rate: no normal videos; give the whole test set")
    for video in normal:
        check_video(video)
    return float((np.concatenate([video.scores for video in normal]) >= threshold).mean())


def class_metrics(
    seeds: Sequence[Sequence[ClassScores]],
    classes: Sequence[str],
    normal_class: str,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One-vs-rest frame AUC and AP per class and their means, mAUC and mAP (AnomalyCLIP).

    ``seeds`` are the scored videos once per detector seed, which are averaged. Columns class_name,
    metric, value, low, high, n; first the means, "mean", over the abnormal classes that occur. A
    class's positives are its frames, its negatives all other frames of all videos. InputError if
    no class occurs, or names a video whose shapes differ.
    """
    parts = [class_columns(videos, classes, normal_class) for videos in seeds]
    names = list(parts[0])
    columns = [part[name] for name in names for part in parts]  # a class's seeds side by side
    rows, n = [], frame_count(columns[0])
    for kind, metric in FRAME_METRICS.items():
        values = resample(columns, metric, f"class {kind}", n_boot, seed)
        each = values.reshape(len(names), len(seeds), -1)
        named = {"mean": values} | dict(zip(names, each, strict=True))
        for name, chosen in named.items():
            found = interval(mean_of_defined(chosen), n)
            rows.append({"class_name": name, "metric": kind, **found._asdict()})
    return pd.DataFrame(rows)


def open_vocabulary(
    columns: Sequence[Sequence[FrameScores]],
    truths: Sequence[VideoTruth],
    base: Sequence[str],
    novel: Sequence[str],
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Frame AUC and AP overall, on base and on novel classes (OVVAD, Wu et al., CVPR 2024).

    ``columns`` are the scored videos once per detector seed, which are averaged. Columns of the
    result: subset, normals, metric, value, low, high, n. The paper does not say whether base and
    novel include the normal test videos: ``normals`` tells the two readings apart. An abnormal
    video belongs to its first class.
    """
    found = {truth.name: truth for truth in truths}
    parts = {v.video: _part(v, found, base, novel) for v in columns[0]}
    subsets = {"overall": {"base", "novel"}, "base": {"base"}, "novel": {"novel"}}
    rows = []
    for subset, wanted in subsets.items():
        for normals in (True, False):
            kept = wanted | {"normal"} if normals else wanted
            chosen = [[v for v in videos if parts[v.video] in kept] for videos in columns]
            for name, metric in FRAME_METRICS.items():
                values = resample(chosen, metric, f"{subset} {name}", n_boot, seed)
                found = interval(mean_of_defined(values), frame_count(chosen[0]))
                row = {"subset": subset, "normals": normals, "metric": name}
                rows.append(row | found._asdict())
    return pd.DataFrame(rows)


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
) -> str:
    truth = found.get(video.video)
    if truth is None:
        raise InputError(f"{video.video}: no such video in the truth; names must be equal")
    if not truth.is_abnormal:
        return "normal"
    first = truth.classes[0] if truth.classes else "none"
    if (first in base) == (first in novel):
        raise InputError(f"{video.video}: its class, {first}, must be either base or novel")
    return "base" if first in base else "novel"
