"""The tables behind the notebooks' figures: numbers of one or several stages, with intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alertclip import mss
from alertclip.checkpoint import read_history
from alertclip.files import write_json
from alertclip.prompts import load_prompts
from alertclip.zero_shot import frame_scores, wording_table
from companion import figures
from companion.figures import catalogue
from companion.ledger.paper_results import load_paper_results
from companion.profiles import ROOT, Params
from companion.splits import Split
from companion.stage_runs import FOLDERS
from companion.tuned_models import STAGES, StageResult, event_spans, provenance, stage_model, videos
from detectors.frame_metrics import auc_statistic, frame_metrics, video_metrics
from detectors.resampling import FrameScores, frame_auc, frame_count, interval, resample


def mss_by_class(P: Params, results: list[StageResult]) -> pd.DataFrame:
    """MSS with intervals beside the paper's, one row per model and class ("all" first)."""
    tables = []
    for r in results:
        table = mss.mss_table(
            r.similarities,
            r.clips.labels,
            r.clips.classes,
            P.evaluation.bootstrap_samples,
            P.seed,
            videos(r.clips),
        )
        tables.append(table.assign(model=STAGES[r.stage]))
    return with_paper(pd.concat(tables, ignore_index=True), "mss", "class_name")


def zero_shot(P: Params, results: list[StageResult], split: Split = "test") -> pd.DataFrame:
    """Video-level and frame-level AUC and AP in per cent, with intervals, beside the paper's."""
    rows = []
    for r in results:
        video = video_metrics(
            r.margins, r.clips.labels, P.evaluation.bootstrap_samples, P.seed, videos(r.clips)
        )
        frame = frame_metrics(_frames(P, r, split), P.evaluation.bootstrap_samples, P.seed)
        rows.append(pd.concat([video, frame]).assign(model=STAGES[r.stage]))
    table = pd.concat(rows, ignore_index=True)
    table = per_cent(table).rename(columns={"metric": "setting"})
    return with_paper(table, "zero_shot", "setting")


def paired(
    P: Params, before: StageResult, after: StageResult, split: Split = "test"
) -> pd.DataFrame:
    """Differences after - before on the same clips, with intervals: MSS, and AUC in points."""
    labels, draws = before.clips.labels, (P.evaluation.bootstrap_samples, P.seed)
    groups = videos(before.clips)
    signed = [mss.signed_score(r.similarities, labels) for r in (before, after)]
    mss_change = mss.paired_difference(*signed, mss.mean, *draws, groups)
    video = mss.paired_difference(
        before.margins, after.margins, auc_statistic(labels), *draws, groups
    )
    frames = [_frames(P, r, split) for r in (before, after)]
    inside = [[video for video in part if video.abnormal] for part in frames]
    aucs = {
        "video AUC": video,
        "frame AUC": _frame_difference(frames, draws),
        "in-clip frame AUC": _frame_difference(inside, draws),
    }
    rows = [{"measure": "MSS", **mss_change._asdict()}]
    for name, found in aucs.items():
        points = {k: v if k == "n" else 100 * v for k, v in found._asdict().items()}
        rows.append({"measure": name, **points})
    name = f"{STAGES[after.stage]} minus {STAGES[before.stage]}"
    return pd.DataFrame([{"difference": name, **row} for row in rows])


def _frame_difference(
    pair: Sequence[Sequence[FrameScores]], draws: tuple[int, int]
) -> mss.Interval:
    """Frame AUC of the second model minus the first's."""
    before, after = resample(pair, frame_auc, "frame AUC", *draws)
    return interval(after - before, frame_count(pair[0]))


def _frames(P: Params, result: StageResult, split: Split) -> list[FrameScores]:
    return frame_scores(result.clips, result.normal, result.abnormal, event_spans(P, split))


def umap_table(results: list[StageResult], seed: int) -> pd.DataFrame:
    """UMAP of clips and prompts per model: columns panel, x, y, group."""
    tables = []
    for r in results:
        groups = ["abnormal clip" if label else "normal clip" for label in r.clips.labels]
        groups += ["normal prompt"] * len(r.normal) + ["abnormal prompt"] * len(r.abnormal)
        points = np.concatenate([r.clips.embedding, r.normal, r.abnormal])
        xy = mss.project_2d(points, seed)
        frame = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "group": groups})
        tables.append(frame.assign(panel=STAGES[r.stage]))
    return pd.concat(tables, ignore_index=True)


