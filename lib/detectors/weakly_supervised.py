"""Weakly supervised detection with exchanged backbones (Alert-CLIP, main table).

A detector is trained on the frozen image features and the text tower of CLIP, Stage I or Full, on
video-level labels alone; frame-level truth is read after training, to measure.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from alertclip.errors import InputError
from alertclip.files import WHOLE, Shard, sha256_file, sha256_json
from alertclip.model import AlertCLIP
from companion import tuned_models
from companion.profiles import Params
from companion.splits import load_split, prepare_data
from detectors import anomalyclip, vadclip
from detectors.benchmarks import Benchmark, Split, load_benchmark, read_list, read_truth
from detectors.event_annotations import SNIPPET, VideoTruth, video_name
from detectors.features import SnippetRule, extract_features, feature_file, read_features
from detectors.training_videos import WeakVideo, training_videos

Detector = Literal["vadclip", "anomalyclip"]
DETECTORS: dict[Detector, str] = {"vadclip": "VadCLIP", "anomalyclip": "AnomalyCLIP"}


class TrainingSet(NamedTuple):
    """Features (n, D) of each training video and crop, with its video-level classes and name."""

    features: list[np.ndarray]
    classes: list[tuple[str, ...]]
    names: Sequence[str] = ()


class EvaluationSet(NamedTuple):
    """Features (n, D) of each video, with its temporal truth.

    ``named`` is the truth with a class for each event. XD-Violence's two annotation files differ
    in five videos: the one without classes is the benchmark's for AUC and AP.
    """

    features: list[np.ndarray]
    truths: list[VideoTruth]
    named: list[VideoTruth]


class VideoScores(NamedTuple):
    """A scored video: anomaly (n,), class probabilities (n, C) and, of VadCLIP, what its branches
    see (n, D), per feature."""

    anomaly: np.ndarray
    probabilities: np.ndarray
    adapted: np.ndarray | None = None


Score = Callable[[np.ndarray], VideoScores]
"""A trained detector: features (n, D) of a video -> its scores."""


def detector_benchmark(P: Params) -> tuple[Benchmark, Path]:
    """The benchmark of a profile and the data root it lies in."""
    prepare_data(P)
    return load_benchmark(P.detector.benchmark), P.data_dir


def snippet_rule(P: Params, detector: Detector) -> SnippetRule:
    """How videos become features: snippets for VadCLIP, single frames for AnomalyCLIP."""
    if detector == "anomalyclip":
        return SnippetRule(P.detector.frame_stride, 1, 1)
    return SnippetRule(
        P.detector.snippet_length, P.detector.snippet_frames, P.detector.snippet_crops
    )


def training_set(P: Params, model: AlertCLIP, detector: Detector) -> TrainingSet:
    """Features of the benchmark's training videos; every crop counts as a video (official)."""
    benchmark, root = detector_benchmark(P)
    videos, rule = chosen_videos(P, benchmark, root), snippet_rule(P, detector)
    [folder] = _extract(P, [model], [video.path for video in videos], rule)
    files = [
        (feature_file(folder, v.path, crop), v.classes, video_name(v.path.name))
        for v in videos
        for crop in range(rule.crops)
    ]
    here = [entry for entry in files if entry[0].exists()]
    if not here:
        raise InputError(f"no training video of {benchmark.title} can be read; see {folder}")
    if len(here) < len(files):
        left_out = f"{len(files) - len(here)} of {len(files)} training features are left out"
        warnings.warn(f"{left_out}; reasons in {folder / 'failures.json'}", stacklevel=2)
    present, classes, names = zip(*here, strict=True)
    return TrainingSet([read_features(file) for file in present], list(classes), names)


