"""Temporal detection: VadCLIP's mAP@IoU (Wu et al. 2024, official code).

Segments are [start, end) in frames. Scores are one class curve per video, such as VadCLIP's
softmax over classes, each snippet repeated for its 16 frames.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from detectors.event_annotations import SNIPPET, VideoTruth, frame_class_truth, mask_runs

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
DEPTH = 0.6  # a segment is where a curve lies in the upper 60% of its range
SHARE = 0.7  # weight of the video's class confidence in a segment's score
SUPPRESSION = 0.6  # IoU above which the weaker of two segments goes
SHORTEST = 2  # frames


class Segments(NamedTuple):
    """Predicted segments: video (K,), spans (K, 2), scores (K,)."""

    video: np.ndarray
    spans: np.ndarray
    scores: np.ndarray


def temporal_iou(span: Sequence[int], spans: np.ndarray) -> np.ndarray:
    """Frames in both over frames in either: span (2,), spans (K, 2) -> (K,)."""
    spans = np.asarray(spans)
    inner = np.minimum(span[1], spans[:, 1]) - np.maximum(span[0], spans[:, 0])
    inner = np.maximum(inner, 0)
    union = (span[1] - span[0]) + (spans[:, 1] - spans[:, 0]) - inner
    return inner / np.maximum(union, 1)


def class_confidence(curve: np.ndarray) -> float:
    """Mean of the highest sixteenth of a class curve (T,); nan if T < 16."""
    count = len(curve) // SNIPPET
    return np.sort(curve)[::-1][:count].mean() if count else np.nan


def curve_segments(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments of one class curve (T,): spans (K, 2) and scores (K,), highest first.

    A segment is a run above max - 0.6 (max - min) of at least two frames; its score is its
    maximum plus 0.7 of the class confidence. A constant curve, one shorter than 16 frames, and
    one without confidence have none.
    """
    confidence = class_confidence(curve)
    if not confidence > 0:
        return np.empty((0, 2), int), np.empty(0)
    top, bottom = curve.max(), curve.min()
    runs = mask_runs(curve > top - (top - bottom) * DEPTH)
    runs = runs[runs[:, 1] - runs[:, 0] >= SHORTEST]
    peaks = [curve[start:end].max() for start, end in runs]
    return non_maximum_suppression(runs, np.array(peaks) + SHARE * confidence)


def non_maximum_suppression(
    spans: np.ndarray, scores: np.ndarray, iou: float = SUPPRESSION
) -> tuple[np.ndarray, np.ndarray]:
    """Spans (K, 2) and scores (K,) that no higher one overlaps by more than iou, highest first."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[temporal_iou(spans[best], spans[order]) <= iou]
    return spans[kept], scores[kept]


def predicted_segments(curves: Sequence[np.ndarray]) -> Segments:
    """Segments of one class over all videos, highest first: curves are (T,) per video."""
    found = [curve_segments(curve) for curve in curves]
    video = np.repeat(np.arange(len(found)), [len(spans) for spans, _ in found])
    scores = np.concatenate([scores for _, scores in found])
    order = np.argsort(-scores, kind="stable")
    spans = np.concatenate([spans for spans, _ in found])
    return Segments(video[order], spans[order], scores[order])


def matches(found: Segments, truth: Mapping[int, np.ndarray], iou: float) -> np.ndarray:
    """Which segments hit, (K,) bool, highest first: each event, truth[video] (G, 2), is hit once.

    A segment takes the remaining event of its video that it overlaps most, by at least iou.
    """
    left = dict(truth)
    hits = np.zeros(len(found.video), bool)
    for i, (video, span) in enumerate(zip(found.video, found.spans, strict=True)):
        events = left.get(video)
        if events is None or not len(events):
            continue
        overlap = temporal_iou(span, events)
        best = int(overlap.argmax())
        if overlap[best] >= iou:
            hits[i], left[video] = True, np.delete(events, best, axis=0)
    return hits


def detection_average_precision(hits: np.ndarray, n_events: int) -> float:
    """Sum of the precision at each hit over the number of events; 0 without a hit. hits (K,)."""
    if not hits.any():
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / n_events)


def class_events(
    truths: Sequence[VideoTruth], lengths: Sequence[int], label: str, is_normal: bool
) -> dict[int, np.ndarray]:
    """Events of a class by video index, (G, 2); those of the normal class are whole normal videos.

    lengths: frames per video.
    """
    events = {}
    for i, (truth, length) in enumerate(zip(truths, lengths, strict=True)):
        labelled = zip(truth.spans, truth.span_classes, strict=True)
        spans = [span for span, name in labelled if name == label]
        if is_normal and not truth.is_abnormal:
            spans = [(0, length)]
        if spans:
            events[i] = np.array(spans)
    return events


def detection_map(
    scores: Sequence[np.ndarray],
    truths: Sequence[VideoTruth],
    classes: Sequence[str],
    normal_class: str | None,
    with_normal: bool = True,
    thresholds: Sequence[float] = THRESHOLDS,
) -> pd.DataFrame:
    """mAP@IoU in per cent: columns metric ("mAP@0.1", ..., "mAP@AVG"), value.

    scores: (T, C) per video, columns as in classes. normal_class: the class whose events are
    whole normal videos; None as published for UCF-Crime, where the labels of normal videos name no
    class, so that the class "Normal" always has AP 0. with_normal False leaves the segments
    found in normal videos out; the classes averaged over stay the same (official excludeNormal).
    As in the official code the whole mAP is 0 if a class has no segment in any video.
    """
    _check(scores, truths, classes, normal_class)
    lengths = [len(curves) for curves in scores]
    used = np.array([with_normal or truth.is_abnormal for truth in truths])
    values = np.zeros((len(classes), len(thresholds)))
    for c, label in enumerate(classes):
        # A video left out keeps its place, so that indices still agree with the events.
        curves = [s[:, c] if keep else s[:0, c] for s, keep in zip(scores, used, strict=True)]
        found = predicted_segments(curves)
        if not len(found.video):
            values[:] = 0
            break
        events = class_events(truths, lengths, label, label == normal_class)
        count = sum(map(len, events.values()))
        values[c] = [
            detection_average_precision(matches(found, events, iou), count) for iou in thresholds
        ]
    means = 100 * values.mean(axis=0)
    names = [f"mAP@{iou:g}" for iou in thresholds]
    return pd.DataFrame({"metric": [*names, "mAP@AVG"], "value": [*means, means.mean()]})


def _check(
    scores: Sequence[np.ndarray],
    truths: Sequence[VideoTruth],
    classes: Sequence[str],
    normal_class: str | None,
) -> None:
    if len(scores) != len(truths) or not len(truths):
        raise InputError(f"scores of {len(scores)} videos for the truth of {len(truths)}")
    if normal_class is not None and normal_class not in classes:
        raise InputError(f"normal class {normal_class} is none of {', '.join(classes)}")
    for curves, truth in zip(scores, truths, strict=True):
        if curves.ndim != 2 or curves.shape[1] != len(classes):
            shape = f"{curves.shape}, expected (T, {len(classes)})"
            raise InputError(f"{truth.name}: scores of shape {shape}")
        if not np.isfinite(curves).all():
            raise InputError(f"{truth.name}: its scores are not finite")
        frame_class_truth(truth, 0, classes)  # refuses events without a class, or of another
