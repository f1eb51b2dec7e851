"""An exam: a benchmark's test videos, the footage made of them, and who sits it.

Clips of the mini world last 8 s and nearly all its events run to the end, so that their times could
be guessed. There several videos are joined to one footage (``joined``); the paper asks about one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from alertclip.cache import FrameCache, parallel_fill
from alertclip.errors import InputError
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from alertclip.video import probe, read_frames, uniform_indices
from companion import extraction, tuned_models
from companion.profiles import ROOT, Params
from detectors.benchmarks import load_benchmark, read_list
from detectors.features import snippet_frames
from detectors.fitting import class_prompts
from vagpt.answerers import Answerer, class_log_probabilities, model_answerer, similarity_answerer
from vagpt.effective_tokens import CHUNK
from vagpt.instructions import Ask
from vagpt.questions import Footage, Question, footage, join, make_questions, neighbours
from vagpt.temporal_classifier import FrameClassifier


class Exam(NamedTuple):
    """Videos, the numbers of those joined to each footage, the footages, and the questions."""

    videos: list[Footage]
    plans: list[list[int]]
    footages: list[Footage]
    questions: list[Question]
    step: float  # s between features
    paths: list[Path]

    def joined(self, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays (n, ...) per video -> one array per footage, by name."""
        plans = zip(self.footages, self.plans, strict=True)
        return {f.name: np.concatenate([parts[i] for i in plan]) for f, plan in plans}


def make_exam(
    P: Params,
    data: extraction.EvaluationSet,
    joined: int = 1,
    max_iou: float = 0.5,
    split: extraction.Split = "test",
    count: int | None = None,
) -> Exam:
    """Questions about a split's videos, or the first ``count``, half of them abnormal."""
    benchmark, root = extraction.detector_benchmark(P)
    length, chosen = extraction.snippet_rule(P.detector, "vadclip").length, _first(data, count)
    entries = {e.name: e.entry for e in read_list(benchmark, root, split)}
    truths = [data.named[i] for i in chosen]
    lengths = [length * len(data.features[i]) for i in chosen]
    videos = [footage(t, n, benchmark.fps) for t, n in zip(truths, lengths, strict=True)]
    plans = neighbours(videos, joined, P.seed)
    names = [video.name for video in videos]
    footages = [join([videos[i] for i in p], n) for p, n in zip(plans, names, strict=True)]
    questions = make_questions(footages, benchmark.abnormal_classes, P.seed, max_iou)
    paths = [benchmark.video_path(root, entries[name]) for name in names]
    return Exam(videos, plans, footages, questions, length / benchmark.fps, paths)


def _first(data: extraction.EvaluationSet, count: int | None) -> list[int]:
    abnormal = [i for i, truth in enumerate(data.named) if truth.is_abnormal]
    normal = [i for i, truth in enumerate(data.named) if not truth.is_abnormal]
    half = None if count is None else count // 2
    return sorted([*abnormal[:half], *normal[:half]])


def class_texts(P: Params, model: AlertCLIP) -> list[np.ndarray]:
    """Unit embeddings of P_N and of each abnormal class's sentences in the prompt file.

    A class that has none there stands as its name in words.
    """
    prompts, benchmark = (
        load_prompts(ROOT / P.evaluation.prompts),
        load_benchmark(P.detector.benchmark),
    )
    named = {c: prompts.classes.get(c) or class_prompts(benchmark, [c]) for c in benchmark.classes}
    sentences = [prompts.sets.normal, *(named[c] for c in benchmark.abnormal_classes)]
    return [tuned_models.text_embeddings(model, list(texts)) for texts in sentences]


def stage_answerer(
    P: Params,
    model: AlertCLIP,
    exam: Exam,
    vectors: Sequence[np.ndarray],
    classifier: FrameClassifier | None = None,
) -> Answerer:
    """A backbone as answerer from unit frame embeddings (n, D) of each video of the exam."""
    benchmark, texts = load_benchmark(P.detector.benchmark), class_texts(P, model)
    scale = float(model.logit_scale.detach().exp())
    logs = [
        class_log_probabilities(v, texts, scale, classifier and frame_logits(classifier, v))
        for v in vectors
    ]
    classes = [benchmark.normal_class, *benchmark.abnormal_classes]
    return similarity_answerer(exam.joined(logs), exam.step, classes)


def unit(features: np.ndarray) -> np.ndarray:
    """Image embeddings (n, D) at unit length."""
    return normalize(torch.from_numpy(features), dim=-1).numpy()


@torch.inference_mode()
def frame_logits(classifier: FrameClassifier, v: np.ndarray) -> np.ndarray:
    """Logits (n,) of the temporal classifier on unit frame embeddings (n, D)."""
    return classifier(torch.from_numpy(v)).numpy()


@torch.inference_mode()
def embed_frames(model: AlertCLIP, frames: np.ndarray) -> np.ndarray:
    """Unit image embeddings (n, D) of frames (n, H, W, 3) uint8 of the backbone's size."""
    pixels = torch.tensor(frames, device=model.mean.device).permute(0, 3, 1, 2)
    parts = [model.image_features(part).cpu() for part in pixels.split(CHUNK)]
    return normalize(torch.cat(parts), dim=-1).numpy()


def exam_frames(P: Params, exam: Exam, size: tuple[int, int]) -> list[np.ndarray]:
    """The frames behind the features of each video: (n, H, W, 3) uint8, through the cache."""
    rule, cache = extraction.snippet_rule(P.detector, "vadclip"), FrameCache(P.cache_dir, size)
    counts = [cache.info(path).frames for path in exam.paths]
    middle = rule.frames // 2
    requests = [
        (path, snippet_frames(n, rule)[:, middle])
        for path, n in zip(exam.paths, counts, strict=True)
    ]
    if failed := parallel_fill(cache, requests, P.workers):
        raise InputError(
            f"{len(failed)} videos cannot be decoded, first: {next(iter(failed.values()))}"
        )
    return [np.asarray(cache.get(*request)) for request in requests]


def vision_answerer(
    exam: Exam,
    ask: Ask,
    size: tuple[int, int],
    frames: int = 8,
    told: Mapping[str, str] | None = None,
) -> Answerer:
    """A vision-language model on ``frames`` frames of each video of a footage, with text priors."""
    parts = {f.name: plan for f, plan in zip(exam.footages, exam.plans, strict=True)}

    def read(name: str) -> list[np.ndarray]:
        seen = []
        for path in (exam.paths[i] for i in parts[name]):
            info = probe(path)
            indices = uniform_indices(0, info.duration, info.fps, info.frames, frames)
            seen += list(read_frames(path, indices, size))
        return seen

    return model_answerer(ask, read, told.__getitem__ if told else None)
