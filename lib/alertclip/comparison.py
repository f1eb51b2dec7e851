"""Tables of weakly supervised detection: backbones side by side, over seeds, with intervals.

Every number is a mean over detector seeds; its interval resamples videos. The seeds' own spread
stands beside it, since both matter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from alertclip.data.annotations import VideoTruth, frame_class_truth, frame_truth
from alertclip.data.benchmarks import Benchmark, load_benchmark
from alertclip.diagnosis import Interval
from alertclip.errors import InputError
from alertclip.evaluation.detection import detection_map
from alertclip.evaluation.metrics import METRICS, FrameScores, Metric, roc_auc
from alertclip.evaluation.recognition import ClassScores, class_columns, frame_metric
from alertclip.params import Params
from alertclip.stages import STAGES, Stage
from alertclip.study import with_paper
from alertclip.weak import DETECTORS, Detector, VideoScores, score_backbone, snippet_rule

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


def score_stages(P: Params, detector: Detector, wanted: Sequence[Stage]) -> list[Scored]:
    """Train and score a detector on each backbone, under every seed of the profile."""
    length, scored = snippet_rule(P, detector).length, []
    for stage in wanted:
        data, seeds = score_backbone(P, stage, detector)
        scored.append(Scored(stage, detector, length, data.truths, data.named, seeds))
    return scored


def backbone_table(P: Params, scored: Sequence[Scored | Curves], paper: str) -> pd.DataFrame:
    """Frame AUC, AP and AnoAUC (per cent) per backbone, mean over seeds, beside the paper's.

    ``paper`` is a heading of params/paper_results.yaml. Columns setting, model, value, low, high,
    n, seed_sd, paper.
    """
    rows = []
    for s in scored:
        for name, metric, columns in _plan(s.columns):
            interval = frame_metric(columns, metric, name, P.bootstrap_samples, P.seed)
            each = [frame_metric([c], metric, name, 10, P.seed).value for c in columns]
            spread = float(np.std(each, ddof=1)) if len(each) > 1 else np.nan
            row = {"setting": name, "model": s.model, "n": interval.n} | _points(interval)
            rows.append(row | {"seed_sd": 100 * spread})
    return with_paper(pd.DataFrame(rows), paper, "setting")


def detector_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """``backbone_table`` beside the paper's row for this detector and benchmark."""
    name = f"{DETECTORS[scored[0].detector]}, {load_benchmark(P.benchmark).title}"
    return backbone_table(P, scored, name)


def backbone_differences(P: Params, scored: Sequence[Scored | Curves]) -> pd.DataFrame:
    """Paired differences (points) of each backbone to the one before it, over the same videos."""
    rows = []
    for before, after in zip(scored[:-1], scored[1:], strict=True):
        olds, news = before.columns, after.columns
        if [video.video for video in olds[0]] != [video.video for video in news[0]]:
            raise InputError(f"{before.model} and {after.model} were scored on different videos")
        plans = zip(_plan(olds), _plan(news), strict=True)
        for (name, metric, old), (_, _, new) in plans:
            k = len(old)
            interval = frame_metric(
                [*old, *new],
                metric,
                name,
                P.bootstrap_samples,
                P.seed,
                lambda values, k=k: values[k:].mean(axis=0) - values[:k].mean(axis=0),
            )
            difference = f"{after.model} minus {before.model}"
            rows.append({"difference": difference, "measure": name} | _points(interval))
    return pd.DataFrame(rows)


def class_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """One-vs-rest frame AUC and AP (per cent): their means over classes (mAUC, mAP), and each.

    Columns class_name, setting, model, value, low, high, n. AnomalyCLIP's measures.
    """
    benchmark, rows = load_benchmark(P.benchmark), []
    for s in scored:
        seeds = s.class_scores(benchmark.classes)
        parts = [
            class_columns(videos, benchmark.classes, benchmark.normal_class) for videos in seeds
        ]
        groups = {"mean": [c for part in parts for c in part.values()]}
        groups |= {name: [part[name] for part in parts] for name in parts[0]}
        for name, columns in groups.items():
            for kind, metric in METRICS.items():
                interval = frame_metric(columns, metric, name, P.bootstrap_samples, P.seed)
                row = {"class_name": name, "setting": f"{name} {kind}", "model": s.model}
                rows.append(row | _points(interval) | {"n": interval.n})
    return pd.DataFrame(rows)


def detection_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """mAP@IoU (VadCLIP), with and without normal videos: mean and spread over seeds.

    Columns model, normals, metric, value, seed_sd.
    """
    benchmark, rows = load_benchmark(P.benchmark), []
    for s in scored:
        for normals in (True, False):
            tables = [_detection(benchmark, s, videos, normals) for videos in s.seeds]
            stacked = pd.concat(tables).groupby("metric", sort=False)["value"]
            summary = stacked.agg(value="mean", seed_sd="std").reset_index()
            rows.append(summary.assign(model=s.model, normals=normals))
    return pd.concat(rows, ignore_index=True)[["model", "normals", "metric", "value", "seed_sd"]]


def curve_table(P: Params, scored: Sequence[Scored], count: int = 3) -> pd.DataFrame:
    """Scores over time of the first ``count`` abnormal videos of different classes and one normal.

    Chosen by rule, not by result; first seed. Columns video, time_s, model, score, truth.
    """
    chosen: dict[tuple, int] = {}
    for i, truth in enumerate(scored[0].truths):
        chosen.setdefault((truth.is_abnormal, *truth.classes), i)
    numbers = [i for key, i in chosen.items() if key[0]][:count]
    numbers += [i for key, i in chosen.items() if not key[0]]
    fps, tables = load_benchmark(P.benchmark).fps, []
    for i in numbers:
        for s in scored:
            truth = s.truths[i]
            video = held_scores(truth, s.seeds[0][i].anomaly, s.length)
            columns = {
                "video": f"{truth.name} ({', '.join(truth.classes) or 'normal'})",
                "time_s": np.arange(len(video.scores)) / fps,
                "model": s.model,
                "score": video.scores,
                "truth": video.truth.astype(int),
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


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


def _plan(columns: Columns) -> list[tuple[str, Metric, Columns]]:
    abnormal = [[video for video in videos if video.abnormal] for videos in columns]
    whole = [(f"frame {name}", metric, columns) for name, metric in METRICS.items()]
    return [*whole, ("AnoAUC", roc_auc, abnormal)]


def held_scores(truth: VideoTruth, scores: np.ndarray, length: int) -> FrameScores:
    """Scores (n,) of features, each held for the ``length`` frames it stands for, with truth."""
    frames = np.repeat(scores, length)
    return FrameScores(truth.name, frames, frame_truth(truth, len(frames)), truth.is_abnormal)
