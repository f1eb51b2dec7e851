"""Figures of cost: FLOPs per module, and what was measured against its floor and the paper."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from companion.figures.style import (
    MARKERS,
    PALETTE,
    PAPER,
    Figure,
    colours,
    headline,
    in_order,
    legend_outside,
    new_figure,
    require,
    styled,
)

BAR = {"marker": "|", "color": "black", "markersize": 14, "markeredgewidth": 2.2, "linestyle": ""}


@styled
def operations_per_module(table: pd.DataFrame, title: str = "Operations per module") -> Figure:
    """Dots per module and variant on a log scale, the paper's number as a black bar.

    Columns: module, variant, operations, paper (nan where it has none).
    """
    require(table, ["module", "variant", "operations", "paper"], "operations per module")
    rows, variants = in_order(table["module"]), in_order(table["variant"])
    figure = new_figure(9, 1.6 + (0.2 + 0.14 * len(variants)) * len(rows))
    axes = figure.subplots()
    offsets = np.linspace(-0.3, 0.3, len(variants)) if len(variants) > 1 else [0.0]
    palette = colours(variants)
    for i, variant in enumerate(variants):
        part = table[table["variant"] == variant]
        y = np.array([rows.index(row) for row in part["module"]]) + offsets[i]
        mark = MARKERS[i % len(MARKERS)]
        axes.plot(part["operations"], y, mark, color=palette[variant], label=variant)
    known = table.dropna(subset=["paper"]).drop_duplicates("module")
    axes.vlines(
        known["paper"],
        [rows.index(row) - 0.42 for row in known["module"]],
        [rows.index(row) + 0.42 for row in known["module"]],
        color="black",
        linewidth=2.2,
        label=PAPER,
    )
    _rows(axes, rows)
    axes.set_xlabel("operations, a multiply-add counted as one (log scale)")
    legend_outside(figure, axes)
    caption = "Closed formulas, not measurements. Black bar: the paper's Table 5."
    headline(figure, title, caption)
    return figure


@styled
def against_floor(table: pd.DataFrame, title: str, caption: str = "") -> Figure:
    """Measured value, its floor and the paper's number per line, on a log scale.

    Columns: line, unit (one for all), ours, low, high, n, floor, ratio, paper.
    """
    columns = ["line", "unit", "ours", "low", "high", "n", "floor", "ratio", "paper"]
    require(table, columns, "against the floor")
    counts = zip(table["line"], table["n"], table["ratio"], strict=True)
    rows = [f"{line}\n(n = {n:.0f}, {ratio:.2g} x floor)" for line, n, ratio in counts]
    figure = new_figure(9, 1.7 + 0.55 * len(rows))
    axes, y = figure.subplots(), np.arange(len(rows))
    axes.hlines(y, table["low"], table["high"], color=PALETTE[0])
    axes.plot(table["ours"], y, "o", color=PALETTE[0], label="measured here")
    axes.plot(table["floor"], y, "^", color=PALETTE[2], label="floor")
    axes.plot(table["paper"], y, label=PAPER, **BAR)
    _rows(axes, rows)
    axes.set_xlabel(f"{table['unit'].iloc[0]} (log scale)")
    legend_outside(figure, axes)
    marks = "Point: median of n calls. Line: quartiles. Floor: FLOPs / measured matmul ceiling."
    headline(figure, title, f"{marks} {caption}".rstrip())
    return figure


def _rows(axes: Axes, rows: list[str]) -> None:
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    for edge in np.arange(len(rows) - 1) + 0.5:
        axes.axhline(edge, color="#e3e3e3", linewidth=0.6)
