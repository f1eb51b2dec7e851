"""Tables of the weakly supervised detectors: backbones side by side.

Every number is a mean over detector seeds. Intervals resample videos; seed_sd is the standard
deviation over seeds.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import pandas as pd

from companion import extraction
from companion.profiles import Params
from companion.result_tables import per_cent, with_interval, with_paper
from companion.tuned_models import STAGES, Stage, stage_model
from detectors.event_annotations import SNIPPET, VideoTruth, frame_class_truth, frame_truth
from detectors.features import snippet_rule
from detectors.fitting import VideoScores, fit_detector, zero_shot_score
from detectors.frame_metrics import FrameScores, interval, mean_of_defined, resampled_metrics
from detectors.mil import HEADS
from detectors.recognition import class_metrics, detection_map, false_alarm_rate, macro_auc
from detectors.training_protocol import DETECTORS, Detector

FRAMEWORKS = ("CLIP", "Full")  # supplementary B.3: the original backbone, and Alert-CLIP's


class Curves(NamedTuple):
    """Anomaly scores of one model on all frames of the evaluation videos, per seed."""

    model: str
    columns: list[list[FrameScores]]


class Scored(NamedTuple):
    """A detector on one backbone: truth and, per seed, scores of the evaluation videos."""

    stage: Stage
    detector: Detector
    length: int  # frames per score
    truths: list[VideoTruth]
    named: list[VideoTruth]  # the same with a class per event
    seeds: list[list[VideoScores]]
    features: list[np.ndarray]  # input of the detector, per video

    @property
    def model(self) -> str:
        """Name of the backbone."""
        return STAGES[self.stage]

    @property
    def columns(self) -> list[list[FrameScores]]:
        """Frame-level anomaly scores, per seed."""
        return self.held("anomaly", self.truths)

    def held(
        self, kind: str, truths: Sequence[VideoTruth], classes: Sequence[str] = ()
    ) -> list[list[FrameScores]]:
        """Scores of a ``kind`` per seed, each repeated for the frames it covers, with the truth."""
        return [
            [
                held_scores(truth, getattr(scores, kind), self.length, classes)
                for truth, scores in zip(truths, videos, strict=True)
            ]
            for videos in self.seeds
        ]


Resampled = dict[str, dict[str, tuple[np.ndarray, int]]]
"""Model -> metric -> values (seeds, 1 + n_boot), the first not resampled; number of frames."""


def score_stages(
    P: Params, detector: Detector, wanted: Sequence[Stage], base: Sequence[str] = ()
) -> list[Scored]:
    """Train and score a detector on each backbone with every detector seed of the profile.

    ``base``: the abnormal classes to train on (empty: all).
    """
    extraction.extract_for_all(P, wanted, detector)
    classes = [P.benchmark.normal_class, *base] if base else P.benchmark.classes
    length, scored = snippet_rule(P.detector, detector).length, []
    for stage in wanted:
        model = stage_model(P, stage)
        train = extraction.training_set(P, model, detector)
        x, truths, named = extraction.evaluation_set(P, model, detector)
        train = train.only(base) if base else train
        fit = partial(fit_detector, detector, model, train, P.benchmark, classes, P.detector)
        seeds = [list(map(fit(seed), x)) for seed in P.detector.seeds]
        scored.append(Scored(stage, detector, length, truths, named, seeds, x))
    return scored


def resample_models(P: Params, scored: Sequence[Scored | Curves]) -> Resampled:
    """Frame AUC, AP and AnoAUC of every model and seed, on the same resamples of the videos."""
    resampled = {}
    for s in scored:
        metrics = resampled[s.model] = resampled_metrics(s.columns, *P.draws)
        metrics["AnoAUC"] = metrics.pop("in-clip frame AUC")  # the field's name
    return resampled


def backbone_table(resampled: Resampled, paper: str) -> pd.DataFrame:
    """Frame AUC, AP and AnoAUC (per cent) per backbone, mean over seeds, beside the paper's.

    ``paper`` is a heading of params/paper_results.yaml. Columns setting, model, value, low, high,
    n, seed_sd, paper.
    """
    rows = []
    for model, metrics in resampled.items():
        for name, (values, n) in metrics.items():
            row = {"setting": name, "model": model, "n": n} | interval(values, n)._asdict()
            rows.append(row | {"seed_sd": 100 * pd.Series(values[:, 0]).std()})
    return with_paper(per_cent(pd.DataFrame(rows)), paper, "setting")


def head_table(P: Params, wanted: Sequence[Stage]) -> pd.DataFrame:
    """Frame metrics of detectors without text, on VadCLIP's features (its Tables 1 and 2).

    Columns as in ``backbone_table``; a setting reads "RTFM: frame AUC".
    """
    tables = []
    for head in HEADS:
        resampled = resample_models(P, score_stages(P, head, wanted))
        table = backbone_table(resampled, heading(P, head))
        tables.append(table.assign(setting=f"{DETECTORS[head]}: " + table["setting"]))
    return pd.concat(tables, ignore_index=True)


def listing(table: pd.DataFrame, label: str, digits: int = 1) -> str:
    """Rows of a table as one sentence, each ``label`` with value and interval; "none." if empty."""
    items = [f"{label.format(**row)} {with_interval(row, digits)}" for _, row in table.iterrows()]
    return ("; ".join(items) or "none") + "."


def heading(P: Params, detector: Detector) -> str:
    """Heading of a detector on the profile's benchmark in params/paper_results.yaml."""
    return f"{DETECTORS[detector]}, {P.benchmark.title}"


