"""Every figure by name: the function that draws it and its fixed texts, each stated once.

A notebook writes the CSV and draws from it by the same function, so a figure drawn in a run and
one redrawn later are the same to the byte.
"""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from alertclip.errors import InputError
from alertclip.files import read_json, write_json
from companion.figures import comparisons, curves, seed_plots, spaces, style

SYNTHETIC = "synthetic"  # in the name of the data
COUNTED = ("flops",)  # the paper's own model, whatever the data
PLANTED = "synthetic, with planted faults"
REFERENCE = "synthetic, committed runs of the mini profile"
WILSON = "Point: share of right answers. Line: 95% Wilson interval over n videos."
SCHEDULE = "Training time of the paper's schedule, extrapolated"
SEEN = "Where the classifier sees the anomaly"
IMAGES = "Point: value on n images. Line: 95% bootstrap interval over images."
SHARE = "Share of the map in the actor's box / area of the box (dotted: even over the picture)."
CLIPS = "n = {n} clips. Bars: 95% bootstrap interval over videos. Left: as recorded."
OVER = f"Mean over abnormal clips of the frames with a box; {CLIPS}"

compare, umap, losses = comparisons.model_comparison, spaces.projection_panels, curves.loss_curves
changes, damage = comparisons.paired_changes, partial(curves.panel_curves, caption=CLIPS)
over_time, counts = curves.score_curves, curves.dataset_overview
auc = partial(compare, axis="AUC (%)", level=50)
answers = partial(compare, caption=WILSON, axis="accuracy (%)", level=curves.FOUR_OPTIONS)
in_box = partial(damage, axis="mass in the box / its area", caption=f"{SHARE} {OVER}")
relevance = partial(in_box, title="Relevance for the anomaly score inside the actor's box")
order = partial(damage, axis="video AUC (%)", title="Detection: abnormal against normal", level=50)
sign_score = partial(
    compare,
    title="MeanSignScore per class",
    caption="Point: mean over n videos. Line: 95% bootstrap interval over videos.",
    axis="MeanSignScore (difference of cosines; above 0: right prompts preferred)",
    level=0,
    row="class_name",
    value="mss",
)
pointing = partial(
    damage,
    axis="hit rate (%)",
    title="Pointing game: the peak of relevance touches the actor's box",
    caption=f"Dotted: share of patches that the box touches. {OVER}",
)
margin = partial(
    damage,
    axis="margin S_A - S_N (cosine)",
    title="Anomaly score of abnormal and of normal clips",
    caption=f"Dashed: normal clips, without intervals. In each class {CLIPS}",
)
operations = partial(
    comparisons.point_intervals,
    row="module",
    value="operations",
    by="variant",
    title="One clip of 256 frames, one text",
    caption="Counted, not measured.",
    xlabel="operations, a multiply-add counted as one (log scale)",
    xscale="log",
)
met = partial(compare, axis="IoU or share of videos (%)")

