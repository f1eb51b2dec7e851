"""Recognition metrics: frame AUC and AP per class, open vocabulary, VadCLIP's mAP@IoU.

Also macro AUC and false alarms of detection. Segments and events are [start, end) in frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from detectors import frame_metrics as metrics
from detectors.event_annotations import SNIPPET, VideoTruth, frame_class_truth, mask_runs
from detectors.frame_metrics import Columns, FrameScores, interval
from media.errors import InputError

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
DEPTH = 0.6  # a segment lies in the upper 60% of a curve's range
SHARE = 0.7  # weight of the class confidence of the video in a segment's score
SHORTEST = 2  # frames of a segment


def macro_auc(videos: Sequence[FrameScores]) -> float:
    """Mean AUC of single videos, one frame of each label added to each (UBnormal, official)."""
    ends = FrameScores("", np.array([0.0, 1]), np.array([False, True]), True)
    aucs = [metrics.frame_auc([replace(v, video=""), ends], np.ones((1, 1))) for v in videos]
    return float(np.mean(aucs))


def false_alarm_rate(videos: Sequence[FrameScores]) -> float:
    """Share of normal videos' frames that score at least .5."""
    normal = [video.scores for video in videos if not video.abnormal]
    if not normal:
        raise InputError("false-alarm rate: no normal videos; give the whole test set")
    return float((np.concatenate(normal) >= 0.5).mean())


