"""Snippet features of a profile's benchmark, for training and evaluation.

``python -m companion.extraction --profile paper --shard 2/8`` extracts one share of what notebooks
05 and 06 need, on each of eight machines that share the runs/ folder. Shares may run in any order,
at once or again, and write the same files as one process does.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from alertclip.errors import InputError
from alertclip.files import WHOLE, Shard, parse_shard, sha256_file, sha256_json
from alertclip.model import AlertCLIP
from companion.profiles import Params, load_params, parse_overrides
from companion.splits import load_split, prepare_data
from companion.tuned_models import STAGES, Stage, stage_model
from detectors.benchmarks import (
    Benchmark,
    Split,
    TrainingVideo,
    load_benchmark,
    read_list,
    read_truth,
    training_videos,
)
from detectors.event_annotations import SNIPPET, video_name
from detectors.features import SnippetRule, extract_features, feature_file, read_features
from detectors.fitting import EvaluationSet, TrainingSet
from detectors.training_protocol import Detector, DetectorParams


def detector_benchmark(P: Params) -> tuple[Benchmark, Path]:
    """The benchmark of a profile and the data root it lies in."""
    prepare_data(P)
    return load_benchmark(P.detector.benchmark), P.data_dir


def snippet_rule(params: DetectorParams, detector: Detector) -> SnippetRule:
    """How videos become features: single frames for AnomalyCLIP, snippets for the others."""
    if detector == "anomalyclip":
        return SnippetRule(params.frame_stride, 1, 1)
    return SnippetRule(params.snippet_length, params.snippet_frames, params.snippet_crops)


def training_set(P: Params, model: AlertCLIP, detector: Detector) -> TrainingSet:
    """Features of the benchmark's training videos; every crop counts as a video (official)."""
    benchmark, root = detector_benchmark(P)
    videos, rule = chosen_videos(P, benchmark, root), snippet_rule(P.detector, detector)
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
    entries, rule = read_list(benchmark, root, split), snippet_rule(P.detector, detector)
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
    wanted: Sequence[Stage],
    detector: Detector,
    training: bool = True,
    shard: Shard = WHOLE,
) -> None:
    """Extract the features of test and training videos for several models, decoding videos once.

    ``shard``: only a share of the videos.
    """
    benchmark, root = detector_benchmark(P)
    tested = read_list(benchmark, root, "test")
    videos = [benchmark.video_path(root, entry.entry) for entry in tested]
    if training:
        videos += [video.path for video in chosen_videos(P, benchmark, root)]
    models = [stage_model(P, stage) for stage in wanted]
    _extract(P, models, list(dict.fromkeys(videos)), snippet_rule(P.detector, detector), shard)


def chosen_videos(P: Params, benchmark: Benchmark, root: Path) -> list[TrainingVideo]:
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


def domains(P: Params) -> dict[str, Params]:
    """The profile on its own benchmark and on the others (``transfer``), by title."""
    own = {load_benchmark(P.detector.benchmark).title: P}
    return own | {title: P.changed(changes) for title, changes in P.evaluation.transfer.items()}


def extract(P: Params, shard: Shard) -> None:
    """Features of the profile's benchmark; VadCLIP's also where notebook 05 asks for others."""
    stages = list(STAGES)
    for detector in ("vadclip", "anomalyclip"):  # the other heads take VadCLIP's
        extract_for_all(P, stages, detector, shard=shard)
    if P.evaluation.open_vocabulary_changes:
        partitioned = P.changed(P.evaluation.open_vocabulary_changes)
        extract_for_all(partitioned, stages, "vadclip", shard=shard)
    for domain in list(domains(P).values())[1:]:
        extract_for_all(domain, stages, "vadclip", training=False, shard=shard)


def main() -> None:
    """Extract one share of a profile's features."""
    parser = argparse.ArgumentParser(prog="python -m companion.extraction", description=__doc__)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="share of the videos")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args()
    try:
        P = load_params(args.profile, parse_overrides(args.overrides))
        extract(P, parse_shard(args.shard))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
