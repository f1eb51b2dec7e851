"""Figures of the hard-negative audit: violations by kind, and overlap with the caption."""

import numpy as np
import pandas as pd

from companion.figures.style import (
    ABNORMAL,
    INK,
    MARKERS,
    NORMAL,
    PALETTE,
    Figure,
    headline,
    in_order,
    legend_outside,
    new_figure,
    require,
    styled,
)

WRITTEN = {True: ("abnormal to normal", NORMAL), False: ("normal to abnormal", ABNORMAL)}


@styled
def violations_by_kind(
    table: pd.DataFrame, title: str = "What is wrong with the hard negatives"
) -> Figure:
    """Share of each kind with intervals, per direction of rewriting (symmetric log scale).

    Columns: direction, kind, count, n, value, low, high (shares of one).
    """
    require(table, ["direction", "kind", "count", "n", "value", "low", "high"], "violations")
    kinds, directions = in_order(table["kind"]), in_order(table["direction"])
    figure = new_figure(9, 1.6 + 0.15 * len(kinds) * len(directions))
    axes = figure.subplots()
    offsets = np.linspace(-0.28, 0.28, len(directions)) if len(directions) > 1 else [0.0]
    for i, direction in enumerate(directions):
        part = table[table["direction"] == direction]
        y = np.array([kinds.index(kind) for kind in part["kind"]]) + offsets[i]
        label = f"{direction} (n = {part['n'].min():,})"
        axes.hlines(y, 100 * part["low"], 100 * part["high"], color=PALETTE[i])
        axes.plot(100 * part["value"], y, MARKERS[i], color=PALETTE[i], label=label)
        for place, share, count in zip(y, 100 * part["high"], part["count"], strict=True):
            axes.annotate(
                f"{count:,}", (share, place), (4, 0), textcoords="offset points", va="center",
                fontsize=9, color=INK,
            )  # fmt: skip
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(-0.01, 300)
    ticks = [0, 0.1, 1, 10, 100]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of hard negatives (%, log scale above 0.1)")
    legend_outside(figure, axes)
    headline(
        figure, title, "Point: share. Line: 95% bootstrap interval over videos. Number: count."
    )
    return figure


@styled
def overlap_distribution(
    table: pd.DataFrame, title: str = "Word overlap of hard negatives with their caption"
) -> Figure:
    """Histogram of Jaccard overlap per direction of rewriting, means as dashed lines.

    Columns: abnormal (the caption's), overlap in [0, 1]; one row per hard negative.
    """
    require(table, ["abnormal", "overlap"], "overlap distribution")
    figure = new_figure(9, 3.4)
    axes = figure.subplots()
    bins = np.linspace(0, 1, 21)
    for abnormal, (name, colour) in WRITTEN.items():
        values = table.loc[table["abnormal"] == abnormal, "overlap"].to_numpy()
        if not len(values):
            continue
        label = f"{name} (n = {len(values):,})"
        shares = np.full(len(values), 100 / len(values))
        axes.hist(values, bins, weights=shares, histtype="step", color=colour, label=label, lw=1.8)
        axes.axvline(values.mean(), color=colour, linestyle="--", linewidth=1.2)
    axes.set_xlim(0, 1)
    axes.set_xlabel("distinct words shared with the caption (Jaccard: 0 none, 1 all)")
    axes.set_ylabel("hard negatives (%)")
    legend_outside(figure, axes)
    headline(figure, title, "Dashed: mean.")
    return figure