def class_metrics(
    seeds: Columns, classes: Sequence[str], normal_class: str, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """One-vs-rest frame AUC and AP per class and their means, mAUC and mAP (AnomalyCLIP).

    ``seeds`` hold the videos' class scores (F, C) of each detector seed; metrics are averaged over
    seeds. Columns class_name ("mean" over those that occur), metric, value, low, high, n.
    """
    occurs = np.any([video.truth.any(axis=0) for video in seeds[0]], axis=0)
    names = {name: c for c, name in enumerate(classes) if name != normal_class and occurs[c]}
    if not names:
        raise InputError("class metrics: no frame of any abnormal class; check the truth")
    columns = [
        [FrameScores(v.video, v.scores[:, c], v.truth[:, c], v.abnormal) for v in videos]
        for c in names.values()
        for videos in seeds  # a class's seeds side by side
    ]
    rows = []
    for metric, (values, n) in metrics.resampled_metrics(columns, n_boot, seed, "").items():
        per_class = zip(names, values.reshape(len(names), len(seeds), -1), strict=True)
        for name, selected in [("mean", values), *per_class]:
            rows.append({"class_name": name, "metric": metric, **interval(selected, n)._asdict()})
    return pd.DataFrame(rows)


def open_vocabulary(
    columns: Columns,
    truths: Sequence[VideoTruth],
    base: Sequence[str],
    novel: Sequence[str],
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Frame AUC and AP overall, on base and on novel classes (OVVAD, Wu et al., CVPR 2024).

    ``columns`` hold the scored videos of each detector seed; metrics are averaged over seeds.
    Columns of the result: subset, normals, metric, value, low, high, n. The paper does not say
    whether base and novel include the normal test videos; ``normals`` says if a row does. An
    abnormal video counts for its first class.
    """
    groups = {truth.name: "normal" for truth in truths}
    for truth in (truth for truth in truths if truth.is_abnormal):
        first = truth.classes[0] if truth.classes else "none"
        if (first in base) == (first in novel):
            raise InputError(f"{truth.name}: its class, {first}, must be either base or novel")
        groups[truth.name] = "base" if first in base else "novel"
    if unknown := [v.video for v in columns[0] if v.video not in groups]:
        raise InputError(f"{unknown[0]}: no such video in the truth; names must be equal")
    subsets = {"overall": ["base", "novel"], "base": ["base"], "novel": ["novel"]}
    rows = []
    for (subset, abnormal), normals in product(subsets.items(), (True, False)):
        kept = [*abnormal, *["normal"] * normals]
        selected = [[v for v in videos if groups[v.video] in kept] for videos in columns]
        for row in metrics.metric_rows(selected, n_boot, seed, subset):
            key = {"subset": subset, "normals": normals, "metric": row["metric"].split()[1]}
            rows.append(key | {name: row[name] for name in ("value", "low", "high", "n")})
    return pd.DataFrame(rows)


def curve_segments(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the segments of one class curve (T,) in time order: spans (K, 2) and scores (K,).

    A segment is a run of at least two frames above max - 0.6 (max - min). Its score is its maximum
    plus 0.7 times the class confidence, the mean of the highest sixteenth of the curve. Runs are
    disjoint, so the official non-maximum suppression would change nothing. A constant curve, or one
    shorter than 16 frames, has no segment.
    """
    count = len(curve) // SNIPPET
    confidence = np.sort(curve)[::-1][:count].mean() if count else 0
    if not confidence > 0:
        return np.empty((0, 2), int), np.empty(0)
    top, bottom = curve.max(), curve.min()
    runs = mask_runs(curve > top - (top - bottom) * DEPTH)
    runs = runs[runs[:, 1] - runs[:, 0] >= SHORTEST]
    peaks = [curve[start:end].max() for start, end in runs]
    return runs, np.array(peaks) + SHARE * confidence


def matches(
    video: np.ndarray, spans: np.ndarray, truth: Mapping[int, np.ndarray], iou: float
) -> np.ndarray:
    """Return which segments match an event, (K,) bool: video (K,), spans (K, 2), best score first.

    A segment takes the unmatched event of truth[video] (G, 2) of highest IoU, if at least ``iou``.
    """
    unmatched, hits = dict(truth), np.zeros(len(video), bool)
    for i, (number, (start, end)) in enumerate(zip(video, spans, strict=True)):
        starts, ends = unmatched.get(number, np.empty((0, 2), int)).T
        inner = np.maximum(np.minimum(end, ends) - np.maximum(start, starts), 0)
        ious = inner / (end - start + ends - starts - inner)
        if len(ious) and ious.max() >= iou:
            hits[i], unmatched[number] = True, np.delete(unmatched[number], ious.argmax(), axis=0)
    return hits


def detection_map(
    scores: Sequence[np.ndarray],
    truths: Sequence[VideoTruth],
    classes: Sequence[str],
    normal_class: str | None,
    with_normal: bool = True,
) -> pd.DataFrame:
    """mAP@IoU (VadCLIP) in per cent: columns metric ("mAP@0.1", ..., "mAP@AVG"), value.

    scores: (T, C) per video, columns as in classes, each snippet repeated for its 16 frames.
    normal_class: the class whose events are whole normal videos, or None as published for
    UCF-Crime, whose labels of normal videos name no class, so that "Normal" always has AP 0.
    with_normal False drops segments in normal videos but averages over the same classes (official
    excludeNormal). As in the official code, mAP is 0 if any class has no segment.
    """
    for truth in truths:
        frame_class_truth(truth, 0, classes)  # InputError for events of no class or an unknown one
    values = np.zeros((len(classes), len(THRESHOLDS)))
    for c, label in enumerate(classes):
        events, segments = {}, {}
        for i, (curves, truth) in enumerate(zip(scores, truths, strict=True)):
            labelled = zip(truth.spans, truth.span_classes, strict=True)
            class_spans = [span for span, name in labelled if name == label]
            if label == normal_class and not truth.is_abnormal:
                class_spans = [(0, len(curves))]
            events[i] = np.array(class_spans, int).reshape(-1, 2)
            if with_normal or truth.is_abnormal:
                segments[i] = curve_segments(curves[:, c])
        video = np.repeat(list(segments), [len(spans) for spans, _ in segments.values()])
        if not len(video):
            values[:] = 0
            break
        spans, confidence = map(np.concatenate, zip(*segments.values(), strict=True))
        order, count = np.argsort(-confidence, kind="stable"), sum(map(len, events.values()))
        for t, iou in enumerate(THRESHOLDS):  # AP: precision at each hit, averaged over events
            hits = matches(video[order], spans[order], events, iou)
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            values[c, t] = precision[hits].sum() / max(count, 1)
    means = 100 * values.mean(axis=0)
    names = [f"mAP@{iou:g}" for iou in THRESHOLDS]
    return pd.DataFrame({"metric": [*names, "mAP@AVG"], "value": [*means, means.mean()]})
