"""Temporal detection: VadCLIP's mAP@IoU (Wu et al. 2024, official code).

Segments are [start, end) in frames. Scores are one class curve per video, such as VadCLIP's
softmax over classes, each snippet repeated for its 16 frames.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from detectors.event_annotations import SNIPPET, VideoTruth, frame_class_truth, mask_runs

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
DEPTH = 0.6  # a segment is where a curve lies in the upper 60% of its range
SHARE = 0.7  # weight of the video's class confidence in a segment's score
SHORTEST = 2  # frames


def temporal_iou(span: Sequence[int], spans: np.ndarray) -> np.ndarray:
    """Frames in both over frames in either: span (2,), spans (K, 2) -> (K,)."""
    spans = np.asarray(spans)
    inner = np.minimum(span[1], spans[:, 1]) - np.maximum(span[0], spans[:, 0])
    inner = np.maximum(inner, 0)
    union = (span[1] - span[0]) + (spans[:, 1] - spans[:, 0]) - inner
    return inner / np.maximum(union, 1)


def curve_segments(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments of one class curve (T,) in order of time: spans (K, 2) and scores (K,).

    A segment is a run above max - 0.6 (max - min) of at least two frames; its score is its
    maximum plus 0.7 of the class confidence, the mean of the highest sixteenth of the curve. A
    constant curve, one shorter than 16 frames, and one without confidence have none. The official
    suppression of overlapping segments has nothing to do, for runs are disjoint.
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
    """Which segments hit, (K,) bool: video (K,), spans (K, 2), highest first; truth[video] (G, 2).

    A segment takes the remaining event of its video that it overlaps most, by at least iou.
    """
    left = dict(truth)
    hits = np.zeros(len(video), bool)
    for i, (number, span) in enumerate(zip(video, spans, strict=True)):
        overlap = temporal_iou(span, left.get(number, np.empty((0, 2), int)))
        if len(overlap) and overlap.max() >= iou:
            hits[i], left[number] = True, np.delete(left[number], overlap.argmax(), axis=0)
    return hits


def detection_average_precision(hits: np.ndarray, n_events: int) -> float:
    """Sum of the precision at each hit over the number of events; 0 without a hit. hits (K,)."""
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / max(n_events, 1))


def detection_map(
    scores: Sequence[np.ndarray],
    truths: Sequence[VideoTruth],
    classes: Sequence[str],
    normal_class: str | None,
    with_normal: bool = True,
) -> pd.DataFrame:
    """mAP@IoU in per cent: columns metric ("mAP@0.1", ..., "mAP@AVG"), value.

    scores: (T, C) per video, columns as in classes. normal_class: the class whose events are
    whole normal videos; None as published for UCF-Crime, where the labels of normal videos name no
    class, so that the class "Normal" always has AP 0. with_normal False leaves the segments
    found in normal videos out; the classes averaged over stay the same (official excludeNormal).
    As in the official code the whole mAP is 0 if a class has no segment in any video.
    """
    values = np.zeros((len(classes), len(THRESHOLDS)))
    for c, label in enumerate(classes):
        events, found = {}, {}
        for i, (curves, truth) in enumerate(zip(scores, truths, strict=True)):
            events[i] = _events(truth, len(curves), classes, label, label == normal_class)
            if with_normal or truth.is_abnormal:
                found[i] = curve_segments(curves[:, c])
        video = np.repeat(list(found), [len(spans) for spans, _ in found.values()])
        if not len(video):
            values[:] = 0
            break
        spans, confidence = map(np.concatenate, zip(*found.values(), strict=True))
        order, count = np.argsort(-confidence, kind="stable"), sum(map(len, events.values()))
        hits = [matches(video[order], spans[order], events, iou) for iou in THRESHOLDS]
        values[c] = [detection_average_precision(hit, count) for hit in hits]
    means = 100 * values.mean(axis=0)
    names = [f"mAP@{iou:g}" for iou in THRESHOLDS]
    return pd.DataFrame({"metric": [*names, "mAP@AVG"], "value": [*means, means.mean()]})


def _events(
    truth: VideoTruth, length: int, classes: Sequence[str], label: str, is_normal: bool
) -> np.ndarray:
    """Events (G, 2) of a class in a video; of the normal class, the whole of a normal video."""
    frame_class_truth(truth, 0, classes)  # refuses events without a class, or of another
    if is_normal and not truth.is_abnormal:
        return np.array([(0, length)])
    labelled = zip(truth.spans, truth.span_classes, strict=True)
    return np.array([span for span, name in labelled if name == label], int).reshape(-1, 2)
