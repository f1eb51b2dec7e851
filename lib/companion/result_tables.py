"""Tables behind the notebooks' figures, with intervals, and wording for sentences on them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from alertclip import intervals, mss
from alertclip.checkpoint import read_history
from companion import figures, paper_numbers, tuned_models
from companion.figures import catalogue
from companion.profiles import Params
from companion.splits import Split
from companion.tuned_models import STAGES, Stage, StageResult, videos
from detectors import frame_metrics
from detectors.frame_metrics import FrameScores
from media.errors import InputError


def digits(x: float) -> str:
    """Format a number of a notebook's table: whole ones in full, others to 4 significant digits."""
    return f"{x:,.0f}" if x.is_integer() or abs(x) >= 1e4 else f"{x:.4g}"


pd.set_option("display.float_format", digits, "display.max_colwidth", None)  # in notebooks
finding = Markdown  # the sentence under a result; an f-string fills in numbers of the table


def with_interval(row: pd.Series, digits: int = 1, value: str = "value") -> str:
    """A number with its 95% interval, such as "79.7 [75.2, 84.0]"."""
    return f"{row[value]:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def side(row: pd.Series) -> str:
    """Position of an interval: "above zero", "below zero" or "not distinguishable from zero"."""
    if row["low"] > 0:
        return "above zero"
    return "below zero" if row["high"] < 0 else "not distinguishable from zero"


def pick(table: pd.DataFrame, **values: object) -> pd.Series:
    """The first row whose columns have these values: ``pick(table, model="CLIP")``."""
    return table[(table[list(values)] == pd.Series(values)).all(axis=1)].iloc[0]


def mss_by_class(P: Params, results: list[StageResult]) -> pd.DataFrame:
    """MSS with intervals beside the paper's: one row per model and class, "all" first."""
    tables = []
    for r in results:
        clips = r.clips.labels, r.clips.classes, *P.draws, videos(r.clips)
        tables.append(mss.mss_table(r.similarities, *clips).assign(model=STAGES[r.stage]))
    return with_paper(pd.concat(tables, ignore_index=True), "mss", "class_name")


def zero_shot(P: Params, results: list[StageResult], split: Split = "test") -> pd.DataFrame:
    """Video-level and frame-level AUC and AP in per cent, with intervals, beside the paper's."""
    rows = []
    for r in results:
        frame = frame_metrics.frame_metrics(frame_scores(P, r, split), *P.draws)
        rows.append(pd.concat([_video_metrics(P, r), frame]).assign(model=STAGES[r.stage]))
    table = per_cent(pd.concat(rows, ignore_index=True)).rename(columns={"metric": "setting"})
    return with_paper(table, "zero_shot", "setting")


def _video_metrics(P: Params, r: StageResult, of: np.ndarray | slice = slice(None)) -> pd.DataFrame:
    """Video AUC and AP of a model on its clips, or on those selected by ``of``: shares of one."""
    groups = np.array(videos(r.clips))[of]
    return frame_metrics.video_metrics(r.margins[of], r.clips.labels[of], *P.draws, groups)


def paired(P: Params, before: StageResult, after: StageResult) -> pd.DataFrame:
    """Paired differences after - before on test clips: MSS, and AUC in points, with intervals."""
    labels, groups = before.clips.labels, videos(before.clips)
    signed = [mss.signed_score(r.similarities, labels) for r in (before, after)]
    margins, auc = (before.margins, after.margins), frame_metrics.auc_statistic(labels)
    changes = {
        "MSS": intervals.paired_difference(*signed, intervals.mean, *P.draws, groups),
        "video AUC": intervals.paired_difference(*margins, auc, *P.draws, groups),
    }
    scores = [frame_scores(P, r, "test") for r in (before, after)]
    frames = frame_metrics.resampled_metrics(scores, *P.draws)
    for name in ("frame AUC", "in-clip frame AUC"):
        (first, second), n = frames[name]
        changes[name] = frame_metrics.interval(second - first, n)
    table = pd.DataFrame(changes.values())
    table.loc[1:, ["value", "low", "high"]] *= 100  # AUC in points
    table.insert(0, "measure", list(changes))
    table.insert(0, "difference", f"{STAGES[after.stage]} minus {STAGES[before.stage]}")
    return table


def frame_scores(P: Params, result: StageResult, split: Split) -> list[FrameScores]:
    """Margin of every sampled frame after the temporal transformer, with its truth."""
    clips, spans, scores = result.clips, tuned_models.event_spans(P, split), []
    margins = mss.zero_shot_margin(clips.z, result.normal, result.abnormal)  # (N, T)
    for i, (video, key) in enumerate(zip(videos(clips), clips.keys, strict=True)):
        real = clips.mask[i]
        truth = mss.inside(clips.times[i][real], spans.get(key, ()))
        scores.append(FrameScores(video, margins[i][real], truth, bool(clips.labels[i])))
    return scores


def gap_table(result: StageResult) -> pd.DataFrame:
    """Figure 1 as a table: key, class_name, label, normal S_N, abnormal S_A, gap S_A - S_N."""
    clips, (normal, abnormal) = result.clips, result.similarities.astype(float).T
    table = pd.DataFrame({"key": clips.keys, "class_name": clips.classes, "label": clips.labels})
    return table.assign(normal=normal, abnormal=abnormal, gap=abnormal - normal)


