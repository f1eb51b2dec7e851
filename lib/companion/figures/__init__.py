"""One function per figure: a tidy table in, a matplotlib Figure out; ``save`` writes PNG and CSV.

Figures carry ``_repr_png_``, so a notebook shows one by naming it last in a cell.
"""

from companion.figures.curves import anomaly_curve, loss_curves, score_curves
from companion.figures.images import boxes_on_frames, frames_grid
from companion.figures.result_figures import (
    auc_comparison,
    dataset_overview,
    mss_per_class,
    paired_changes,
)
from companion.figures.spaces import projection_panels, prompt_similarity_matrix, similarity_gap
from companion.figures.style import Figure, save, stamp, write_table

__all__ = [
    "Figure",
    "anomaly_curve",
    "auc_comparison",
    "boxes_on_frames",
    "dataset_overview",
    "frames_grid",
    "loss_curves",
    "mss_per_class",
    "paired_changes",
    "prompt_similarity_matrix",
    "save",
    "score_curves",
    "similarity_gap",
    "stamp",
    "projection_panels",
    "write_table",
]