def training_log(P: Params, stage: int) -> pd.DataFrame:
    """Tidy log of a stage: columns step, term, value; one row per step and loss term."""
    history = read_history(P.run_dir / FOLDERS[stage])
    rows = pd.concat([pd.DataFrame(history.steps), pd.DataFrame(history.validation)])
    terms = [c for c in rows if c.startswith("loss") or c == "validation_loss"]
    return rows.melt("step", terms, "term", "value").dropna()


def prompt_wordings(P: Params, result: StageResult) -> pd.DataFrame:
    """Video AUC (per cent) of every wording in the prompt file: how far words alone move it."""
    model = stage_model(P, result.stage)
    table = wording_table(
        result.clips,
        model.encode_text,
        load_prompts(ROOT / P.evaluation.prompts),
        P.evaluation.bootstrap_samples,
        P.seed,
        videos(result.clips),
    )
    return per_cent(table[table["metric"] == "video AUC"]).assign(
        setting=lambda t: t["wording"], model=STAGES[result.stage]
    )


def by_difficulty(P: Params, results: list[StageResult]) -> pd.DataFrame:
    """Video AUC per difficulty of the mini world; one row "all" where clips have none."""
    difficulty = _difficulty(P)
    rows = []
    for r in results:
        groups = np.array(videos(r.clips))
        levels = np.array([difficulty.get(name, "all") for name in groups])
        for level in [x for x in ("easy", "medium", "hard", "all") if x in levels]:
            part = levels == level
            if len(set(r.clips.labels[part])) == 2:
                table = video_metrics(
                    r.margins[part],
                    r.clips.labels[part],
                    P.evaluation.bootstrap_samples,
                    P.seed,
                    groups[part],
                )
                rows.append(table.head(1).assign(setting=level, model=STAGES[r.stage]))
    return per_cent(pd.concat(rows, ignore_index=True))


def _difficulty(P: Params) -> dict[str, str]:
    path = P.data_dir / "clips.csv"
    if not path.is_file():
        return {}
    clips = pd.read_csv(path)
    return dict(zip(clips["video"], clips["difficulty"], strict=True))


def per_cent(table: pd.DataFrame) -> pd.DataFrame:
    """The table with value, low and high, shares of one, in per cent."""
    columns = ["value", "low", "high"]
    return table.assign(**{name: 100 * table[name] for name in columns})


def prompt_matrix(P: Params, result: StageResult) -> pd.DataFrame:
    """Figure 2 as a table: cosine between every two prompts of the fixed sets."""
    sets = load_prompts(ROOT / P.evaluation.prompts).sets
    text = np.concatenate([result.normal, result.abnormal])
    return mss.text_similarity_matrix(text, [*sets.normal, *sets.abnormal])


def gaps_per_class(result: StageResult) -> pd.DataFrame:
    """Figure 1 as a table: the first clip of each class, its similarity to both sets."""
    clips = result.clips
    table = mss.gap_table(result.similarities, clips.labels, clips.classes, clips.keys)
    return table.groupby("class_name", sort=True).head(1).sort_values("class_name")


def with_paper(table: pd.DataFrame, result: str, by: str) -> pd.DataFrame:
    """Add column paper: its number (params/paper_results.yaml) by model and ``by``; nan if none.

    ``result`` is a heading of that file, such as "mss" (by class_name); without one, all are nan.
    """
    marks = load_paper_results().marks(result)
    pairs = zip(table["model"], table[by], strict=True)
    return table.assign(paper=[marks.get(pair, np.nan) for pair in pairs])


def show(figure: figures.Figure, name: str, table: pd.DataFrame, P: Params) -> figures.Figure:
    """Save a figure with its table under the run's figures/; named last in a cell, it is shown."""
    source = provenance(P)
    figures.stamp(figure, ", ".join(f"{k}: {v}" for k, v in source.items()))
    write_json(P.run_dir / "figures" / "provenance.json", source)
    return figures.save(figure, name, table, P.run_dir / "figures")


def draw(name: str, table: pd.DataFrame, P: Params) -> figures.Figure:
    """Write a table under the run's figures/ and draw it as the catalogue says, beside it."""
    folder = P.run_dir / "figures"
    write_json(folder / "provenance.json", provenance(P))
    figures.write_table(table, folder / f"{name}.csv")
    return catalogue.redraw(name, folder)
