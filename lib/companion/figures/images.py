"""Figures made of frames: boxes, attention maps, patches, twin clips, removed clips."""

from collections.abc import Sequence
from textwrap import fill, shorten
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from companion.figures import style
from companion.figures.style import ABNORMAL, NORMAL, Figure
from media.errors import InputError

BOX = "#00E5FF"  # visible on dark and on bright maps
CORNERS = ["x1", "y1", "x2", "y2"]
DIMMED = 0.25  # brightness of a patch that is not kept
LINE = 0.17  # height of a line of text in inches
Cell = dict[str, Any]
"""Arguments of ``show_frame`` after the axes: frame; optional title, attention, boxes ..."""


def show_frame(
    axes: Axes,
    frame: np.ndarray,
    title: str = "",
    attention: np.ndarray | None = None,
    boxes: np.ndarray | Sequence = (),
    edges: Sequence[tuple[str, str]] = (),
    below: str = "",
) -> None:
    """Draw one frame (H, W, 3) uint8 with an attention map (h, w) over it and text below.

    ``boxes`` (R, 4) are normalised x1 y1 x2 y2; ``edges`` gives the colour and line style of each.
    """
    height, width = frame.shape[:2]
    axes.imshow(frame, extent=(0, width, height, 0))
    if attention is not None:
        heat = attention / max(float(attention.max()), 1e-12)
        look = {"cmap": "inferno", "alpha": 0.5, "interpolation": "bilinear", "vmin": 0, "vmax": 1}
        axes.imshow(heat, extent=(0, width, height, 0), **look)
    for i, (x1, y1, x2, y2) in enumerate(np.reshape(boxes, (-1, 4)) * ([width, height] * 2)):
        colour, dashes = edges[i] if edges else (BOX, "-")
        look = {"fill": False, "linewidth": 1.6, "edgecolor": colour, "linestyle": dashes}
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **look))
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, weight="normal")
    axes.set_xlabel(below, fontsize=9)


@style.styled
def frame_grid(
    cells: Sequence[Sequence[Cell]],
    title: str = "",
    caption: str = "",
    rows: Sequence[str] = (),
    side: float | None = None,
) -> Figure:
    """Frames in rows and columns, each ``side`` inches wide (None: as wide as fits).

    A cell holds arguments of ``show_frame``; an empty one leaves a gap. ``rows`` labels the rows.
    """
    if not (len(cells) and cells[0]):
        raise InputError("frame grid: no frames to show")
    height, width = cells[0][0]["frame"].shape[:2]
    text = [[cell.get(key, "") for cell in row] for key in ("title", "below") for row in cells]
    lines = sum(max(bool(t) + t.count("\n") for t in row) for row in text)
    columns = max(map(len, cells))
    side = side or min(2.0, 10.6 / columns)
    grid_height = len(cells) * (side * height / width + 0.1) + LINE * lines
    size = 0.4 * bool(rows) + side * columns, 0.9 + grid_height
    figure, panels = style.panels(*size, len(cells), columns, squeeze=False)
    for (row, column), axes in np.ndenumerate(panels):
        if column < len(cells[row]) and cells[row][column]:
            show_frame(axes, **cells[row][column])
        else:
            axes.set_axis_off()
    for axes, name in zip(panels[:, 0], rows, strict=False):
        axes.set_ylabel(name, fontsize=9)
    return style.headline(figure, title, caption)


def removed_gallery(frames: Sequence[np.ndarray], table: pd.DataFrame) -> Figure:
    """One frame per removed clip, titled with its class, score and reason.

    Columns, one row per frame: class_name, score, reason, kind (what was planted).
    """
    cells = []
    for frame, row in zip(frames, table.itertuples(), strict=True):
        # Only the first criterion and its measurement, without the name of the other clip.
        reason = shorten(row.reason.split(";")[0].split(" as ")[0], 70, placeholder=" ...")
        text = f"{row.kind}: filed as {row.class_name.replace('_', ' ')}, score {row.score}. "
        cells.append({"frame": frame, "title": fill(text + reason, 34)})
    rows = [cells[i : i + 4] for i in range(0, len(cells), 4)]
    return frame_grid(rows, "Removed clips", "The middle frame of each clip.", side=2.7)