def backbone_differences(resampled: Resampled) -> pd.DataFrame:
    """Paired differences (points) of each backbone from the one before it, on the same videos."""
    rows = []
    for before, after in pairwise(resampled):
        for name, (values, n) in resampled[after].items():
            change = mean_of_defined(values) - mean_of_defined(resampled[before][name][0])
            row = {"difference": f"{after} minus {before}", "measure": name}
            rows.append(row | interval(change, n)._asdict())
    return per_cent(pd.DataFrame(rows)).drop(columns="n")


def alarm_table(scored: Sequence[Scored]) -> pd.DataFrame:
    """False-alarm rate at .5 on normal videos and macro AUC (per cent): mean and SD over seeds.

    Columns model, metric, value, seed_sd.
    """
    metrics = {"false-alarm rate": false_alarm_rate, "macro AUC": macro_auc}
    rows = [
        (s.model, name, 100 * metrics[name](videos))
        for s, name in product(scored, metrics)
        for videos in s.columns
    ]
    return _over_seeds(pd.DataFrame(rows, columns=["model", "metric", "value"]))


def class_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """One-vs-rest frame AUC and AP (per cent): means over classes (mAUC, mAP) and per class.

    Columns class_name, setting, model, value, low, high, n. Metrics of AnomalyCLIP.
    """
    classes, normal_class, tables = P.benchmark.classes, P.benchmark.normal_class, []
    for s in scored:
        seeds = s.held("probabilities", s.named, classes)
        table = class_metrics(seeds, classes, normal_class, *P.draws)
        settings = table["class_name"] + " " + table["metric"]
        tables.append(table.assign(setting=settings, model=s.model).drop(columns="metric"))
    return per_cent(pd.concat(tables, ignore_index=True))


def other_branch_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """Frame metrics (per cent) of the branch of VadCLIP that its authors do not report.

    They report the C-branch on UCF-Crime and the A-branch on XD-Violence, the better one on the
    test videos. Columns as in ``backbone_table``.
    """
    others = [
        s._replace(seeds=[[v._replace(anomaly=v.other_branch) for v in seed] for seed in s.seeds])
        for s in scored
    ]
    return backbone_table(resample_models(P, others), "none")


