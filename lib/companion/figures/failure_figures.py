"""Figures of failures: a measure along degradations, and maps over frames in rows and columns."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from alertclip.errors import InputError
from companion.figures.images import show_frame
from companion.figures.style import (
    INK,
    MARKERS,
    Figure,
    colours,
    headline,
    in_order,
    new_figure,
    require,
    styled,
    wrap,
)

PANELS = 4  # a row of degradation curves
BOX = "#00E5FF"  # seen on dark and on bright maps


@styled
def degradation_curves(
    table: pd.DataFrame,
    axis: str,
    title: str = "",
    caption: str = "",
    level: float | None = None,
) -> Figure:
    """One panel per kind: a measure with intervals from the clean clip (left) to the worst.

    Columns: title (of the kind), unit, step, level, model, value, low, high, n; optional of (a
    second group: dashed, without intervals) and chance (dotted). ``axis`` names the measure with
    its unit; ``level`` draws a horizontal line.
    """
    needed = ["title", "unit", "step", "level", "model", "value", "low", "high", "n"]
    require(table, needed, "degradation curves")
    kinds = in_order(table["title"])
    figure = new_figure(11, 0.9 + 2.6 * math.ceil((len(kinds) + 1) / PANELS))
    panels = figure.subplots(math.ceil((len(kinds) + 1) / PANELS), PANELS).ravel()
    for axes, kind in zip(panels, kinds, strict=False):
        rows = table[table["title"] == kind]
        _kind(axes, rows, level)
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel(rows["unit"].iloc[0])
    for axes in panels[: len(kinds) : PANELS]:
        axes.set_ylabel(axis)
    handles, labels = panels[0].get_legend_handles_labels()
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    panels[len(kinds)].legend(handles, labels, loc="center left", fontsize=9)
    counts = ", ".join(f"n = {n}" for n in sorted(set(table["n"])))
    note = f"{counts} clips. Bars: 95% bootstrap interval over videos. Left: as recorded."
    headline(figure, title, f"{caption} {note}".strip())
    return figure


def _kind(axes: Axes, rows: pd.DataFrame, level: float | None) -> None:
    models = in_order(rows["model"])
    palette = colours(models)
    groups = in_order(rows["of"]) if "of" in rows else [None]
    for i, model in enumerate(models):
        offset = 0.12 * (i - (len(models) - 1) / 2)
        for group in groups:
            part = rows[rows["model"] == model]
            part = (part if group is None else part[part["of"] == group]).sort_values("step")
            name = model if group is None else f"{model}, {group}"
            x = part["step"] + offset
            if group == groups[0]:
                axes.vlines(x, part["low"], part["high"], color=palette[model], linewidth=1.4)
                axes.plot(x, part["value"], f"-{MARKERS[i]}", color=palette[model], label=name)
            else:
                axes.plot(x, part["value"], "--", color=palette[model], linewidth=1, label=name)
    steps = rows.drop_duplicates("step").sort_values("step")
    if "chance" in rows:
        axes.plot(steps["step"], steps["chance"], ":", color=INK, label="chance")
    if level is not None:
        axes.axhline(level, color=INK, linewidth=1, linestyle=":", label="chance")
    names = ["as is" if math.isinf(value) else f"{value:g}" for value in steps["level"]]
    axes.set_xticks(steps["step"], names)


@styled
def map_grid(
    frames: Sequence[np.ndarray],
    maps: Mapping[str, Sequence[np.ndarray]],
    table: pd.DataFrame,
    boxes: Sequence[np.ndarray],
    title: str = "",
    caption: str = "",
    note: str = "score",
) -> Figure:
    """Frames on top, below them a row per name of ``maps`` with the map (h, w) over the frame.

    ``boxes`` holds (R, 4) normalised per frame. Columns: column, title, row (line breaks of the
    name as blanks), and ``note``, whose value stands over each map.
    """
    require(table, ["column", "title", "row", note], "map grid")
    if not all(len(row) == len(frames) for row in (boxes, *maps.values())):
        raise InputError(f"map grid: {len(frames)} frames need as many boxes and maps in each row")
    height, width = frames[0].shape[:2]
    side = min(2.0, 9.0 / len(frames))
    lines = 1 + max(text.count("\n") for text in table["title"])
    figure = new_figure(
        1.0 + side * len(frames),
        0.9 + 0.18 * lines + (side * height / width + 0.22) * (1 + len(maps)),
    )
    panels = figure.subplots(1 + len(maps), len(frames), squeeze=False)
    titles = table.drop_duplicates("column").set_index("column")["title"]
    for column, frame in enumerate(frames):
        show_frame(panels[0, column], frame, titles[column])
        _outline(panels[0, column], boxes[column], frame.shape[:2])
    for axes_row, (name, found) in zip(panels[1:], maps.items(), strict=True):
        values = table[table["row"] == name.replace("\n", " ")].set_index("column")[note]
        for column, (axes, frame) in enumerate(zip(axes_row, frames, strict=True)):
            show_frame(axes, frame, f"{note} {values[column]:.2g}", found[column])
            _outline(axes, boxes[column], frame.shape[:2])
        axes_row[0].set_ylabel(name, fontsize=9)
    panels[0, 0].set_ylabel("frame", fontsize=9)
    headline(figure, title, caption)
    return figure


@styled
def level_grid(
    frames: Sequence[np.ndarray],
    table: pd.DataFrame,
    boxes: Sequence[np.ndarray],
    title: str = "",
    caption: str = "",
) -> Figure:
    """One frame (H, W, 3) at every level: a column per kind, from the clean frame down.

    ``boxes`` holds (R, 4) normalised per frame. Columns, a line per frame: kind, title, unit, step,
    level.
    """
    require(table, ["kind", "title", "unit", "step", "level"], "level grid")
    if not len(frames) == len(boxes) == len(table):
        raise InputError(f"level grid: {len(table)} rows need as many frames and boxes")
    kinds, steps = in_order(table["kind"]), int(table["step"].max()) + 1
    height, width = frames[0].shape[:2]
    figure = new_figure(11, 1.3 + steps * (11 / len(kinds) * height / width + 0.2))
    panels = figure.subplots(steps, len(kinds), squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for row, frame, outline in zip(table.itertuples(), frames, boxes, strict=True):
        axes = panels[row.step, kinds.index(row.kind)]
        head = f"{row.title}\n{wrap(row.unit, 20)}" if row.step == 0 else f"{row.level:g}"
        show_frame(axes, frame, head)
        _outline(axes, outline, frame.shape[:2])
    headline(figure, title, caption)
    return figure


def _outline(axes: Axes, boxes: np.ndarray, size: tuple[int, int]) -> None:
    height, width = size
    for x1, y1, x2, y2 in boxes * [width, height, width, height]:
        axes.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=BOX, linewidth=1.5)
        )


MASS = "Share of the map in the actor's box / area of the box (dotted: even over the picture)"
OVER = "Mean over abnormal clips of the frames with a box;"
CURVES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "failure_relevance": partial(
        degradation_curves,
        axis="mass in the box / its area",
        title="Relevance for the anomaly score inside the actor's box",
        caption=f"{MASS}. {OVER}",
    ),
    "failure_rollout": partial(
        degradation_curves,
        axis="mass in the box / its area",
        title="Attention rollout inside the actor's box",
        caption=f"{MASS}. {OVER}",
    ),
    "failure_pointing": partial(
        degradation_curves,
        axis="hit rate (%)",
        title="Pointing game: the peak of relevance touches the actor's box",
        caption=f"Dotted: share of patches that the box touches. {OVER}",
    ),
    "failure_margin": partial(
        degradation_curves,
        axis="margin S_A - S_N (cosine)",
        title="Anomaly score of abnormal and of normal clips",
        caption="Dashed: normal clips, without intervals. In each class",
    ),
    "failure_auc": partial(
        degradation_curves,
        axis="video AUC (%)",
        title="Detection: abnormal against normal clips",
        level=50,
    ),
}
CURVES |= {
    f"{name}_reference": partial(
        CURVES[name], title=f"{CURVES[name].keywords['title']}, mini world, synthetic"
    )
    for name in ("failure_relevance", "failure_auc")
}
"""The curves of notebook 08 by name, with their fixed texts."""
