"""Figures that explain the method: twin clips, a batch's similarities, a region on the grid."""

import numpy as np
import pandas as pd
import seaborn as sns

from companion.figures import style
from companion.figures.images import CORNERS, show_frame


@style.styled
def twin_frames(frames: np.ndarray, table: pd.DataFrame, title: str = "Twin clips") -> style.Figure:
    """Clips as rows of frames with their boxes, the global caption above each row.

    frames (N, T, H, W, 3) uint8. Columns: clip, frame, caption, label (1 abnormal), x1, y1, x2, y2
    (normalised; nan where a frame has no box); one row per clip, frame and region.
    """
    rows, columns, height, width = frames.shape[:4]
    figure = style.new_figure(1.5 * columns, rows * (1.5 * height / width + 0.35) + 0.7)
    panels = figure.subplots(rows, columns, squeeze=False)
    for (clip, number), part in table.groupby(["clip", "frame"]):
        colour = style.ABNORMAL if part["label"].iloc[0] else style.NORMAL
        boxes, axes = part[CORNERS].dropna().to_numpy(float), panels[clip][number]
        show_frame(axes, frames[clip, number], "", None, boxes, [(colour, "-")] * len(boxes))
        if number == 0:
            line = axes.text(0, 1.04, part["caption"].iloc[0], transform=axes.transAxes, size=10)
            line.set_in_layout(False)  # a long caption may run over the next frames
    note = "Blue: normal region (the whole frame). Orange: abnormal region."
    return style.headline(figure, title, note)


@style.styled
def batch_similarity(
    table: pd.DataFrame, title: str = "Clips and captions of a batch"
) -> style.Figure:
    """Heat map of clips against captions, one panel per model.

    Columns: model, clip (number), caption (number), text (the clip's own caption), cosine.
    """
    models, size = style.in_order(table["model"]), table["clip"].nunique()
    figure = style.new_figure(3.6 + 0.52 * size * len(models), 1.6 + 0.52 * size)
    texts = table.drop_duplicates("clip").set_index("clip")["text"]
    names = [style.wrap(f"{number}  {text}", 44) for number, text in texts.items()]
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    look = {"annot": True, "fmt": ".2f", "annot_kws": {"size": 9}, "cbar": False}
    look |= {"vmin": table["cosine"].min(), "vmax": table["cosine"].max()}
    for model, axes in zip(models, panels, strict=True):
        part = table[table["model"] == model]
        cosine = part.pivot(index="clip", columns="caption", values="cosine")
        sns.heatmap(cosine, cmap="cividis", square=True, ax=axes, **look)
        axes.set(xlabel="caption", ylabel="", title=model)
        axes.set_yticklabels(names if axes is panels[0] else texts.index, rotation=0)
    note = "Cosine of clip (row) and caption (column); its own on the diagonal."
    return style.headline(figure, title, note)


@style.styled
def region_on_grid(frame: np.ndarray, table: pd.DataFrame, title: str = "") -> style.Figure:
    """A frame under the patch grid with a box, and beside it how much each cell counts in the ROI.

    frame (H, W, 3) uint8. Columns: row, column (of the grid), weight, x1, y1, x2, y2 (normalised).
    """
    weight = 100 * table.pivot(index="row", columns="column", values="weight")
    (height, width), (rows, columns) = frame.shape[:2], weight.shape
    figure = style.new_figure(8.4, 4.6)
    left, right = figure.subplots(1, 2)
    name = f"the frame, its {rows} x {columns} patches, the box"
    show_frame(left, frame, name, None, table[CORNERS].iloc[0], [(style.ABNORMAL, "-")])
    left.hlines(np.arange(1, rows) * height / rows, 0, width, color="white", linewidth=0.8)
    left.vlines(np.arange(1, columns) * width / columns, 0, height, color="white", linewidth=0.8)
    look = {"annot": True, "fmt": ".0f", "annot_kws": {"size": 8}} if rows < 13 else {}
    look |= {"cbar": rows >= 13, "xticklabels": False, "yticklabels": False}
    sns.heatmap(weight, cmap="cividis", square=True, ax=right, **look)
    right.set(xlabel="", ylabel="")
    right.set_title("weight of each patch in the region feature (%)", fontsize=9, weight="normal")
    return style.headline(figure, title)
