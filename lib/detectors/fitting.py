"""Train a detector on frozen features (with CLIP's text tower or without), and score videos.

Training sees video-level labels only.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from alertclip.model import AlertCLIP
from detectors.anomalyclip.model import AnomalyCLIP, normality_prototype
from detectors.anomalyclip.model import score_video as score_anomalyclip
from detectors.anomalyclip.settings import anomalyclip_settings
from detectors.anomalyclip.training import fit as train_anomalyclip
from detectors.benchmarks import Benchmark
from detectors.detector_parts import VideoScores
from detectors.event_annotations import VideoTruth
from detectors.mil import fit as train_head
from detectors.mil import make_head
from detectors.mil import score_video as score_head
from detectors.training_protocol import Detector, DetectorParams
from detectors.vadclip.model import VadCLIP
from detectors.vadclip.model import score_video as score_vadclip
from detectors.vadclip.settings import vadclip_settings
from detectors.vadclip.training import fit as train_vadclip
from detectors.vadclip.training import multi_hot

Score = Callable[[np.ndarray], VideoScores]
"""A trained detector: features (n, D) of a video -> its scores."""


class TrainingSet(NamedTuple):
    """Features (n, D) of each training video and crop, with its video-level classes and name."""

    features: list[np.ndarray]
    classes: list[tuple[str, ...]]
    names: Sequence[str] = ()

    def only(self, classes: Sequence[str]) -> "TrainingSet":
        """Normal videos, and those all of whose classes are among ``classes``."""
        kept = [i for i, labels in enumerate(self.classes) if set(labels) <= set(classes)]
        return TrainingSet([self.features[i] for i in kept], [self.classes[i] for i in kept])


class EvaluationSet(NamedTuple):
    """Features (n, D) of each video, with its temporal truth.

    ``named`` is the truth with a class for each event. XD-Violence's two annotation files differ
    in five videos; AUC and AP use ``truths``, the one without classes.
    """

    features: list[np.ndarray]
    truths: list[VideoTruth]
    named: list[VideoTruth]


def class_prompts(benchmark: Benchmark, classes: Sequence[str]) -> list[str]:
    """Text of each class: VadCLIP's where the benchmark has it, else the name in words."""
    named = dict(zip(benchmark.classes, benchmark.prompts, strict=False))
    return [named.get(name, name.replace("_", " ").lower()) for name in classes]


def fit_vadclip(
    model: AlertCLIP,
    data: TrainingSet,
    benchmark: Benchmark,
    classes: Sequence[str],
    detector: DetectorParams,
    seed: int,
) -> Score:
    """Train VadCLIP; see ``vadclip_score`` for the branch that scores anomalies."""
    settings = vadclip_settings(detector)
    torch.manual_seed(seed)
    prompts = class_prompts(benchmark, classes)
    vad = VadCLIP(model.clip, model.backbone.tokenizer, prompts, settings).to(model.mean.device)
    named = [labels or (benchmark.normal_class,) for labels in data.classes]
    train_vadclip(vad, data.features, multi_hot(named, classes), seed)
    return vadclip_score(vad, benchmark)


@torch.no_grad()
def vadclip_score(vad: VadCLIP, benchmark: Benchmark) -> Score:
    """A trained VadCLIP as a function of features.

    The C-branch scores anomalies on UCF-Crime, the A-branch on XD-Violence; if that branch was
    left out of training (Table 6), it is the other.
    """
    aligned = benchmark.metric == "AP" or not vad.settings.binary_weight
    aligned = aligned and vad.settings.alignment_weight > 0
    return partial(score_vadclip, vad, aligned=aligned, text=vad.eval().encode_text())


def fit_anomalyclip(
    model: AlertCLIP,
    data: TrainingSet,
    benchmark: Benchmark,
    classes: Sequence[str],
    detector: DetectorParams,
    seed: int,
) -> Score:
    """Train AnomalyCLIP; the normality prototype comes from the normal training videos."""
    normal_id = list(classes).index(benchmark.normal_class)
    settings = anomalyclip_settings(detector, normal_id)
    videos = [torch.from_numpy(features) for features in data.features]
    labels = [classes.index(names[0]) if names else normal_id for names in data.classes]
    m = normality_prototype(v for v, n in zip(videos, labels, strict=True) if n == normal_id)
    torch.manual_seed(seed)
    prompts = class_prompts(benchmark, classes)
    anomaly = AnomalyCLIP(model.clip, model.backbone.tokenizer, prompts, m, settings)
    train_anomalyclip(anomaly.to(model.mean.device), videos, labels, seed)
    return anomalyclip_score(anomaly)


@torch.no_grad()
def anomalyclip_score(anomaly: AnomalyCLIP) -> Score:
    """A trained AnomalyCLIP as a function of features."""
    return partial(score_anomalyclip, anomaly, directions=anomaly.eval().directions())


def fit_head(
    name: Detector,
    model: AlertCLIP,
    data: TrainingSet,
    benchmark: Benchmark,
    classes: Sequence[str],
    detector: DetectorParams,
    seed: int,
) -> Score:
    """Train Sultani's head or RTFM, which know no classes, on the same features as VadCLIP."""
    torch.manual_seed(seed)
    head = make_head(name, data.features[0].shape[-1], detector).to(model.mean.device)
    train_head(head, data.features, [bool(labels) for labels in data.classes], seed)
    return partial(score_head, head)


def score_seeds(
    name: Detector,
    model: AlertCLIP,
    train: TrainingSet,
    test: EvaluationSet,
    benchmark: Benchmark,
    classes: Sequence[str],
    detector: DetectorParams,
) -> list[list[VideoScores]]:
    """Train a detector for ``classes`` under every seed; its scores of the test videos, by seed."""
    with_text = {"vadclip": fit_vadclip, "anomalyclip": fit_anomalyclip}
    fit, scores = with_text.get(name, partial(fit_head, name)), []
    for seed in detector.seeds:
        score = fit(model, train, benchmark, classes, detector, seed)
        scores.append([score(features) for features in test.features])
    return scores
