"""Tables of the weakly supervised detectors: backbones side by side, over seeds, with intervals.

Every number is a mean over detector seeds; its interval resamples videos. The standard deviation
over seeds stands beside it.
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
    """Anomaly scores of one model, by name, on all frames of the evaluation videos, per seed."""

    model: str
    columns: list[list[FrameScores]]


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
    def columns(self) -> list[list[FrameScores]]:
        """Anomaly scores per frame, once per seed."""
        return self.held("anomaly", self.truths)

    def held(
        self, kind: str, truths: Sequence[VideoTruth], classes: Sequence[str] = ()
    ) -> list[list[FrameScores]]:
        """Scores of a ``kind`` per seed, each held for the frames it stands for, with truth."""
        return [
            [
                held_scores(truth, getattr(found, kind), self.length, classes)
                for truth, found in zip(truths, videos, strict=True)
            ]
            for videos in self.seeds
        ]


Resampled = dict[str, dict[str, tuple[np.ndarray, int]]]
"""By model and metric: values (seeds, 1 + n_boot), first on the videos as they are; frames."""


def score_stages(
    P: Params, detector: Detector, wanted: Sequence[Stage], base: Sequence[str] = ()
) -> list[Scored]:
    """Train and score a detector on each backbone, under every detector seed of the profile.

    ``base``: the abnormal classes that training sees (none named: all).
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
    found = {}
    for s in scored:
        found[s.model] = resampled_metrics(s.columns, *P.draws)
        found[s.model]["AnoAUC"] = found[s.model].pop("in-clip frame AUC")  # the field's name
    return found


def backbone_table(resampled: Resampled, paper: str) -> pd.DataFrame:
    """Frame AUC, AP and AnoAUC (per cent) per backbone, mean over seeds, beside the paper's.

    ``paper`` heads their table there. Columns setting, model, value, low, high, n, seed_sd, paper.
    """
    rows = []
    for model, metrics in resampled.items():
        for name, (values, n) in metrics.items():
            row = {"setting": name, "model": model, "n": n} | interval(values, n)._asdict()
            rows.append(row | {"seed_sd": 100 * pd.Series(values[:, 0]).std()})
    return with_paper(per_cent(pd.DataFrame(rows)), paper, "setting")


def head_table(P: Params, wanted: Sequence[Stage]) -> pd.DataFrame:
    """Frame metrics of the heads without text, on the features of VadCLIP (its Tables 1 and 2).

    Columns as in ``backbone_table``; a setting is such as "RTFM: frame AUC".
    """
    tables = []
    for head in HEADS:
        resampled = resample_models(P, score_stages(P, head, wanted))
        table = backbone_table(resampled, heading(P, head))
        tables.append(table.assign(setting=f"{DETECTORS[head]}: " + table["setting"]))
    return pd.concat(tables, ignore_index=True)


def listing(table: pd.DataFrame, label: str, digits: int = 1) -> str:
    """The rows of a table as one sentence, "none" without: ``label``, value and interval."""
    rows = [f"{label.format(**row)} {with_interval(row, digits)}" for _, row in table.iterrows()]
    return ("; ".join(rows) or "none") + "."


def heading(P: Params, detector: Detector) -> str:
    """The paper's table for a detector on the profile's benchmark, in params/paper_results.yaml."""
    return f"{DETECTORS[detector]}, {P.benchmark.title}"


def backbone_differences(resampled: Resampled) -> pd.DataFrame:
    """Paired differences (points) of each backbone to the one before it, over the same videos."""
    rows = []
    for before, after in pairwise(resampled):
        for name, (values, n) in resampled[after].items():
            change = mean_of_defined(values) - mean_of_defined(resampled[before][name][0])
            row = {"difference": f"{after} minus {before}", "measure": name}
            rows.append(row | interval(change, n)._asdict())
    return per_cent(pd.DataFrame(rows)).drop(columns="n")


