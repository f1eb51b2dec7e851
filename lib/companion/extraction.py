"""Snippet features of a profile's benchmark, for training and evaluation.

``python -m companion.extraction --profile paper --shard 2/8`` extracts one share of what notebooks
05 and 06 need, on each of eight machines that share the runs/ folder. Shares may run in any order,
at once or again, and write the same files as one process does.
"""

import argparse
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from alertclip.model import AlertCLIP
from alertclip.records import LEFT_OUT, Finding, Report
from companion.profiles import Params, read_command_line
from companion.sources import Gap, benchmark_gaps
from companion.splits import load_split, prepare_data
from companion.tuned_models import STAGES, Stage, stage_model
from detectors.benchmarks import Benchmark, Split, read_list, read_truth, training_videos
from detectors.check import anchors, check_rate, check_space, feature_index, summarise
from detectors.event_annotations import SNIPPET, video_name
from detectors.features import (
    SnippetRule,
    Wanted,
    extract_features,
    feature_file,
    read_features,
    scored_crop,
    snippet_rule,
)
from detectors.fitting import EvaluationSet, TrainingSet, class_prompts
from detectors.mil import HEADS
from detectors.training_protocol import Detector
from media.cache import FrameCache
from media.errors import InputError
from media.files import WHOLE, parse_shard, sha256_file, sha256_json

READERS: tuple[Detector, ...] = ("vadclip", "anomalyclip")  # heads without text read VadCLIP's


def detector_benchmark(P: Params) -> tuple[Benchmark, Path]:
    """The profile's benchmark and data root."""
    prepare_data(P)
    return P.benchmark, P.data_dir


def training_set(P: Params, model: AlertCLIP, detector: Detector) -> TrainingSet:
    """Features of the benchmark's training videos; every crop counts as a video (official).

    Missing files are left out, with a warning and a row in the run's videos/.
    """
    prepare_data(P)
    videos, rule = chosen_videos(P), snippet_rule(P.detector, detector)
    crops, reasons = _files(P, model, dict.fromkeys(videos, range(rule.crops)), detector)
    files = [(file, path) for path in videos for file in crops[path]]
    available = [(file, path) for file, path in files if file.exists()]
    if not available:
        raise InputError(f"no training video of {P.benchmark.title} can be read; see {reasons}")
    missing = [file.name for file, _ in files if not file.exists()]
    report = Report([Finding(name, f"see {reasons}", LEFT_OUT) for name in missing])
    report.to_csv(P.run_dir / "videos" / f"{P.benchmark.name}-{detector}-{P.detector.subset}.csv")
    if missing:
        left_out = f"{len(missing)} of {len(files)} training features are left out"
        warnings.warn(f"{left_out}; reasons in {reasons}", stacklevel=2)
    return TrainingSet(
        [read_features(file) for file, _ in available],
        [videos[path] for _, path in available],
        [video_name(path.name) for _, path in available],
    )