def evaluation_set(
    P: Params, model: AlertCLIP, detector: Detector, split: Split = "test"
) -> EvaluationSet:
    """Features, one crop each, and truth of a split's videos.

    Raises InputError if a video cannot be read: scores of the others would be another benchmark's.
    """
    benchmark, root = detector_benchmark(P)
    entries, rule = read_list(benchmark, root, split), snippet_rule(P, detector)
    videos = {entry.name: benchmark.video_path(root, entry.entry) for entry in entries}
    [folder] = _extract(P, [model], list(videos.values()), rule)
    crop = P.detector.snippet_test_crop if P.detector.snippet_test_crop < rule.crops else 0
    files = {name: feature_file(folder, path, crop) for name, path in videos.items()}
    if lost := [name for name, file in files.items() if not file.exists()]:
        raise InputError(
            f"{len(lost)} of {len(files)} {split} videos of {benchmark.title} cannot be read, first"
            f" {lost[0]}; the reasons are in {folder / 'failures.json'}"
        )
    features = {name: read_features(file) for name, file in files.items()}
    snippets = {name: len(x) * rule.length // SNIPPET for name, x in features.items()}
    read = partial(read_truth, benchmark, root, split=split, snippets=snippets)
    truths = read()
    return EvaluationSet([features[truth.name] for truth in truths], truths, read(by_class=True))


def extract_for_all(
    P: Params,
    wanted: Sequence[tuned_models.Stage],
    detector: Detector,
    training: bool = True,
    shard: Shard = WHOLE,
) -> None:
    """Extract the features of the test videos, and those of training, for several models at once.

    What follows would do it model by model, and decode every video as often. ``shard``: only a
    share of the videos.
    """
    benchmark, root = detector_benchmark(P)
    tested = read_list(benchmark, root, "test")
    videos = [benchmark.video_path(root, entry.entry) for entry in tested]
    if training:
        videos += [video.path for video in chosen_videos(P, benchmark, root)]
    models = [tuned_models.stage_model(P, stage) for stage in wanted]
    _extract(P, models, list(dict.fromkeys(videos)), snippet_rule(P, detector), shard)


def chosen_videos(P: Params, benchmark: Benchmark, root: Path) -> list[WeakVideo]:
    """The training videos a profile uses: all, those it annotates, or a draw by seed."""
    videos = training_videos(benchmark, root)
    if P.detector.videos:
        order = np.random.default_rng(P.seed).permutation(len(videos))
        videos = [videos[i] for i in sorted(order[: P.detector.videos])]
    if P.detector.subset == "annotated":
        items = [item for split in ("train", "dev") for item in load_split(P, split)[0]]
        annotated = {Path(item.video).stem for item in items}
        videos = [video for video in videos if video.path.stem in annotated]
    return videos


def _extract(
    P: Params,
    models: Sequence[AlertCLIP],
    videos: Sequence[Path],
    rule: SnippetRule,
    shard: Shard = WHOLE,
) -> list[Path]:
    # Names repeat between data sets, and a world rendered anew keeps its folder.
    made = P.data_dir / "world.json"
    source = [str(P.data_dir), sha256_file(made) if made.is_file() else ""]
    root, precision = P.run_dir / "features" / sha256_json(source)[:8], P.evaluation.precision
    return extract_features(models, videos, rule, root, P.cache_dir, P.workers, precision, shard)


def fit_vadclip(
    P: Params, model: AlertCLIP, data: TrainingSet, classes: Sequence[str], seed: int
) -> Score:
    """Train VadCLIP; its anomaly score is the C-branch (UCF-Crime) or the A-branch (XD).

    Where a branch is left out of training (Table 6), it is the other.
    """
    benchmark = load_benchmark(P.detector.benchmark)
    settings = vadclip.preset(
        P.detector.vadclip_preset, P.detector.variant, **P.detector.vadclip_changes
    )
    torch.manual_seed(seed)
    text = vadclip.CLIPText(model.clip, model.backbone.tokenizer)
    detector = vadclip.VadCLIP(text, prompts(benchmark, classes), settings)
    detector.to(model.mean.device)
    named = [labels or (benchmark.normal_class,) for labels in data.classes]
    vadclip.fit(detector, data.features, vadclip.multi_hot(named, classes), seed)
    with torch.no_grad():
        embedded = detector.eval().encode_text()  # the same for every video
    aligned = benchmark.metric == "AP" or not settings.binary_weight
    aligned = aligned and settings.alignment_weight > 0
    return partial(_score_vadclip, detector, embedded, aligned)


def _score_vadclip(
    detector: vadclip.VadCLIP, text: torch.Tensor, aligned: bool, features: np.ndarray
) -> VideoScores:
    scores = vadclip.score_video(detector, features, text)
    anomaly = scores.prob2 if aligned else scores.prob1
    return VideoScores(anomaly.numpy(), scores.probabilities.numpy(), scores.adapted.numpy())


def fit_anomalyclip(
    P: Params, model: AlertCLIP, data: TrainingSet, classes: Sequence[str], seed: int
) -> Score:
    """Train AnomalyCLIP; the normality prototype comes from the normal training videos."""
    benchmark = load_benchmark(P.detector.benchmark)
    normal_id = list(classes).index(benchmark.normal_class)
    changes = {
        "normal_id": normal_id,
        "variant": P.detector.variant,
    } | P.detector.anomalyclip_changes
    settings = anomalyclip.preset(P.detector.anomalyclip_preset, **changes)
    videos = [torch.from_numpy(features) for features in data.features]
    labels = [classes.index(names[0]) if names else normal_id for names in data.classes]
    normal = [video for video, label in zip(videos, labels, strict=True) if label == normal_id]
    torch.manual_seed(seed)
    detector = anomalyclip.AnomalyCLIP(
        model.clip,
        model.backbone.tokenizer,
        prompts(benchmark, classes),
        anomalyclip.normality_prototype(normal),
        settings,
    ).to(model.mean.device)
    anomalyclip.fit(detector, videos, labels, seed)
    with torch.no_grad():
        directions = detector.eval().directions()  # the same for every video
    return partial(_score_anomalyclip, detector, directions)


def _score_anomalyclip(
    detector: anomalyclip.AnomalyCLIP, directions: torch.Tensor, features: np.ndarray
) -> VideoScores:
    scores = anomalyclip.score_video(detector, torch.from_numpy(features), directions)
    return VideoScores(scores.p_anomaly.numpy(), scores.probabilities.numpy())


FIT = {"vadclip": fit_vadclip, "anomalyclip": fit_anomalyclip}


def prompts(benchmark: Benchmark, classes: Sequence[str]) -> list[str]:
    """Text of each class: VadCLIP's where the benchmark has it, else the name in words."""
    named = dict(zip(benchmark.classes, benchmark.prompts, strict=False))
    return [named.get(name, name.replace("_", " ").lower()) for name in classes]


def score_backbone(
    P: Params, stage: tuned_models.Stage, detector: Detector, split: Split = "test"
) -> tuple[EvaluationSet, list[list[VideoScores]]]:
    """Train on one backbone under every detector seed; the test set and its scores per seed."""
    model = tuned_models.stage_model(P, stage)
    train, test = training_set(P, model, detector), evaluation_set(P, model, detector, split)
    classes = load_benchmark(P.detector.benchmark).classes
    return test, score_seeds(P, model, detector, train, classes, test)


def score_seeds(
    P: Params,
    model: AlertCLIP,
    detector: Detector,
    train: TrainingSet,
    classes: Sequence[str],
    test: EvaluationSet,
) -> list[list[VideoScores]]:
    """Train a detector for ``classes`` under every seed; its scores of the test videos, by seed."""
    scores = []
    for seed in P.detector.seeds:
        score = FIT[detector](P, model, train, classes, seed)
        scores.append([score(features) for features in test.features])
    return scores
