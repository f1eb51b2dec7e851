"""Questions, answers and tables of notebook 10."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from alertclip import intervals
from alertclip.model import AlertCLIP
from alertclip.mss import inside
from companion import extraction, tuned_models
from companion.profiles import Params
from companion.result_tables import per_cent, with_paper
from companion.splits import load_split
from companion.stage_runs import resolve_device
from detectors.benchmarks import read_list
from detectors.features import snippet_frames, snippet_rule
from detectors.fitting import EvaluationSet, class_prompts
from media.cache import FrameCache, parallel_fill
from media.errors import InputError
from vagpt import answerers, questions, temporal_classifier
from vagpt import effective_tokens as tokens
from vagpt.answerers import Answerer
from vagpt.questions import Footage, QuestionSet
from vagpt.temporal_classifier import FrameClassifier, frame_logits
from vagpt.timed_captions import TimedCaption, frame_labels, from_items

Vectors = Sequence[np.ndarray]
"""Unit frame embeddings (n, D) of each video."""
Spans = Mapping[str, tuple[float, float]]
"""Start and end of an interval in s, by footage."""


def ask_questions(P: Params, data: EvaluationSet, count: int | None = None) -> QuestionSet:
    """Questions on the benchmark's test videos, or on the first ``count``, half abnormal."""
    benchmark, root = extraction.detector_benchmark(P)
    entries = {e.name: e.entry for e in read_list(benchmark, root, "test")}
    abnormal, half = np.array([truth.is_abnormal for truth in data.named]), count and count // 2
    halves = (np.flatnonzero(abnormal == side)[:half] for side in (True, False))
    chosen = sorted(np.concatenate(list(halves)).tolist())
    lengths = [P.detector.snippet_length * len(features) for features in data.features]
    videos = [questions.footage(data.named[i], lengths[i], benchmark.fps) for i in chosen]
    paths = [benchmark.video_path(root, entries[video.name]) for video in videos]
    return question_set(P, videos, paths)


def question_set(P: Params, videos: list[Footage], paths: list[Path]) -> QuestionSet:
    """Questions on footages, each of ``videos`` joined with neighbours; ``paths``: their files."""
    benchmark = P.benchmark
    parts = questions.neighbours(videos, P.qa.joined, P.seed)
    pairs = zip(parts, videos, strict=True)
    footages = [questions.join([videos[i] for i in p], video.name) for p, video in pairs]
    asked = questions.make_questions(footages, benchmark.abnormal_classes, P.seed, P.qa.max_iou)
    step = P.detector.snippet_length / benchmark.fps
    return QuestionSet(videos, parts, footages, asked, step, paths)


def stage_answerer(
    P: Params, model: AlertCLIP, asked: QuestionSet, vectors: Vectors,
    classifier: FrameClassifier | None = None,
) -> Answerer:  # fmt: skip
    """A backbone that answers by similarity to P_N and to each abnormal class's sentences.

    A class without sentences in the prompt file is represented by its name.
    """
    prompts, benchmark = tuned_models.prompts_of(P), P.benchmark
    sentences = [prompts.sets.normal]
    for name in benchmark.abnormal_classes:
        sentences.append(prompts.classes.get(name) or class_prompts(benchmark, [name]))
    texts = [tuned_models.text_embeddings(model, list(part)) for part in sentences]
    scale, logs = float(model.logit_scale.detach().exp()), []
    for v in vectors:
        anomaly = classifier and frame_logits(classifier, v)
        logs.append(answerers.class_log_probabilities(v, texts, scale, anomaly))
    classes = [benchmark.normal_class, *benchmark.abnormal_classes]
    return answerers.similarity_answerer(asked.joined(logs), asked.step, classes)


def fit_classifier(P: Params, model: AlertCLIP) -> FrameClassifier:
    """Train on frames of the detector's training videos, labelled by timed captions.

    Of several crops only the centre one is used: the others show the same frames.
    """
    data = extraction.training_set(P, model, "vadclip")
    step = P.detector.snippet_length / P.benchmark.fps
    captions: dict[str, list[TimedCaption]] = {}
    for caption in from_items(load_split(P, "train")[0]):
        captions.setdefault(caption.video, []).append(caption)
    frames, labels = {}, {}
    for name, features in zip(data.names, data.features, strict=True):
        if name in captions and name not in frames:  # the first crop is the centre
            times = (np.arange(len(features)) + 0.5) * step
            frames[name], labels[name] = tokens.unit(features), frame_labels(captions[name], times)
    if not frames:
        raise InputError("no training video has a timed caption; see annotations_train")
    joined = (np.concatenate(list(arrays.values())) for arrays in (frames, labels))
    return temporal_classifier.train_classifier(*joined, P.qa, P.seed)


def classifier_spans(asked: QuestionSet, classifier: FrameClassifier, vectors: Vectors) -> Spans:
    """Interval that the classifier chooses in each footage."""
    logits = asked.joined([frame_logits(classifier, v) for v in vectors])
    spans = {name: temporal_classifier.best_interval(values) for name, values in logits.items()}
    return {name: (asked.step * start, asked.step * end) for name, (start, end) in spans.items()}


