"""Figures that explain the method: twin clips, a batch's similarities, a region on the grid."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from companion.figures import style
from companion.figures.images import show_frame


@style.styled
def twin_frames(frames: np.ndarray, table: pd.DataFrame, title: str = "Twin clips") -> style.Figure:
    """Clips as rows of frames with their boxes, the global caption above each row.

    frames (N, T, H, W, 3) uint8. Columns: clip, frame, caption, label (1 abnormal), x1, y1, x2, y2
    (normalised; nan where a frame has no box); one row per clip, frame and region.
    """
    style.require(
        table, ["clip", "frame", "caption", "label", "x1", "y1", "x2", "y2"], "twin frames"
    )
    rows, columns, height, width = frames.shape[:4]
    figure = style.new_figure(1.5 * columns, rows * (1.5 * height / width + 0.35) + 0.7)
    panels = figure.subplots(rows, columns, squeeze=False)
    for row in table.itertuples():
        axes = panels[row.clip][row.frame]
        show_frame(axes, frames[row.clip, row.frame])
        if not np.isnan(row.x1):
            _box(axes, (height, width), row, style.ABNORMAL if row.label else style.NORMAL)
        if row.frame == 0:
            line = axes.text(0, 1.04, row.caption, transform=axes.transAxes, fontsize=10)
            line.set_in_layout(False)  # a long caption may run over the next frames
    style.headline(figure, title, "Blue: normal region (the whole frame). Orange: abnormal region.")
    return figure


@style.styled
def batch_similarity(
    table: pd.DataFrame, title: str = "Clips and captions of a batch"
) -> style.Figure:
    """Heat map of clips against captions, one panel per model.

    Columns: model, clip (number), caption (number), text (the clip's own caption), cosine.
    """
    style.require(table, ["model", "clip", "caption", "text", "cosine"], "batch similarity")
    models, size = style.in_order(table["model"]), table["clip"].nunique()
    figure = style.new_figure(3.6 + 0.52 * size * len(models), 1.6 + 0.52 * size)
    texts = table.drop_duplicates("clip").set_index("clip")["text"]
    names = [style.wrap(f"{number}  {text}", 44) for number, text in texts.items()]
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    for model, axes in zip(models, panels, strict=True):
        part = table[table["model"] == model]
        sns.heatmap(
            part.pivot(index="clip", columns="caption", values="cosine"), ax=axes, annot=True,
            fmt=".2f", annot_kws={"size": 9}, cmap="cividis", square=True, cbar=False,
            vmin=table["cosine"].min(), vmax=table["cosine"].max(),
        )  # fmt: skip
        axes.set(xlabel="caption", ylabel="", title=model)
        axes.set_yticklabels(names if axes is panels[0] else texts.index, rotation=0)
    style.headline(
        figure, title, "Cosine of clip (row) and caption (column); its own on the diagonal."
    )
    return figure


@style.styled
def region_on_grid(frame: np.ndarray, table: pd.DataFrame, title: str = "") -> style.Figure:
    """A frame under the patch grid with a box, and beside it how much each cell counts in the ROI.

    frame (H, W, 3) uint8. Columns: row, column (of the grid), weight, x1, y1, x2, y2 (normalised).
    """
    style.require(table, ["row", "column", "weight", "x1", "y1", "x2", "y2"], "region on the grid")
    weight = table.pivot(index="row", columns="column", values="weight")
    (height, width), (rows, columns) = frame.shape[:2], weight.shape
    figure = style.new_figure(8.4, 4.6)
    left, right = figure.subplots(1, 2)
    show_frame(left, frame, f"the frame, its {rows} x {columns} patches, the box")
    left.hlines(np.arange(1, rows) * height / rows, 0, width, color="white", linewidth=0.8)
    left.vlines(np.arange(1, columns) * width / columns, 0, height, color="white", linewidth=0.8)
    _box(left, (height, width), table.iloc[0], style.ABNORMAL)
    marks = {"annot": True, "fmt": ".0f", "annot_kws": {"size": 8}} if rows < 13 else {}
    sns.heatmap(
        100 * weight, ax=right, cmap="cividis", square=True, cbar=not marks, xticklabels=False,
        yticklabels=False, **marks,
    )  # fmt: skip
    right.set(xlabel="", ylabel="")
    right.set_title("weight of each patch in the region feature (%)", fontsize=9, weight="normal")
    style.headline(figure, title)
    return figure


def _box(axes: Axes, size: tuple[int, int], row: pd.Series, colour: str) -> None:
    x, y = row.x1 * size[1], row.y1 * size[0]
    extent = (row.x2 - row.x1) * size[1], (row.y2 - row.y1) * size[0]
    axes.add_patch(Rectangle((x, y), *extent, fill=False, linewidth=2, edgecolor=colour))