def text_similarity_matrix(text: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Figure 2 as a tidy table: cosine between every two prompts.

    text (C, D) unit length -> columns row, column, cosine; C * C rows in prompt order.
    """
    row, column = np.repeat(names, len(names)), list(names) * len(names)
    return pd.DataFrame({"row": row, "column": column, "cosine": (text @ text.T).ravel()})


def umap_table(results: list[StageResult], seed: int) -> pd.DataFrame:
    """UMAP (cosine) of clips and prompts, one per model. Columns: panel, x, y, group, text.

    Repeatable: fixed seed, one thread. InputError for fewer than five points.
    """
    from umap import UMAP, layouts, umap_  # importing numba takes seconds

    # umap caches only half of its numba code; compiling the rest would take 12 s in each process.
    compiled = umap_.fast_knn_indices, umap_.smooth_knn_dist, umap_.compute_membership_strengths
    for function in (*compiled, layouts._nb_optimize_layout_euclidean_single_epoch):
        function.enable_caching()
    tables = []
    for r in results:
        groups = ["abnormal clip" if label else "normal clip" for label in r.clips.labels]
        groups += ["normal prompt"] * len(r.normal) + ["abnormal prompt"] * len(r.abnormal)
        if len(groups) < 5:
            raise InputError(f"UMAP of {len(groups)} points: give at least 5")
        points = np.concatenate([r.clips.embedding, r.normal, r.abnormal]).astype(np.float32)
        options = {"metric": "cosine", "random_state": seed, "n_jobs": 1}
        # The spectral start needs many more points than dimensions; PCA serves any number.
        xy = UMAP(min(15, len(points) - 2), init="pca", **options).fit_transform(points)
        table = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "group": groups})
        text = table["group"].str.endswith("prompt").astype(int)
        tables.append(table.assign(text=text, panel=STAGES[r.stage]))
    return pd.concat(tables, ignore_index=True)


def training_log(P: Params, stage: Stage) -> pd.DataFrame:
    """Log of a trained stage. Columns: step, term, value; one row per step and loss term."""
    history = read_history(P.tuned_dir / stage)
    rows = pd.concat([pd.DataFrame(history.steps), pd.DataFrame(history.validation)])
    terms = [c for c in rows if c.startswith("loss") or c == "validation_loss"]
    return rows.melt("step", terms, "term", "value").dropna()


def prompt_wordings(P: Params, result: StageResult) -> pd.DataFrame:
    """Video AUC (per cent) with every wording of the prompt file; "fixed" is the main set.

    Columns wording, metric, value, low, high, n, setting (the wording), model.
    """
    encode, rows = tuned_models.stage_model(P, result.stage).encode_text, []
    prompts = tuned_models.prompts_of(P)
    for wording, sets in {"fixed": prompts.sets, **prompts.alternatives}.items():
        worded = StageResult(result.stage, result.clips, *mss.encode_sets(encode, sets))
        table = _video_metrics(P, worded).head(1)  # AUC, not AP
        table.insert(0, "wording", wording)
        rows.append(table.assign(setting=wording.replace("_", " "), model=STAGES[result.stage]))
    return per_cent(pd.concat(rows, ignore_index=True))


def by_difficulty(P: Params, results: list[StageResult]) -> pd.DataFrame:
    """Video AUC per difficulty of the mini world; one row "all" if clips have none."""
    path = P.data_dir / "clips.csv"
    difficulty = pd.read_csv(path).set_index("video")["difficulty"] if path.is_file() else {}
    rows = []
    for r in results:
        levels = np.array([difficulty.get(name, "all") for name in videos(r.clips)])
        for level in ("easy", "medium", "hard", "all"):
            if len(set(r.clips.labels[levels == level])) == 2:
                table = _video_metrics(P, r, levels == level).head(1)
                rows.append(table.assign(setting=level, model=STAGES[r.stage]))
    return per_cent(pd.concat(rows, ignore_index=True))


def per_cent(table: pd.DataFrame) -> pd.DataFrame:
    """The table with value, low and high in per cent instead of shares of one."""
    return table.assign(**{name: 100 * table[name] for name in ("value", "low", "high")})


def with_paper(table: pd.DataFrame, result: str, by: str) -> pd.DataFrame:
    """Add the column paper: the published number by model and ``by``; nan where there is none.

    ``result`` is a heading of params/paper_results.yaml, such as "mss" (by class_name).
    """
    published = paper_numbers.beside(result)
    pairs = zip(table["model"], table[by], strict=True)
    return table.assign(paper=[published.get(pair, np.nan) for pair in pairs])


def draw(
    name: str, table: pd.DataFrame, P: Params, figure: figures.Figure | None = None
) -> figures.Figure:
    """Save a table and its PNG, ``figure`` or the catalogue's drawing, in the run's figures/."""
    return catalogue.publish(name, table, P.run_dir / "figures", tuned_models.provenance(P), figure)
