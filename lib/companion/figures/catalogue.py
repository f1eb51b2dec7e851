"""Every figure by name: the function that draws it and its fixed texts, each stated once.

A notebook writes the CSV and draws from it by the same function, so a figure drawn in a run and one
redrawn later are the same to the byte.
"""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from alertclip.errors import InputError
from alertclip.files import atomic_write, read_json
from companion.figures import audit_figures, curation_figures, method, qa_figures
from companion.figures.curves import loss_curves, score_curves
from companion.figures.efficiency_figures import operations_per_module
from companion.figures.failure_figures import CURVES
from companion.figures.result_figures import (
    auc_comparison,
    dataset_overview,
    mss_per_class,
    paired_changes,
)
from companion.figures.spaces import projection_panels, prompt_similarity_matrix, similarity_gap
from companion.figures.style import Figure, stamp

Draw = Callable[[pd.DataFrame], Figure]
FRAMES = {
    "boxes_on_frames": "01_data_filtering",
    "screening_removed": "01_data_filtering",
    "twin_frames": "03_stage1_global",
    "region_on_grid": "04_stage2_joint",
    "failure_maps": "08_attention_failures",
    "failure_levels": "08_attention_failures",
    "failure_missed": "08_attention_failures",
    "failure_false_alarms": "08_attention_failures",
    "failure_real": "08_attention_failures",
    "qa_kept_patches": "10_anomaly_qa",
    "quickstart": "00_quickstart",
    "latency": "09_efficiency",
    "training_time": "09_efficiency",
}
"""Figures that show frames, which no CSV holds, or texts of their run, by the notebook that draws
them."""

ZERO_SHOT = partial(auc_comparison, title="Zero-shot detection", chance=None)
IMAGES = "Line: 95% bootstrap interval over images."
CATALOGUE: dict[str, Draw] = {
    "items_per_class": dataset_overview,
    "screening_scores": curation_figures.score_distribution,
    "screening_recovery": curation_figures.screening_recovery,
    "prompt_similarity": prompt_similarity_matrix,
    "similarity_gap": similarity_gap,
    "mss_clip": mss_per_class,
    "wordings_clip": partial(auc_comparison, title="Video AUC of untuned CLIP by wording"),
    "umap_clip": partial(projection_panels, title="Clips and prompts before tuning"),
    "stage1_losses": partial(loss_curves, title="Stage I losses"),
    "stage1_batch": method.batch_similarity,
    "stage1_mss": mss_per_class,
    "stage1_zero_shot": ZERO_SHOT,
    "stage1_umap": partial(projection_panels, title="Clips and prompts"),
    "stage2_losses": partial(loss_curves, title="Stage II losses"),
    "stage2_mss": mss_per_class,
    "stage2_zero_shot": ZERO_SHOT,
    "stage2_difficulty": partial(auc_comparison, title="Video AUC by difficulty"),
    "stage2_umap": partial(projection_panels, title="Clips and prompts"),
    "zero_shot_snippet": partial(
        auc_comparison, title="Zero-shot, snippet embeddings", chance=None
    ),
    "zero_shot_temporal": partial(auc_comparison, title="Zero-shot, temporal output", chance=None),
    "open_vocabulary": partial(auc_comparison, title="Open vocabulary, with normal test videos"),
    "retention": partial(
        auc_comparison, title="Retention", caption=IMAGES, chance=None, unit="accuracy"
    ),
    "vadclip_backbones": partial(auc_comparison, title="VadCLIP by backbone", chance=None),
    "anomalyclip_backbones": partial(auc_comparison, title="AnomalyCLIP by backbone", chance=None),
    "anomalyclip_classes": partial(auc_comparison, title="Recognition by class, AnomalyCLIP"),
    "vadclip_curves": partial(score_curves, title="VadCLIP scores over time"),
    "vadclip_tsne": partial(
        projection_panels,
        title="Snippet features",
        caption="One point per snippet.",
        method="t-SNE",
    ),
    "data_framework": partial(auc_comparison, title="Data versus framework, VadCLIP", chance=None),
    "ablation_live": partial(paired_changes, title="Live: losses of Stage II", unit="points"),
    **{
        f"ablation_{name.lower().replace('-', '')}": partial(
            paired_changes, title=f"{name}, mini world, synthetic", unit="points"
        )
        for name in ("Alert-CLIP", "VadCLIP", "AnomalyCLIP")
    },
    **CURVES,
    "flops": partial(operations_per_module, title="One clip of 256 frames, one text"),
    "qa_accuracy": qa_figures.answer_accuracy,
    "qa_accuracy_classifier": partial(
        qa_figures.answer_accuracy, title="Answers with the temporal classifier"
    ),
    "qa_intervals": qa_figures.interval_overlap,
    "qa_interval_curves": qa_figures.interval_curves,
    "qa_accuracy_by_share": qa_figures.accuracy_by_share,
    "negatives_violations": audit_figures.violations_by_kind,
    "ledger_status": partial(dataset_overview, title="Numbers of the papers by status"),
}


def redraw(name: str, folder: Path, out: Path | None = None) -> Figure:
    """Draw ``folder/name.csv`` with the stamp of its run; PNG into ``out``, else beside the CSV.

    InputError for an unknown name (with the nearest), for a figure of frames and without a CSV.
    """
    draw, path = _drawer(name), folder / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such table; run the notebook that writes it")
    figure = draw(pd.read_csv(path))
    source = folder / "provenance.json"
    if source.is_file():
        stamp(figure, ", ".join(f"{key}: {value}" for key, value in read_json(source).items()))
    with atomic_write((out or folder) / f"{name}.png") as temporary:
        temporary.write_bytes(figure._repr_png_())
    return figure


def _drawer(name: str) -> Draw:
    if name in FRAMES:
        raise InputError(
            f"{name} shows frames or texts of its run: run notebook {FRAMES[name]} for it"
        )
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1, cutoff=0)[0]
        raise InputError(f"{name}: no such figure; did you mean {near}?")
    return CATALOGUE[name]