def alarm_table(scored: Sequence[Scored]) -> pd.DataFrame:
    """False-alarm rate at .5 on normal videos and macro AUC (per cent), mean and spread over seeds.

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
    """One-vs-rest frame AUC and AP (per cent): their means over classes (mAUC, mAP), and each.

    Columns class_name, setting, model, value, low, high, n. AnomalyCLIP's measures.
    """
    classes, normal_class, tables = P.benchmark.classes, P.benchmark.normal_class, []
    for s in scored:
        seeds = s.held("probabilities", s.named, classes)
        table = class_metrics(seeds, classes, normal_class, *P.draws)
        named = table["class_name"] + " " + table["metric"]
        tables.append(table.assign(setting=named, model=s.model).drop(columns="metric"))
    return per_cent(pd.concat(tables, ignore_index=True))


def other_branch_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """Frame metrics (per cent) of the branch of VadCLIP that its authors do not report here.

    They report the C-branch on UCF-Crime and the A-branch on XD-Violence, which is the better one
    there: a choice made on test videos. Columns as in ``backbone_table``.
    """
    others = [
        s._replace(seeds=[[v._replace(anomaly=v.other_branch) for v in seed] for seed in s.seeds])
        for s in scored
    ]
    return backbone_table(resample_models(P, others), "none")


def published_truth(scored: Sequence[Scored]) -> list[Scored]:
    """``scored`` against the truth of AnomalyCLIP's released code, which made its tables.

    There every event has its video's first class, and the frame at which it ends counts too.
    """

    def published(truth: VideoTruth) -> VideoTruth:
        spans = tuple((start, end + 1) for start, end in truth.spans)
        return replace(truth, spans=spans, span_classes=())

    return [s._replace(named=list(map(published, s.truths))) for s in scored]


def class_prompt_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """The backbones of ``scored`` with class prompts alone, on the same features (AnomalyCLIP).

    Columns setting, model, value, low, high, n: frame metrics, then ``class_table``'s.
    """
    untrained = []
    for s in scored:
        score = zero_shot_score(stage_model(P, s.stage), P.benchmark)
        untrained.append(s._replace(seeds=[list(map(score, s.features))]))
    frames = backbone_table(resample_models(P, untrained), "none")
    columns = ["setting", "model", "value", "low", "high", "n"]
    return pd.concat([frames, class_table(P, untrained)], ignore_index=True)[columns]


def detection_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """mAP@IoU (VadCLIP), with and without normal videos: mean and spread over seeds.

    Columns model, normals, metric, value, seed_sd.
    """
    names, tables = (P.benchmark.classes, P.benchmark.detection_normal_class), []
    for s in scored:
        for normals, videos in product((True, False), s.seeds):
            curves = [np.repeat(v.probabilities, s.length, axis=0).astype(float) for v in videos]
            table = detection_map(curves, s.named, *names, normals)
            tables.append(table.assign(model=s.model, normals=normals))
    return _over_seeds(pd.concat(tables)[["model", "normals", "metric", "value"]])


def _over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the rows that differ in value alone."""
    groups = table.groupby([*table.columns.drop("value")], sort=False)["value"]
    return groups.agg(value="mean", seed_sd="std").reset_index()


def held_scores(
    truth: VideoTruth, scores: np.ndarray, length: int, classes: Sequence[str] = ()
) -> FrameScores:
    """Scores of features, each held for the ``length`` frames it stands for, with truth.

    scores (n,), or (n, C) of ``classes``. Warns where truth and scores differ by a feature or more.
    """
    held = np.repeat(scores, length, axis=0)
    if truth.frames and abs(truth.frames - len(held)) >= max(SNIPPET, length):
        what = f"{truth.name}: {truth.frames} annotated frames, but {len(held)} with a score"
        warnings.warn(f"{what}: cut or padded with normal frames", stacklevel=2)
    read = partial(frame_class_truth, classes=classes) if classes else frame_truth
    return FrameScores(truth.name, held, read(truth, len(held)), truth.is_abnormal)


def data_framework_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """VadCLIP trained on all videos or those of VAGTA, on CLIP and on Full (supplementary B.3).

    "VAGTA" is read as: train only on the videos that VAGTA annotates; the paper does not say it.
    ``scored`` are the backbones trained on all. Columns setting, model, videos, value, low, high,
    n, paper. Where every training video is annotated, both rows are the same detector.
    """
    curated = P.changed({"detector_subset": "annotated"})
    every, some = ([path.stem for path in extraction.chosen_videos(Q)] for Q in (P, curated))
    first = second = [s for s in scored if s.model in FRAMEWORKS]
    if some != every:
        second = score_stages(curated, first[0].detector, [s.stage for s in first])
    tables = []
    for title, names, part in (("original data", every, first), ("VAGTA", some, second)):
        paper = f"Data versus framework, {P.benchmark.title}, {title}"
        table = backbone_table(resample_models(P, part), paper)
        table = table[table["setting"].isin(["frame AUC", "frame AP"])]
        setting = f"{title}: " + table["setting"]
        tables.append(table.assign(setting=setting, videos=len(names)))
    return pd.concat(tables, ignore_index=True).drop(columns="seed_sd")
