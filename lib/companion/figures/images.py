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

BOX = "#00E5FF"  # seen on dark and on bright maps
CORNERS = ["x1", "y1", "x2", "y2"]
DIMMED = 0.25  # brightness of a patch that is not kept
LINE = 0.17  # inches of a line of text
Cell = dict[str, Any]
"""What ``show_frame`` takes after the axes: frame and, optionally, title, attention, boxes ..."""


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
        shown = attention / max(float(attention.max()), 1e-12)
        look = {"cmap": "inferno", "alpha": 0.5, "interpolation": "bilinear", "vmin": 0, "vmax": 1}
        axes.imshow(shown, extent=(0, width, height, 0), **look)
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
    """Frames in rows and columns, each ``side`` inches wide (without it, as wide as fits).

    A cell is what ``show_frame`` takes; an empty one leaves its place empty. ``rows`` names rows.
    """
    if not (len(cells) and cells[0]):
        raise InputError("frame grid: there are no frames")
    height, width = cells[0][0]["frame"].shape[:2]
    text = [[cell.get(part, "") for cell in row] for part in ("title", "below") for row in cells]
    lines = sum(max(bool(t) + t.count("\n") for t in row) for row in text)
    columns = max(map(len, cells))
    side = side or min(2.0, 10.6 / columns)
    tall = len(cells) * (side * height / width + 0.1) + LINE * lines
    size = 0.4 * bool(rows) + side * columns, 0.9 + tall
    figure, panels = style.panels(*size, len(cells), columns, squeeze=False)
    for place, axes in np.ndenumerate(panels):
        cell = dict(enumerate(cells[place[0]])).get(place[1])
        if cell:
            show_frame(axes, **cell)
        else:
            axes.set_axis_off()
    for axes, name in zip(panels[:, 0], rows, strict=False):
        axes.set_ylabel(name, fontsize=9)
    return style.headline(figure, title, caption)


def removed_gallery(frames: Sequence[np.ndarray], table: pd.DataFrame) -> Figure:
    """One frame per removed clip under its class, score and reason.

    Columns, one row per frame: class_name, score, reason, kind (what was planted).
    """
    cells = []
    for frame, row in zip(frames, table.itertuples(), strict=True):
        # The first criterion and what was measured, without the name of another clip.
        reason = shorten(row.reason.split(";")[0].split(" as ")[0], 70, placeholder=" ...")
        text = f"{row.kind}: filed as {row.class_name.replace('_', ' ')}, score {row.score}. "
        cells.append({"frame": frame, "title": fill(text + reason, 34)})
    rows = [cells[i : i + 4] for i in range(0, len(cells), 4)]
    return frame_grid(rows, "Removed clips", "The middle frame of each clip.", side=2.7)


def boxes_on_frames(frames: Sequence[np.ndarray], table: pd.DataFrame) -> Figure:
    """Boxes on frames, region captions below them.

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
    """Frames in order, and below them the same frames with patches that are not kept darkened.

    frames (H, W, 3) uint8; kept (T, h, w) bool. Columns, a row per frame: time_s, share (per cent).
    """
    above, below = [], []
    for frame, mask, row in zip(frames, kept, table.itertuples(), strict=True):
        places = (np.arange(n) * m // n for n, m in zip(frame.shape, mask.shape, strict=False))
        light = np.where(mask[np.ix_(*places)], 1.0, DIMMED)
        dimmed = (frame * light[..., None]).astype(np.uint8)
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
    for (clip, number), part in table.groupby(["clip", "frame"]):
        colour = ABNORMAL if part["label"].iloc[0] else NORMAL
        boxes, axes = part[CORNERS].dropna().to_numpy(float), panels[clip][number]
        show_frame(axes, frames[clip, number], "", None, boxes, [(colour, "-")] * len(boxes))
        if number == 0:
            line = axes.text(0, 1.04, part["caption"].iloc[0], transform=axes.transAxes, size=10)
            line.set_in_layout(False)  # a long caption may run over the next frames
    note = "Blue: normal region (the whole frame). Orange: abnormal region."
    return style.headline(figure, "Twin clips", note)


@style.styled
def region_on_grid(frame: np.ndarray, table: pd.DataFrame, title: str = "") -> Figure:
    """A frame under the patch grid with a box, and beside it how much each cell counts in the ROI.

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
