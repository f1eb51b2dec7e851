"""Tables of the weakly supervised detectors: backbones side by side, over seeds, with intervals.

Every number is a mean over detector seeds; its interval resamples videos. The standard deviation
over seeds stands beside it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.intervals import Interval
from companion.extraction import (
    chosen_videos,
    detector_benchmark,
    evaluation_set,
    extract_for_all,
    snippet_rule,
    training_set,
)
from companion.profiles import Params
from companion.result_tables import per_cent, with_paper
from companion.tuned_models import STAGES, Stage, stage_model
from detectors.benchmarks import Benchmark, load_benchmark
from detectors.detection import detection_map
from detectors.event_annotations import VideoTruth, frame_class_truth, frame_truth
from detectors.fitting import VideoScores, score_seeds
from detectors.frame_metrics import frame_plan
from detectors.recognition import NAMES, ClassScores, class_metrics, false_alarm_rate, macro_auc
from detectors.resampling import FrameScores, frame_count, interval, mean_of_defined, resample
from detectors.training_protocol import DETECTORS, Detector

FRAMEWORKS = ("CLIP", "Full")  # supplementary B.3: the original backbone, and Alert-CLIP's

Columns = list[list[FrameScores]]
"""Frame scores of all videos, once per seed."""


class Curves(NamedTuple):
    """Anomaly scores of one model, by name, on all frames of the evaluation videos."""

    model: str
    columns: Columns


class Scored(NamedTuple):
    """A detector on one backbone: truth and, per seed, scores of the evaluation videos."""

    stage: Stage
    detector: Detector
    length: int  # frames that a score stands for
    truths: list[VideoTruth]
    named: list[VideoTruth]  # with a class for each event
    seeds: list[list[VideoScores]]
    features: list[np.ndarray]  # what the detector was given, per video

    @property
    def model(self) -> str:
        """Name of the backbone."""
        return STAGES[self.stage]

    @property
    def columns(self) -> Columns:
        """Anomaly scores per frame: each is held for the frames it stands for."""
        return [
            [
                held_scores(truth, s.anomaly, self.length)
                for truth, s in zip(self.truths, scores, strict=True)
            ]
            for scores in self.seeds
        ]

    def class_scores(self, classes: Sequence[str]) -> list[list[ClassScores]]:
        """Class probabilities and truth per frame, once per seed."""
        return [
            [
                ClassScores(
                    truth.name,
                    np.repeat(s.probabilities, self.length, axis=0),
                    frame_class_truth(truth, self.length * len(s.anomaly), classes),
                )
                for truth, s in zip(self.named, scores, strict=True)
            ]
            for scores in self.seeds
        ]


class Resampled(NamedTuple):
    """Frame metrics of one model by name: (seeds, 1 + n_boot), first on the videos as they are."""

    model: str
    videos: list[str]
    values: dict[str, np.ndarray]
    frames: dict[str, int]

    def mean(self, name: str) -> np.ndarray:
        """A metric averaged over detector seeds: (1 + n_boot,)."""
        return mean_of_defined(self.values[name])


def score_stages(P: Params, detector: Detector, wanted: Sequence[Stage]) -> list[Scored]:
    """Train and score a detector on each backbone, under every detector seed of the profile."""
    extract_for_all(P, wanted, detector)
    return [score_stage(P, detector, stage) for stage in wanted]


def score_stage(P: Params, detector: Detector, stage: Stage) -> Scored:
    """Train and score a detector on one backbone, under every detector seed of the profile."""
    model, benchmark = stage_model(P, stage), load_benchmark(P.detector.benchmark)
    train, test = training_set(P, model, detector), evaluation_set(P, model, detector)
    seeds = score_seeds(detector, model, train, test, benchmark, benchmark.classes, P.detector)
    length = snippet_rule(P.detector, detector).length
    return Scored(stage, detector, length, test.truths, test.named, seeds, test.features)


def resample_models(P: Params, scored: Sequence[Scored | Curves]) -> list[Resampled]:
    """Frame AUC, AP and AnoAUC of every model and seed, on the same resamples of the videos."""
    return [_resampled(P, s.model, s.columns) for s in scored]


def _resampled(P: Params, model: str, columns: Columns) -> Resampled:
    values, frames = {}, {}
    plans = [frame_plan(videos) for videos in columns]
    for parts in zip(*plans, strict=True):
        name, metric, videos = parts[0]
        name = NAMES.get(name, name)
        chosen = [part[2] for part in parts]
        values[name] = resample(chosen, metric, name, P.evaluation.bootstrap_samples, P.seed)
        frames[name] = frame_count(videos)
    return Resampled(model, [video.video for video in columns[0]], values, frames)


def backbone_table(resampled: Sequence[Resampled], paper: str) -> pd.DataFrame:
    """Frame AUC, AP and AnoAUC (per cent) per backbone, mean over seeds, beside the paper's.

    ``paper`` is a heading of params/paper_results.yaml. Columns setting, model, value, low, high,
    n, seed_sd, paper.
    """
    rows = []
    for r in resampled:
        for name, values in r.values.items():
            each = values[:, 0]
            spread = float(np.std(each, ddof=1)) if len(each) > 1 else np.nan
            row = {"setting": name, "model": r.model, "n": r.frames[name]}
            row |= _points(interval(r.mean(name), r.frames[name]))
            rows.append(row | {"seed_sd": 100 * spread})
    return with_paper(pd.DataFrame(rows), paper, "setting")


def listing(table: pd.DataFrame, label: str, digits: int = 1) -> str:
    """The rows of a table as one sentence: ``label`` of its columns, value and interval."""
    rows = [
        f"{label.format(**row)} {row['value']:.{digits}f}"
        f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        for row in table.to_dict("records")
    ]
    return "; ".join(rows) + "."


def heading(P: Params, detector: Detector) -> str:
    """The paper's table for a detector on the profile's benchmark, in params/paper_results.yaml."""
    return f"{DETECTORS[detector]}, {load_benchmark(P.detector.benchmark).title}"


def backbone_differences(resampled: Sequence[Resampled]) -> pd.DataFrame:
    """Paired differences (points) of each backbone to the one before it, over the same videos."""
    rows = []
    for before, after in zip(resampled[:-1], resampled[1:], strict=True):
        if before.videos != after.videos:
            raise InputError(f"{before.model} and {after.model} were scored on different videos")
        for name, frames in before.frames.items():
            change = interval(after.mean(name) - before.mean(name), frames)
            difference = f"{after.model} minus {before.model}"
            rows.append({"difference": difference, "measure": name} | _points(change))
    return pd.DataFrame(rows)


def alarm_table(scored: Sequence[Scored]) -> pd.DataFrame:
    """False-alarm rate at .5 on normal videos and macro AUC (per cent), mean and spread over seeds.

    Columns model, metric, value, seed_sd.
    """
    rows = []
    for s in scored:
        for name, metric in {"false-alarm rate": false_alarm_rate, "macro AUC": macro_auc}.items():
            values = 100 * np.array([metric(videos) for videos in s.columns])
            spread = values.std(ddof=1) if len(values) > 1 else np.nan
            row = {"model": s.model, "metric": name, "value": values.mean(), "seed_sd": spread}
            rows.append(row)
    return pd.DataFrame(rows)


def class_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """One-vs-rest frame AUC and AP (per cent): their means over classes (mAUC, mAP), and each.

    Columns class_name, setting, model, value, low, high, n. AnomalyCLIP's measures.
    """
    benchmark, tables = load_benchmark(P.detector.benchmark), []
    for s in scored:
        seeds, draws = s.class_scores(benchmark.classes), (P.evaluation.bootstrap_samples, P.seed)
        table = class_metrics(seeds, benchmark.classes, benchmark.normal_class, *draws)
        named = table["class_name"] + " " + table["metric"]
        tables.append(table.assign(setting=named, model=s.model).drop(columns="metric"))
    return per_cent(pd.concat(tables, ignore_index=True))


def detection_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """mAP@IoU (VadCLIP), with and without normal videos: mean and spread over seeds.

    Columns model, normals, metric, value, seed_sd.
    """
    benchmark, rows = load_benchmark(P.detector.benchmark), []
    for s in scored:
        for normals in (True, False):
            tables = [_detection(benchmark, s, videos, normals) for videos in s.seeds]
            stacked = pd.concat(tables).groupby("metric", sort=False)["value"]
            summary = stacked.agg(value="mean", seed_sd="std").reset_index()
            rows.append(summary.assign(model=s.model, normals=normals))
    return pd.concat(rows, ignore_index=True)[["model", "normals", "metric", "value", "seed_sd"]]


def _detection(
    benchmark: Benchmark, scored: Scored, videos: list[VideoScores], normals: bool
) -> pd.DataFrame:
    curves = [np.repeat(v.probabilities, scored.length, axis=0).astype(float) for v in videos]
    return detection_map(
        curves, scored.named, benchmark.classes, benchmark.detection_normal_class, normals
    )


def _points(interval: Interval) -> dict[str, float]:
    """Value, low and high in per cent, or points of it."""
    return {key: 100 * getattr(interval, key) for key in ("value", "low", "high")}


def held_scores(truth: VideoTruth, scores: np.ndarray, length: int) -> FrameScores:
    """Scores (n,) of features, each held for the ``length`` frames it stands for, with truth."""
    frames = np.repeat(scores, length)
    return FrameScores(truth.name, frames, frame_truth(truth, len(frames)), truth.is_abnormal)


def data_framework_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """VadCLIP trained on all videos or those of VAGTA, on CLIP and on Full (supplementary B.3).

    "VAGTA" is read as: train only on the videos that VAGTA annotates; the paper does not say it.
    ``scored`` are the backbones trained on all. Columns setting, model, videos, value, low, high,
    n, paper. Where every training video is annotated, both rows are the same detector.
    """
    curated = P.changed({"detector_subset": "annotated"})
    every, some = (_names(params) for params in (P, curated))
    first = [s for s in scored if s.model in FRAMEWORKS]
    second = first
    if some != every:
        second = score_stages(curated, first[0].detector, [s.stage for s in first])
    tables = []
    for title, names, part in (("original data", every, first), ("VAGTA", some, second)):
        paper = f"Data versus framework, {load_benchmark(P.detector.benchmark).title}, {title}"
        table = backbone_table(resample_models(P, part), paper)
        table = table[table["setting"].isin(["frame AUC", "frame AP"])]
        setting = f"{title}: " + table["setting"]
        tables.append(table.assign(setting=setting, videos=len(names)))
    return pd.concat(tables, ignore_index=True).drop(columns="seed_sd")


def _names(P: Params) -> list[str]:
    benchmark, root = detector_benchmark(P)
    return [video.path.stem for video in chosen_videos(P, benchmark, root)]