def published_truth(scored: Sequence[Scored]) -> list[Scored]:
    """``scored`` with the truth that AnomalyCLIP's released code used for its tables.

    Every event has the first class of its video, and the frame at its end counts as abnormal.
    """

    def published(truth: VideoTruth) -> VideoTruth:
        spans = tuple((start, end + 1) for start, end in truth.spans)
        return replace(truth, spans=spans, span_classes=())

    return [s._replace(named=list(map(published, s.truths))) for s in scored]


def class_prompt_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """Class prompts alone, nothing trained, on the features of ``scored`` (AnomalyCLIP).

    Columns setting, model, value, low, high, n: frame metrics, then those of ``class_table``.
    """
    untrained = []
    for s in scored:
        score = zero_shot_score(stage_model(P, s.stage), P.benchmark)
        untrained.append(s._replace(seeds=[list(map(score, s.features))]))
    frames = backbone_table(resample_models(P, untrained), "none")
    columns = ["setting", "model", "value", "low", "high", "n"]
    return pd.concat([frames, class_table(P, untrained)], ignore_index=True)[columns]


def detection_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """mAP@IoU (VadCLIP) with and without normal videos: mean and SD over seeds.

    Columns model, normals, metric, value, seed_sd.
    """
    classes, tables = (P.benchmark.classes, P.benchmark.detection_normal_class), []
    for s in scored:
        for normals, videos in product((True, False), s.seeds):
            scores = [np.repeat(v.probabilities, s.length, axis=0).astype(float) for v in videos]
            table = detection_map(scores, s.named, *classes, normals)
            tables.append(table.assign(model=s.model, normals=normals))
    return _over_seeds(pd.concat(tables)[["model", "normals", "metric", "value"]])


def _over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of value over rows that agree in all other columns."""
    groups = table.groupby([*table.columns.drop("value")], sort=False)["value"]
    return groups.agg(value="mean", seed_sd="std").reset_index()


def held_scores(
    truth: VideoTruth, scores: np.ndarray, length: int, classes: Sequence[str] = ()
) -> FrameScores:
    """Feature scores repeated for the ``length`` frames that each covers, with the frame truth.

    scores (n,), or (n, C) of ``classes``. Warns if scores and truth differ by a feature or more.
    """
    repeated = np.repeat(scores, length, axis=0)
    if truth.frames and abs(truth.frames - len(repeated)) >= max(SNIPPET, length):
        what = f"{truth.name}: {truth.frames} annotated frames, but {len(repeated)} with a score"
        warnings.warn(f"{what}: cut or padded with normal frames", stacklevel=2)
    truth_of = partial(frame_class_truth, classes=classes) if classes else frame_truth
    return FrameScores(truth.name, repeated, truth_of(truth, len(repeated)), truth.is_abnormal)


def data_framework_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """VadCLIP trained on all videos or on VAGTA's, on CLIP and on Full (supplementary B.3).

    We take "VAGTA" as training only on the videos it annotates; the paper does not say. ``scored``
    are the backbones trained on all videos. Columns setting, model, videos, value, low, high, n,
    paper. Where VAGTA annotates every training video, both rows are the same detector.
    """
    curated = P.changed({"detector_subset": "annotated"})
    original, vagta = ([path.stem for path in extraction.chosen_videos(Q)] for Q in (P, curated))
    on_original = on_vagta = [s for s in scored if s.model in FRAMEWORKS]
    if vagta != original:
        on_vagta = score_stages(curated, on_original[0].detector, [s.stage for s in on_original])
    runs = (("original data", original, on_original), ("VAGTA", vagta, on_vagta))
    tables = []
    for title, videos, trained in runs:
        paper = f"Data versus framework, {P.benchmark.title}, {title}"
        table = backbone_table(resample_models(P, trained), paper)
        table = table[table["setting"].isin(["frame AUC", "frame AP"])]
        setting = f"{title}: " + table["setting"]
        tables.append(table.assign(setting=setting, videos=len(videos)))
    return pd.concat(tables, ignore_index=True).drop(columns="seed_sd")
