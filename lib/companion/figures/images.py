"""Figures made of frames: boxes drawn on them, and plain grids."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from alertclip.errors import InputError
from companion.figures.style import (
    ABNORMAL,
    NORMAL,
    Figure,
    headline,
    new_figure,
    require,
    styled,
    wrap,
)


def show_frame(
    axes: Axes, frame: np.ndarray, title: str = "", attention: np.ndarray | None = None
) -> None:
    """Draw one frame (H, W, 3) uint8, with an attention map (h, w) over it if given."""
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(f"a frame must be (H, W, 3) uint8, not {frame.shape}")
    height, width = frame.shape[:2]
    axes.imshow(frame, extent=(0, width, height, 0))
    if attention is not None:
        shown = attention / max(float(attention.max()), 1e-12)
        axes.imshow(
            shown,
            extent=(0, width, height, 0),
            cmap="inferno",
            alpha=0.5,
            interpolation="bilinear",
            vmin=0,
            vmax=1,
        )
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, weight="normal")


@styled
def frames_grid(
    frames: Sequence[np.ndarray],
    table: pd.DataFrame,
    columns: int = 4,
    title: str = "",
    caption: str = "",
    attention: Sequence[np.ndarray] | None = None,
) -> Figure:
    """Frames in rows of ``columns``. Column: title, one row per frame; attention maps optional."""
    require(table, ["title"], "frames grid")
    figure, panels = _grid(frames, table, columns, "frames grid")
    for i, (axes, frame) in enumerate(zip(panels, frames, strict=True)):
        text = wrap(table["title"].iloc[i], 30)
        show_frame(axes, frame, text, None if attention is None else attention[i])
    headline(figure, title, caption)
    return figure


@styled
def boxes_on_frames(
    frames: Sequence[np.ndarray],
    table: pd.DataFrame,
    columns: int = 3,
    title: str = "Annotated regions",
    caption: str = "",
) -> Figure:
    """Boxes on frames, region captions below them.

    Columns: frame (index into ``frames``), title, x1, y1, x2, y2 (normalised), caption, label
    (1 abnormal). A frame without a box has no row.
    """
    names = ["frame", "title", "x1", "y1", "x2", "y2", "caption", "label"]
    require(table, names, "boxes on frames")
    firsts = table.drop_duplicates("frame").set_index("frame")["title"]
    titles = pd.DataFrame({"title": [firsts.get(i, "") for i in range(len(frames))]})
    lines = table["caption"].map(lambda text: 1 + wrap(text, 34).count("\n"))
    most = 1 + lines.groupby(table["frame"]).sum().max()
    figure, panels = _grid(frames, titles, columns, "boxes on frames", most)
    for i, (axes, frame) in enumerate(zip(panels, frames, strict=True)):
        show_frame(axes, frame, wrap(titles["title"].iloc[i], 34))
        _boxes(axes, frame.shape[:2], table[table["frame"] == i])
    headline(figure, title, caption or "Blue: normal region. Orange, dashed: abnormal region.")
    return figure


def _boxes(axes: Axes, size: tuple[int, int], rows: pd.DataFrame) -> None:
    height, width = size
    for row in rows.itertuples():
        corner, extent = (row.x1 * width, row.y1 * height), (row.x2 - row.x1, row.y2 - row.y1)
        axes.add_patch(
            Rectangle(
                corner,
                extent[0] * width,
                extent[1] * height,
                fill=False,
                linewidth=2,
                edgecolor=ABNORMAL if row.label else NORMAL,
                linestyle="--" if row.label else "-",
            )
        )
    captions = [wrap(caption, 34) for caption in rows["caption"]]
    axes.set_xlabel("\n".join(captions), fontsize=9)


def _grid(
    frames: Sequence[np.ndarray], table: pd.DataFrame, columns: int, name: str, lines: int = 2
) -> tuple[Figure, list[Axes]]:
    if len(frames) != len(table) or not len(frames):
        raise InputError(f"{name}: {len(frames)} frames for {len(table)} titles; give one each")
    columns = min(columns, len(frames))
    rows = math.ceil(len(frames) / columns)
    shape = frames[0].shape
    height = 2.7 * shape[0] / shape[1] + 0.1 + 0.16 * lines  # the image and its lines of text
    figure = new_figure(2.7 * columns, 0.8 + rows * height)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in panels[len(frames) :]:
        empty.set_visible(False)
    return figure, panels[: len(frames)]