def boxes_on_frames(frames: Sequence[np.ndarray], table: pd.DataFrame) -> Figure:
    """Boxes drawn on frames, with the region captions below.

    Columns: frame (index into ``frames``), title, x1, y1, x2, y2 (normalised), caption, label
    (1 abnormal). A frame without a box has no row.
    """
    cells = []
    for i, frame in enumerate(frames):
        rows = table[table["frame"] == i]
        edges = [(ABNORMAL, "--") if label else (NORMAL, "-") for label in rows["label"]]
        cell = {"frame": frame, "boxes": rows[CORNERS].to_numpy(), "edges": edges}
        cell["title"] = fill(rows["title"].iloc[0], 34) if len(rows) else ""
        cell["below"] = "\n".join(fill(caption, 34) for caption in rows["caption"])
        cells.append(cell)
    note = "Blue: normal region. Orange, dashed: abnormal region."
    grid = [cells[i : i + 3] for i in range(0, len(cells), 3)]
    return frame_grid(grid, "Annotated regions", note, side=2.7)


def kept_patches(
    frames: Sequence[np.ndarray], kept: np.ndarray, table: pd.DataFrame, title: str = ""
) -> Figure:
    """Frames in order and, below them, the same frames with the dropped patches darkened.

    frames (H, W, 3) uint8; kept (T, h, w) bool. Columns, a row per frame: time_s, share (per cent).
    """
    above, below = [], []
    for frame, mask, row in zip(frames, kept, table.itertuples(), strict=True):
        patch_index = (np.arange(n) * m // n for n, m in zip(frame.shape, mask.shape, strict=False))
        brightness = np.where(mask[np.ix_(*patch_index)], 1.0, DIMMED)
        dimmed = (frame * brightness[..., None]).astype(np.uint8)
        above.append({"frame": frame, "title": f"{row.time_s:.2f} s"})
        below.append({"frame": dimmed, "title": f"{row.share:.0f} % kept"})
    first = " The first frame has none before it and is kept whole." if kept[0].all() else ""
    caption = f"Dark: patches left out.{first} n = {len(frames)} frames of one video."
    return frame_grid([above, below], title, caption, side=1.8)


@style.styled
def twin_frames(frames: np.ndarray, table: pd.DataFrame) -> Figure:
    """Clips as rows of frames with their boxes, the global caption above each row.

    frames (N, T, H, W, 3) uint8. Columns: clip, frame, caption, label (1 abnormal), x1, y1, x2, y2
    (normalised; nan where a frame has no box); one row per clip, frame and region.
    """
    rows, columns, height, width = frames.shape[:4]
    size = 1.5 * columns, rows * (1.5 * height / width + 0.35) + 0.7
    figure, panels = style.panels(*size, rows, columns, squeeze=False)
    for (clip, frame), regions in table.groupby(["clip", "frame"]):
        colour = ABNORMAL if regions["label"].iloc[0] else NORMAL
        boxes, axes = regions[CORNERS].dropna().to_numpy(float), panels[clip][frame]
        show_frame(axes, frames[clip, frame], "", None, boxes, [(colour, "-")] * len(boxes))
        if frame == 0:
            line = axes.text(0, 1.04, regions["caption"].iloc[0], transform=axes.transAxes, size=10)
            line.set_in_layout(False)  # a long caption may run over the next frames
    note = "Blue: normal region (the whole frame). Orange: abnormal region."
    return style.headline(figure, "Twin clips", note)


@style.styled
def region_on_grid(frame: np.ndarray, table: pd.DataFrame, title: str = "") -> Figure:
    """A frame with its patch grid and a box, beside the weight of each patch in the region feature.

    frame (H, W, 3) uint8. Columns: row, column (of the grid), weight, x1, y1, x2, y2 (normalised).
    """
    weight = 100 * table.pivot(index="row", columns="column", values="weight")
    (height, width), (rows, columns) = frame.shape[:2], weight.shape
    figure, (left, right) = style.panels(8.4, 4.6, 1, 2)
    name = f"the frame, its {rows} x {columns} patches, the box"
    show_frame(left, frame, name, None, table[CORNERS].iloc[0], [(ABNORMAL, "-")])
    left.hlines(np.arange(1, rows) * height / rows, 0, width, color="white", linewidth=0.8)
    left.vlines(np.arange(1, columns) * width / columns, 0, height, color="white", linewidth=0.8)
    look = {"annot": True, "fmt": ".0f", "annot_kws": {"size": 8}} if rows < 13 else {}
    look |= {"cbar": rows >= 13, "xticklabels": False, "yticklabels": False}
    sns.heatmap(weight, cmap="cividis", square=True, ax=right, **look)
    right.set(xlabel="", ylabel="")
    right.set_title("weight of each patch in the region feature (%)", fontsize=9, weight="normal")
    return style.headline(figure, title)
