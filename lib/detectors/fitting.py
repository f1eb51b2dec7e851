"""Train a detector on frozen features and the text tower of a CLIP, and score videos with it.

Only video-level labels reach the training; frame-level truth is read afterwards, to measure.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from alertclip.model import AlertCLIP
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.anomalyclip.scoring import score_video as score_anomalyclip
from detectors.anomalyclip.selector import normality_prototype
from detectors.anomalyclip.settings import anomalyclip_settings
from detectors.anomalyclip.training import fit as train_anomalyclip
from detectors.benchmarks import Benchmark
from detectors.event_annotations import VideoTruth
from detectors.training_protocol import Detector, DetectorParams
from detectors.vadclip.model import VadCLIP
from detectors.vadclip.scoring import score_video as score_vadclip
from detectors.vadclip.settings import vadclip_settings
from detectors.vadclip.training import fit as train_vadclip
from detectors.vadclip.training import multi_hot


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
    in five videos: the one without classes is the benchmark's for AUC and AP.
    """

    features: list[np.ndarray]
    truths: list[VideoTruth]
    named: list[VideoTruth]


class VideoScores(NamedTuple):
    """Scores of a video's n features: anomaly (n,) and class probabilities (n, C).

    adapted (n, D): the features as VadCLIP's branches see them.
    """

    anomaly: np.ndarray
    probabilities: np.ndarray
    adapted: np.ndarray | None = None


Score = Callable[[np.ndarray], VideoScores]
"""A trained detector: features (n, D) of a video -> its scores."""


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
    """Train VadCLIP; its anomaly score is the C-branch (UCF-Crime) or the A-branch (XD).

    Where a branch is left out of training (Table 6), it is the other.
    """
    settings = vadclip_settings(detector)
    torch.manual_seed(seed)
    prompts = class_prompts(benchmark, classes)
    vad = VadCLIP(model.clip, model.backbone.tokenizer, prompts, settings).to(model.mean.device)
    named = [labels or (benchmark.normal_class,) for labels in data.classes]
    train_vadclip(vad, data.features, multi_hot(named, classes), seed)
    return vadclip_score(vad, benchmark)


@torch.no_grad()
def vadclip_score(vad: VadCLIP, benchmark: Benchmark) -> Score:
    """A trained VadCLIP as a function of features, by the branch that the benchmark reports."""
    settings, text = vad.settings, vad.eval().encode_text()  # the same for every video
    aligned = benchmark.metric == "AP" or not settings.binary_weight
    aligned = aligned and settings.alignment_weight > 0

    def score(features: np.ndarray) -> VideoScores:
        found = score_vadclip(vad, features, text)
        anomaly = found.prob2 if aligned else found.prob1
        return VideoScores(anomaly.numpy(), found.probabilities.numpy(), found.adapted.numpy())

    return score


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
    directions = anomaly.eval().directions()  # the same for every video

    def score(features: np.ndarray) -> VideoScores:
        found = score_anomalyclip(anomaly, torch.from_numpy(features), directions)
        return VideoScores(found.p_anomaly.numpy(), found.probabilities.numpy())

    return score


FIT = {"vadclip": fit_vadclip, "anomalyclip": fit_anomalyclip}


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
    scores = []
    for seed in detector.seeds:
        score = FIT[name](model, train, benchmark, classes, detector, seed)
        scores.append([score(features) for features in test.features])
    return scores