CATALOGUE: dict[str, Callable[[pd.DataFrame], style.Figure]] = {
    "items_per_class": counts,
    "screening_scores": curves.score_distribution,
    "screening_recovery": comparisons.screening_recovery,
    "negatives_violations": comparisons.violations_by_kind,
    "prompt_similarity": spaces.prompt_similarity_matrix,
    "similarity_gap": spaces.similarity_gap,
    "mss_clip": sign_score,
    "wordings_clip": partial(auc, title="Video AUC of untuned CLIP by wording"),
    "umap_clip": partial(umap, title="Clips and prompts before tuning"),
    "stage1_losses": partial(losses, title="Stage I losses"),
    "stage1_batch": spaces.batch_similarity,
    "stage1_mss": sign_score,
    "stage1_zero_shot": partial(compare, title="Zero-shot detection"),
    "stage1_umap": partial(umap, title="Clips and prompts"),
    "learning_curves": seed_plots.learning_curves,
    "mss_against_auc": seed_plots.mss_against_auc,
    "stage2_losses": partial(losses, title="Stage II losses"),
    "stage2_mss": sign_score,
    "stage2_zero_shot": partial(compare, title="Zero-shot detection"),
    "stage2_difficulty": partial(auc, title="Video AUC by difficulty"),
    "zero_shot_snippet": partial(compare, title="Zero-shot, snippet embeddings"),
    "zero_shot_temporal": partial(compare, title="Zero-shot, temporal output"),
    "open_vocabulary": partial(auc, title="Open vocabulary, with normal test videos"),
    "retention": partial(compare, title="Retention", caption=IMAGES, axis="accuracy (%)"),
    "vadclip_backbones": partial(compare, title="VadCLIP by backbone"),
    "anomalyclip_backbones": partial(compare, title="AnomalyCLIP by backbone"),
    "anomalyclip_classes": partial(auc, title="Recognition by class, AnomalyCLIP"),
    "head_backbones": partial(compare, title="Heads without text, on VadCLIP's features"),
    "vadclip_curves": partial(over_time, title="VadCLIP scores over time"),
    "vadclip_tsne": partial(umap, title="Snippet features, a point per snippet", method="t-SNE"),
    "data_framework": partial(compare, title="Data versus framework, VadCLIP"),
    "ablation_live": partial(changes, title="Live: losses of Stage II"),
    "ablation_alertclip": partial(changes, title="Alert-CLIP, mini world, synthetic"),
    "ablation_vadclip": partial(changes, title="VadCLIP, mini world, synthetic"),
    "ablation_anomalyclip": partial(changes, title="AnomalyCLIP, mini world, synthetic"),
    "failure_relevance": relevance,
    "failure_rollout": partial(in_box, title="Attention rollout inside the actor's box"),
    "failure_pointing": pointing,
    "failure_margin": margin,
    "failure_auc": order,
    "failure_relevance_reference": relevance,
    "failure_auc_reference": order,
    "flops": operations,
    "latency": partial(comparisons.against_floor, title="Latency of one clip"),
    "training_time": partial(comparisons.against_floor, title=SCHEDULE),
    "qa_accuracy": partial(answers, title="Answers by similarity"),
    "qa_accuracy_classifier": partial(answers, title="Answers with the temporal classifier"),
    "qa_intervals": partial(met, title="The classifier's interval against the event"),
    "qa_interval_curves": partial(over_time, title=SEEN, axis="P(abnormal)"),
    "qa_arms": partial(answers, title="The language model by arm"),
    "qa_accuracy_by_share": curves.accuracy_by_share,
    "ledger_status": partial(counts, title="Numbers of the papers by status", unit="numbers"),
}

DATA = {name: PLANTED for name in CATALOGUE | {"screening_removed": 0} if "screening" in name}
DATA |= {name: REFERENCE for name in CATALOGUE if name.endswith("_reference")}
DATA |= {name: REFERENCE for name in ("learning_curves", "mss_against_auc")}
DATA |= {f"ablation_{name}": REFERENCE for name in ("alertclip", "vadclip", "anomalyclip")}
"""The data of figures that do not show the run's own, whatever the profile."""


def publish(
    name: str,
    table: pd.DataFrame,
    folder: Path,
    source: dict[str, object],
    figure: style.Figure | None = None,
) -> style.Figure:
    """Write ``folder/name.csv`` and its PNG, stamped with ``source``; returns the figure.

    It is drawn as the catalogue says, or is ``figure`` where it shows frames. ``source`` (profile,
    data, seed ...) is kept beside the tables, so that ``redraw`` stamps the same line.
    """
    style.write_table(table, folder / f"{name}.csv")
    write_json(folder / "provenance.json", source)
    return redraw(name, folder, figure)


def redraw(name: str, folder: Path, figure: style.Figure | None = None) -> style.Figure:
    """Draw ``folder/name.csv``, or finish ``figure``; PNG beside the CSV, with its run's stamp.

    The paper's numbers are of real data: figures of synthetic data leave them to the table.
    InputError for an unknown name (with the nearest) and without a CSV that has rows and the
    figure's columns.
    """
    known = folder / "provenance.json"
    source = read_json(known) if known.is_file() else {}
    if figure is None:
        figure = _drawn(name, folder / f"{name}.csv", str(source.get("data", SYNTHETIC)))
    if name in DATA:
        source = (source if "screening" in name else {}) | {"data": DATA[name]}
    style.stamp(figure, ", ".join(f"{key}: {value}" for key, value in source.items()))
    style.write_png(figure, folder / f"{name}.png")
    return figure


def _drawn(name: str, path: Path, data: str) -> style.Figure:
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1, cutoff=0)[0]
        what = "no figure that a CSV holds (its notebook draws one of frames)"
        raise InputError(f"{name}: {what}; did you mean {near}?")
    if not path.is_file():
        raise InputError(f"{path}: no such table; run the notebook that writes it")
    table = pd.read_csv(path)
    if name not in COUNTED and SYNTHETIC in data:
        table = table.drop(columns="paper", errors="ignore")
    if table.empty:
        raise InputError(f"{path}: the table has no rows")
    try:
        return CATALOGUE[name](table)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not the table of this figure ({error})") from error