def evaluation_set(P: Params, model: AlertCLIP | None, detector: Detector) -> EvaluationSet:
    """Features (one crop) and ground truth of the test videos; released features need no model.

    Raises InputError if a video cannot be read: the scores without it would be another benchmark's.
    """
    benchmark, root = detector_benchmark(P)
    videos, rule = tested_videos(P), snippet_rule(P.detector, detector)
    crop = scored_crop(P.detector, rule)
    crops, reasons = _files(P, model, dict.fromkeys(videos.values(), [crop]), detector)
    files = {name: crops[path][crop] for name, path in videos.items()}
    if missing := [name for name, file in files.items() if not file.exists()]:
        raise InputError(
            f"{len(missing)} of {len(files)} test videos of {benchmark.title} cannot be read, first"
            f" {missing[0]}, expected as {files[missing[0]].name}; the reasons are in {reasons}"
        )
    features = {name: read_features(file) for name, file in files.items()}
    frames = {name: len(x) * rule.length for name, x in features.items()}
    if benchmark.annotation_format == "msad" and not P.features:  # its labels are split by length
        cache = FrameCache(P.cache_dir, model.image_size)
        frames = {name: cache.info(path).frames for name, path in videos.items()}
    snippets = {name: max(1, count // SNIPPET) for name, count in frames.items()}
    read = partial(read_truth, benchmark, root, snippets=snippets)
    truths = [truth for truth in read() if truth.name in videos]
    named = [truth for truth in read(by_class=True) if truth.name in videos]
    return EvaluationSet([features[truth.name] for truth in truths], truths, named)


def extract_for_all(
    P: Params,
    wanted: Sequence[Stage],
    detector: Detector,
    training: bool = True,
    shard: slice = WHOLE,
) -> None:
    """Extract features of test and training videos for several models, decoding each video once.

    Released features are only checked. ``shard``: a share of the videos.
    """
    if P.features:
        if tuned := [STAGES[stage] for stage in wanted if stage != "clip"]:
            raise InputError(f"{tuned[0]} needs videos: released features are of untuned CLIP")
        check_released(P, stage_model(P, "clip"), detector, training)
        return
    prepare_data(P)
    rule = snippet_rule(P.detector, detector)
    videos = dict.fromkeys(tested_videos(P).values(), [scored_crop(P.detector, rule)])
    if training:
        videos |= dict.fromkeys(chosen_videos(P), range(rule.crops))
    _extract(P, [stage_model(P, stage) for stage in wanted], videos, rule, shard)


def tested_videos(P: Params) -> dict[str, Path]:
    """File of each test video, by name: the whole list or, in a rehearsal, a part of it.

    MSAD's part is its first and last videos: its label vector is split from both ends.
    """
    benchmark = P.benchmark
    entries = read_list(benchmark, P.data_dir)
    if count := min(P.rehearsal.test_videos or 0, len(entries)):
        places = np.linspace(0, len(entries) - 1, count).astype(int)
        if benchmark.annotation_format == "msad":
            places = np.arange(count) - count // 2  # negative ones count from the end
        entries = [entries[i] for i in sorted(places % len(entries))]
    return {entry.name: benchmark.video_path(P.data_dir, entry.entry) for entry in entries}


def chosen_videos(P: Params) -> dict[Path, tuple[str, ...]]:
    """Training videos and their classes: all or the annotated ones, up to a limit drawn by seed."""
    videos = training_videos(P.benchmark, P.data_dir)
    if P.detector.subset == "annotated":
        items = [item for split in ("train", "dev") for item in load_split(P, split)[0]]
        annotated = {Path(item.video).stem for item in items}
        videos = {path: names for path, names in videos.items() if path.stem in annotated}
    if P.detector.videos:
        order = np.random.default_rng(P.seed).permutation(len(videos))
        kept = {*order[: P.detector.videos].tolist()}
        videos = {path: videos[path] for i, path in enumerate(videos) if i in kept}
    return videos


def check_released(P: Params, model: AlertCLIP, detector: Detector, training: bool = True) -> None:
    """Raise InputError unless released features match the model's space and the truth's rate.

    Reads a sample of the files, and the length of every test file. Heads without text accept any
    space, such as I3D's, if all files have one width.
    """
    test, rule = evaluation_set(P, model, detector), snippet_rule(P.detector, detector)
    rows = {t.name: len(x) for t, x in zip(test.truths, test.features, strict=True)}
    paths = _listed(P) + (list(chosen_videos(P)) if training else [])
    files = [f for crops in _released(P, paths, detector).values() for f in crops if f.exists()]
    summary = summarise(files)
    if detector not in HEADS:
        known = anchors(model, class_prompts(P.benchmark, P.benchmark.classes))
        check_space(summary, known, P.model.backbone)
    check_rate(rows, test.truths, rule.length, P.features_dir)


def check_features(P: Params) -> None:
    """Run ``check_released`` for every detector with features; InputError if there is none."""
    if not (at_hand := detectors_at_hand(P)):
        raise InputError(
            f"{P.features_dir}: no features of {P.benchmark.title}'s test"
            " videos as NAME__CROP.npy or NAME.npy; check features and benchmark"
        )
    for detector in at_hand:
        check_released(P, stage_model(P, "clip"), detector)


def detectors_at_hand(P: Params) -> list[Detector]:
    """Detectors whose features a profile has: all with videos, else by the files' layout."""
    if not P.features:
        return list(READERS)
    released = {d: _released(P, _listed(P), d).values() for d in READERS}
    return [d for d, videos in released.items() if any(f.exists() for v in videos for f in v)]


def _listed(P: Params) -> list[Path]:
    benchmark, root = detector_benchmark(P)
    return [benchmark.video_path(root, e.entry) for e in read_list(benchmark, root)]


def _files(
    P: Params, model: AlertCLIP | None, videos: Wanted, detector: Detector
) -> tuple[dict[Path, list[Path]], Path]:
    """Feature files of each video, one per crop, and the place that says why one is missing."""
    if P.features:
        return _released(P, [*videos], detector), P.features_dir
    rule = snippet_rule(P.detector, detector)
    [folder] = _extract(P, [model], videos, rule)
    files = {v: [feature_file(folder, v, crop) for crop in range(rule.crops)] for v in videos}
    return files, folder / "failures.json"


def _released(P: Params, videos: Sequence[Path], detector: Detector) -> dict[Path, list[Path]]:
    """Released feature files of each video, one per crop; of a missing one, the expected path."""
    index, folder = feature_index(P.features_dir), P.features_dir
    count = P.detector.snippet_crops
    ends = [""] if detector == "anomalyclip" else [f"__{crop}" for crop in range(count)]
    names = {video: [f"{video.stem}{end}" for end in ends] for video in videos}
    return {v: [index.get(n, folder / f"{n}.npy") for n in crops] for v, crops in names.items()}


def _extract(
    P: Params, models: Sequence[AlertCLIP], videos: Wanted, rule: SnippetRule, shard: slice = WHOLE
) -> list[Path]:
    root, precision = P.run_dir / "features" / source_hash(P), P.evaluation.precision
    if precision == "auto":
        precision = "fp16" if models[0].mean.device.type == "cuda" else "fp32"
    return extract_features(models, videos, rule, root, P.cache_dir, P.workers, precision, shard)


def source_hash(P: Params) -> str:
    """Hash of the videos' source, whatever its path: benchmarks and worlds share video names."""
    world = P.data_dir / "world.json"
    return sha256_json([P.detector.benchmark, sha256_file(world) if world.is_file() else ""])[:8]


def domains(P: Params) -> dict[str, Params]:
    """The profile on its own benchmark and on the others (``transfer``), by title.

    Another domain whose list, truth or a video is missing is left out with a warning; with released
    features, one whose lists or features are missing.
    """
    profiles = {P.benchmark.title: P}
    for title, changes in P.evaluation.transfer.items():
        other = P.changed(changes)
        if lacks := _lacks(other, P.detector.benchmark):
            warnings.warn(f"{title} is left out: {lacks}", stacklevel=2)
        else:
            profiles[title] = other
    return profiles


def _lacks(P: Params, benchmark: str) -> str:
    """What another domain than ``benchmark`` lacks; "" if nothing."""
    if not P.features:
        return "; ".join(map(str, domain_gaps(P)))
    with suppress(InputError):  # no list
        if P.detector.benchmark != benchmark and "vadclip" in detectors_at_hand(P):
            return ""
    return "its lists or features are missing"


def domain_gaps(P: Params, splits: Sequence[Split] = ("test",)) -> list[Gap]:
    """What the profile's benchmark lacks for testing or training; none in a mini world."""
    if P.data.world == "miniworld" or P.features:
        return []
    videos = {"test": lambda: [*tested_videos(P).values()], "train": lambda: [*chosen_videos(P)]}
    return benchmark_gaps(P.benchmark, P.data_dir, {split: videos[split] for split in splits})


def extract(P: Params, shard: slice) -> None:
    """Extract features of the profile's benchmark, and VadCLIP's of notebook 05's other domains."""
    stages = list(STAGES)
    for detector in READERS:
        extract_for_all(P, stages, detector, shard=shard)
    if changes := P.evaluation.open_vocabulary_changes:
        extract_for_all(P.changed(changes), stages, "vadclip", shard=shard)
    for domain in list(domains(P).values())[1:]:
        extract_for_all(domain, stages, "vadclip", training=False, shard=shard)


def main() -> None:
    """Extract one share of a profile's features."""
    parser = argparse.ArgumentParser(prog="python -m companion.extraction", description=__doc__)
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="share of the videos")
    args, P = read_command_line(parser)
    extract(P, parse_shard(args.shard))


if __name__ == "__main__":
    main()
