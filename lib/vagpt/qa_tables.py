"""The tables of notebook 10: the temporal classifier, effective tokens, and the paper's numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from alertclip import mss
from alertclip.errors import InputError
from alertclip.model import AlertCLIP
from companion import extraction
from companion.profiles import Params
from companion.result_tables import per_cent, with_paper
from companion.splits import load_split
from detectors.benchmarks import load_benchmark
from detectors.frame_metrics import inside
from vagpt import effective_tokens
from vagpt.answerers import accuracy_table, answer_all
from vagpt.exam import Exam, embed_frames, frame_logits, stage_answerer, unit
from vagpt.questions import span_iou
from vagpt.temporal_classifier import (
    ClassifierSettings,
    FrameClassifier,
    best_interval,
    text_prior,
    train_classifier,
)
from vagpt.uca import TimedCaption, frame_labels, from_items

Intervals = Mapping[str, tuple[float, float, float]]
"""Start and end in s and confidence, by footage."""


def fit_classifier(P: Params, model: AlertCLIP, settings: ClassifierSettings) -> FrameClassifier:
    """Train on the frames of the detector's training videos, labelled from timed captions.

    Of several crops the centre alone: the others show the same frames.
    """
    data, benchmark = (
        extraction.training_set(P, model, "vadclip"),
        load_benchmark(P.detector.benchmark),
    )
    step = extraction.snippet_rule(P.detector, "vadclip").length / benchmark.fps
    captions: dict[str, list[TimedCaption]] = {}
    for caption in from_items(load_split(P, "train")[0]):
        captions.setdefault(caption.video, []).append(caption)
    centre: dict[str, int] = {}  # the first crop of each video
    for i, name in enumerate(data.names):
        centre.setdefault(name, i)
    kept = [i for name, i in centre.items() if name in captions]
    if not kept:
        raise InputError("no training video has a timed caption; see annotations_train")
    times = [(np.arange(len(data.features[i])) + 0.5) * step for i in kept]
    labels = [frame_labels(captions[data.names[i]], t) for i, t in zip(kept, times, strict=True)]
    frames = np.concatenate([unit(data.features[i]) for i in kept])
    return train_classifier(frames, np.concatenate(labels), settings)


def footage_intervals(
    exam: Exam, classifier: FrameClassifier, vectors: Sequence[np.ndarray]
) -> Intervals:
    """The classifier's interval in each footage: start and end in s, and its confidence."""
    logits = exam.joined([frame_logits(classifier, v) for v in vectors])
    found = {name: best_interval(values) for name, values in logits.items()}
    return {k: (exam.step * i.start, exam.step * i.end, i.confidence) for k, i in found.items()}


def interval_table(P: Params, exam: Exam, intervals: Intervals, model: str) -> pd.DataFrame:
    """How well intervals meet the longest event of each abnormal footage, in per cent.

    Columns setting (mean IoU; IoU of 0.5 or more), model, value, low, high, n; bootstrap over
    videos.
    """
    ious = []
    for item in exam.footages:
        if item.spans:
            longest = max(item.spans, key=lambda span: span[1] - span[0])
            ious.append(float(span_iou(intervals[item.name][:2], np.array([longest]))[0]))
    measures = {"mean IoU": np.array(ious), "IoU >= 0.5": np.greater_equal(ious, 0.5).astype(float)}
    rows = []
    for setting, values in measures.items():
        interval = mss.bootstrap_interval(
            values, n_boot=P.evaluation.bootstrap_samples, seed=P.seed
        )
        rows.append({"setting": setting, "model": model, **interval._asdict()})
    return per_cent(pd.DataFrame(rows))


def whole(exam: Exam) -> Intervals:
    """The control of ``footage_intervals``: all of each footage."""
    return {item.name: (0.0, item.duration, 1.0) for item in exam.footages}


def priors(P: Params, intervals: Intervals) -> dict[str, str]:
    """The text prior of each footage."""
    classes = load_benchmark(P.detector.benchmark).abnormal_classes
    return {name: text_prior(classes, start, end) for name, (start, end, _) in intervals.items()}


