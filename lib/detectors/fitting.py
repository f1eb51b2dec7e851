"""Train detectors on frozen features with video-level labels alone, and score videos."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from alertclip.model import AlertCLIP
from detectors.anomalyclip import model as anomalyclip_model
from detectors.anomalyclip import training as anomalyclip_training
from detectors.benchmarks import Benchmark
from detectors.detector_parts import VideoScores
from detectors.event_annotations import VideoTruth
from detectors.mil import HEADS, fit, score_video
from detectors.training_protocol import Detector, DetectorParams, detector_settings
from detectors.vadclip import model as vadclip_model
from detectors.vadclip import training as vadclip_training
from media.errors import InputError

Score = Callable[[np.ndarray], VideoScores]
"""A trained detector: features (n, D) of a video -> its scores."""


class TrainingSet(NamedTuple):
    """Features (n, D), abnormal classes and name of each training video and crop."""

    features: list[np.ndarray]
    classes: list[tuple[str, ...]]
    names: Sequence[str] = ()

    def only(self, classes: Sequence[str]) -> "TrainingSet":
        """Return the normal videos and the abnormal ones whose classes are all in ``classes``."""
        kept = [i for i, labels in enumerate(self.classes) if set(labels) <= set(classes)]
        fields = ([field[i] for i in kept] if field else field for field in self)
        return TrainingSet(*fields)


class EvaluationSet(NamedTuple):
    """Features (n, D) and ground truth of each test video; ``named`` has a class per event.

    XD-Violence's two annotation files differ in five videos; AUC and AP use ``truths``.
    """

    features: list[np.ndarray]
    truths: list[VideoTruth]
    named: list[VideoTruth]


def class_prompts(benchmark: Benchmark, classes: Sequence[str]) -> list[str]:
    """Return each class's prompt: VadCLIP's if the benchmark has one, else its name in words."""
    prompts = dict(zip(benchmark.classes, benchmark.prompts, strict=False))
    return [prompts.get(name, name.replace("_", " ").lower()) for name in classes]


@torch.no_grad()
def vadclip_score(vad: vadclip_model.VadCLIP, benchmark: Benchmark) -> Score:
    """Return a VadCLIP's ``Score``: C-branch on UCF-Crime, A-branch on XD-Violence, if trained."""
    aligned = benchmark.metric == "AP" or not vad.settings.binary_weight
    aligned = aligned and vad.settings.alignment_weight > 0  # Table 6 also trains one alone
    text = vad.eval().encode_text()
    return partial(vadclip_model.score_video, vad, aligned=aligned, text=text)


@torch.no_grad()
def anomalyclip_score(anomaly: anomalyclip_model.AnomalyCLIP) -> Score:
    """Return the ``Score`` of a trained AnomalyCLIP."""
    directions = anomaly.eval().directions()
    return partial(anomalyclip_model.score_video, anomaly, directions=directions)


def fit_detector(
    name: Detector,
    model: AlertCLIP,
    data: TrainingSet,
    benchmark: Benchmark,
    classes: Sequence[str],
    detector: DetectorParams,
    seed: int,
) -> Score:
    """Train a detector and return its ``Score``; Sultani's head and RTFM ignore ``classes``."""
    unknown = {label for labels in data.classes for label in labels}.difference(classes)
    if unknown and name not in HEADS:
        what = f"no class {', '.join(sorted(unknown))}. The lists must name the classes"
        raise InputError(f"{benchmark.title}: {what}, as AnomalyCLIP's do: path start end label")
    torch.manual_seed(seed)
    device, normal = model.mean.device, benchmark.normal_class
    text = model.clip, model.backbone.tokenizer, class_prompts(benchmark, classes)
    if name == "vadclip":
        vad = vadclip_model.VadCLIP(*text, detector_settings(name, detector)).to(device)
        labels = [names or (normal,) for names in data.classes]
        targets = torch.tensor([[float(c in names) for c in classes] for names in labels])
        vadclip_training.fit(vad, data.features, targets, seed)
        return vadclip_score(vad, benchmark)
    if name == "anomalyclip":
        settings = detector_settings(name, detector, normal_id=list(classes).index(normal))
        videos = [torch.from_numpy(features) for features in data.features]
        labels = [classes.index(names[0] if names else normal) for names in data.classes]
        normals = [video for video, names in zip(videos, data.classes, strict=True) if not names]
        m = anomalyclip_model.normality_prototype(normals)
        anomaly = anomalyclip_model.AnomalyCLIP(*text, m, settings).to(device)
        anomalyclip_training.fit(anomaly, videos, labels, seed)
        return anomalyclip_score(anomaly)
    width = data.features[0].shape[-1]
    head = HEADS[name](width, detector_settings(name, detector)).to(device)
    fit(head, data.features, [bool(labels) for labels in data.classes], seed)
    return partial(score_video, head)


@torch.no_grad()
def zero_shot_score(model: AlertCLIP, benchmark: Benchmark) -> Score:
    """Return the ``Score`` of zero-shot CLIP, the baseline of AnomalyCLIP's Tables 1 to 6.

    p = softmax(100 cos(x, t_c)), t_c of "a video from a CCTV camera of a {class}"; the anomaly
    score is 1 - p(normal). The paper gives no scale; 100 is CLIP's.
    """
    names = class_prompts(benchmark, benchmark.classes)
    text = model.encode_text([f"a video from a CCTV camera of a {name}" for name in names])
    normal = benchmark.classes.index(benchmark.normal_class)

    def score(features: np.ndarray) -> VideoScores:
        frames = normalize(torch.from_numpy(features).to(text), dim=-1)
        p = (100 * frames @ text.T).softmax(dim=-1).cpu().numpy()
        return VideoScores(1 - p[:, normal], p)

    return score