def interval_table(P: Params, asked: QuestionSet, spans: Spans, model: str) -> pd.DataFrame:
    """Overlap of intervals with the longest event of each abnormal footage, in per cent.

    Columns setting (mean IoU; IoU >= 0.5), model, value, low, high, n; bootstrap over videos.
    """
    events = {f.name: max(f.spans, key=np.ptp) for f in asked.footages if f.spans}
    ious = np.array([questions.span_iou(spans[k], [event])[0] for k, event in events.items()])
    rows = []
    for setting, values in {"mean IoU": ious, "IoU >= 0.5": (ious >= 0.5).astype(float)}.items():
        interval = intervals.bootstrap_interval(values, intervals.mean, *P.draws)
        rows.append({"setting": setting, "model": model, **interval._asdict()})
    return per_cent(pd.DataFrame(rows))


def interval_curves(
    asked: QuestionSet, classifier: FrameClassifier, vectors: Vectors, model: str
) -> pd.DataFrame:
    """Frame probabilities of the first three abnormal footages of different classes.

    Columns video, time_s, model, score, truth, picked (inside the chosen interval).
    """
    logits = asked.joined([frame_logits(classifier, v) for v in vectors])
    first = {item.classes[0]: item for item in reversed(asked.footages) if item.spans}
    tables = []
    for name, item in list(first.items())[:3]:
        values = logits[item.name].astype(float)
        frames, (start, end) = np.arange(len(values)), temporal_classifier.best_interval(values)
        columns = {
            "video": f"{item.name} ({name})",
            "time_s": frames * asked.step,
            "model": model,
            "score": 1 / (1 + np.exp(-values)),
            "truth": inside((frames + 0.5) * asked.step, item.spans).astype(int),
            "picked": ((frames >= start) & (frames < end)).astype(int),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def video_frames(P: Params, asked: QuestionSet, size: tuple[int, int]) -> list[np.ndarray]:
    """Frames behind each video's embeddings, through the cache: (n, H, W, 3) uint8."""
    rule, cache = snippet_rule(P.detector, "vadclip"), FrameCache(P.cache_dir, size)
    snippets = [snippet_frames(cache.info(path).frames, rule) for path in asked.paths]
    middles = [frames[:, rule.frames // 2] for frames in snippets]
    requests = list(zip(asked.paths, middles, strict=True))
    if failed := parallel_fill(cache, requests, P.workers):
        first = next(iter(failed.values()))
        raise InputError(f"{len(failed)} videos cannot be decoded, first: {first}")
    return [np.asarray(cache.get(*request)) for request in requests]


def token_table(
    P: Params, model: AlertCLIP, asked: QuestionSet, frames: Vectors, shares: Sequence[float]
) -> pd.DataFrame:
    """Accuracy of Full on a share of the patches: those that changed most, or random ones.

    frames (n, H, W, 3) per video. The kept patches are pooled. They have attended to all others, so
    at VA-GPT's share the others are also painted grey before embedding. Columns as
    ``accuracy_table`` plus share (per cent) and rule.
    """
    patches = [tokens.backbone_patches(model, video) for video in frames]
    distances, tables = patch_distances(P, patches, frames), []
    for share, grey in [*((share, False) for share in shares), (P.qa.token_share, True)]:
        for rule in ("largest change", "drawn at random"):
            vectors = []
            for i, moved in enumerate(distances):
                kept = tokens.keep_random(moved.shape, share, P.seed + i)
                if rule == "largest change":
                    kept = tokens.keep_top(moved, share)
                if grey:
                    vectors.append(tokens.embed_frames(model, tokens.mask_frames(frames[i], kept)))
                else:
                    vectors.append(tokens.pool_kept(patches[i], kept))
            answerer = stage_answerer(P, model, asked, vectors)
            answers = answerers.answer_all(asked.questions, answerer)
            table = answerers.accuracy_table(answers, tuned_models.STAGES["full"])
            rule = f"{rule}, others grey" if grey else rule
            tables.append(table.assign(share=100 * share, rule=rule))
    return pd.concat(tables, ignore_index=True)


def patch_distances(P: Params, patches: Vectors, frames: Vectors) -> list[np.ndarray]:
    """Change of each patch of each video, on the grid of ``patches``: (n, h, w) per video."""
    if not P.qa.token_encoder:
        return [tokens.patch_difference(p) for p in patches]
    encode = tokens.timm_patches(P.qa.token_encoder, device=str(resolve_device(P)))
    moved = (tokens.patch_difference(encode(video)) for video in frames)
    return [tokens.on_grid(d, p.shape[1:3]) for d, p in zip(moved, patches, strict=True)]


def instruction_counts(captions: Sequence[TimedCaption], records: Sequence[dict]) -> pd.DataFrame:
    """Size of the instruction data beside VA-GPT's (supplementary, Table 1).

    Columns measure, model, value, paper. Captions without an end add no hours.
    """
    values = {
        "clips": len(records),
        "question-answer pairs": sum(len(record["conversations"]) // 2 for record in records),
        "hours": sum(c.end - c.start for c in captions if np.isfinite(c.end)) / 3600,
    }
    rows = [{"measure": k, "model": "instruction data", "value": v} for k, v in values.items()]
    return with_paper(pd.DataFrame(rows), "Instruction data", "measure")