def interval_curves(
    exam: Exam,
    classifier: FrameClassifier,
    vectors: Sequence[np.ndarray],
    model: str,
    count: int = 3,
) -> pd.DataFrame:
    """Frame probabilities of the first ``count`` abnormal footages of different classes.

    Columns video, time_s, model, score, truth, picked (inside the chosen interval).
    """
    logits = exam.joined([frame_logits(classifier, v) for v in vectors])
    first = {item.classes[0]: item for item in reversed(exam.footages) if item.spans}
    tables = []
    for name, item in list(first.items())[:count]:
        values = logits[item.name]
        times, frames = np.arange(len(values)) * exam.step, np.arange(len(values))
        chosen = best_interval(values)
        columns = {
            "video": f"{item.name} ({name})",
            "time_s": times,
            "model": model,
            "score": 1 / (1 + np.exp(-values.astype(float))),
            "truth": inside(times + exam.step / 2, item.spans).astype(int),
            "picked": ((frames >= chosen.start) & (frames < chosen.end)).astype(int),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def token_table(
    P: Params,
    model: AlertCLIP,
    exam: Exam,
    patches: Sequence[np.ndarray],
    shares: Sequence[float],
    name: str,
) -> pd.DataFrame:
    """Accuracy with frames embedded from kept patches alone: those that changed, or drawn ones.

    patches (n, h, w, D) per video. Columns as ``accuracy_table`` plus share (per cent) and rule.
    """
    tables = []
    for share in shares:
        kept = [
            effective_tokens.keep_top(effective_tokens.patch_difference(p), share) for p in patches
        ]
        drawn = [
            effective_tokens.keep_random(p.shape[:3], share, P.seed + i)
            for i, p in enumerate(patches)
        ]
        for rule, masks in {"largest change": kept, "drawn at random": drawn}.items():
            v = [
                effective_tokens.pool_kept(p, mask) for p, mask in zip(patches, masks, strict=True)
            ]
            answers = answer_all(exam.questions, stage_answerer(P, model, exam, v))
            table = accuracy_table(answers, name)
            tables.append(table.assign(share=100 * share, rule=rule))
    return pd.concat(tables, ignore_index=True)


def masked_table(
    P: Params,
    model: AlertCLIP,
    exam: Exam,
    frames: Sequence[np.ndarray],
    patches: Sequence[np.ndarray],
    share: float,
    name: str,
) -> pd.DataFrame:
    """Accuracy with the other patches painted grey before the frames (n, H, W, 3) are embedded.

    Columns as ``token_table``. Tokens have attended to each other; pixels that are gone are gone.
    """
    distances = [effective_tokens.patch_difference(p) for p in patches]
    rules = {
        "largest change, others grey": [effective_tokens.keep_top(d, share) for d in distances],
        "drawn at random, others grey": [
            effective_tokens.keep_random(d.shape, share, P.seed + i)
            for i, d in enumerate(distances)
        ],
    }
    tables = []
    for rule, masks in rules.items():
        grey = [
            effective_tokens.mask_frames(f, mask) for f, mask in zip(frames, masks, strict=True)
        ]
        v = [embed_frames(model, part) for part in grey]
        answers = answer_all(exam.questions, stage_answerer(P, model, exam, v))
        tables.append(accuracy_table(answers, name).assign(share=100 * share, rule=rule))
    return pd.concat(tables, ignore_index=True)


def instruction_counts(captions: Sequence[TimedCaption], records: Sequence[dict]) -> pd.DataFrame:
    """Size of instruction data beside VA-GPT's (supplementary, Table 1).

    Columns measure, model, value, paper. Captions to the end of a video count as no time.
    """
    lengths = [c.end - c.start for c in captions if np.isfinite(c.end)]
    values = {
        "clips": len(records),
        "question-answer pairs": sum(len(record["conversations"]) // 2 for record in records),
        "hours": sum(lengths) / 3600,
    }
    rows = [{"measure": k, "model": "instruction data", "value": v} for k, v in values.items()]
    return with_paper(pd.DataFrame(rows), "Instruction data", "measure")
