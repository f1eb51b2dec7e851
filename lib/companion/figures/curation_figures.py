"""Figures of the screening: score distribution, removed clips, precision and recall."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd

from companion.figures.images import frames_grid
from companion.figures.result_figures import auc_comparison
from companion.figures.style import (
    ABNORMAL,
    INK,
    PALETTE,
    Figure,
    headline,
    legend_outside,
    new_figure,
    require,
    styled,
)

SCORES = np.arange(10, 51)  # every score there is


@styled
def score_distribution(
    table: pd.DataFrame,
    edges: tuple[float, float] = (25, 40),
    title: str = "Screening scores",
    caption: str = "",
) -> Figure:
    """Clips per score with the three bins; removed ones apart. Columns: score, bin, decision."""
    require(table, ["score", "bin", "decision"], "score distribution")
    figure = new_figure(9, 3.8)
    axes = figure.subplots()
    below = np.zeros(len(SCORES))
    for decision, colour in (("keep", PALETTE[0]), ("drop", ABNORMAL)):
        part = table.loc[table["decision"] == decision, "score"]
        counts = part.value_counts().reindex(SCORES, fill_value=0).to_numpy()
        label = f"{'kept' if decision == 'keep' else 'removed'} ({len(part):,})"
        axes.bar(SCORES, counts, 0.9, bottom=below, color=colour, label=label)
        below = below + counts
    axes.set_ylim(0, max(1.0, below.max()) * 1.25)
    axes.axvline(edges[0] - 0.5, color=INK, linewidth=1.5, label=f"threshold {edges[0]}")
    axes.axvline(edges[1] - 0.5, color=INK, linewidth=1, linestyle=":", label="edge of a bin")
    limits = (9.5, edges[0] - 0.5, edges[1] - 0.5, 50.5)
    shares = table["bin"].value_counts(normalize=True)
    for name, left, right in zip(("0-25", "25-40", "40-50"), limits[:-1], limits[1:], strict=True):
        text = f"{name}\n{100 * shares.get(name, 0.0):.1f}%"
        axes.text(
            (left + right) / 2,
            0.97,
            text,
            ha="center",
            va="top",
            transform=axes.get_xaxis_transform(),
        )
    axes.set(xlim=(9.5, 50.5), xlabel="score (10 to 50)", ylabel="clips")
    legend_outside(figure, axes)
    headline(figure, title, caption or f"n = {len(table):,} clips. A score on an edge is above it.")
    return figure


def removed_gallery(
    frames: Sequence[np.ndarray], table: pd.DataFrame, title: str = "Removed clips"
) -> Figure:
    """One frame per removed clip under its class, score and reason.

    Columns class_name, score, reason, one row per frame; optional kind (what was planted).
    """
    require(table, ["class_name", "score", "reason"], "removed gallery")
    heads = table["kind"] + ": " if "kind" in table else pd.Series("", index=table.index)
    names = table["class_name"].str.replace("_", " ")
    reasons = table["reason"].map(_first_reason)
    titles = heads + "filed as " + names + ", score " + table["score"].astype(str) + ". " + reasons
    return frames_grid(
        frames, pd.DataFrame({"title": titles}), 4, title, "The middle frame of each clip."
    )


def _first_reason(reason: str) -> str:
    """The first criterion and what was measured, without the name of another clip."""
    return textwrap.shorten(reason.split(";")[0].split(" as ")[0], 70, placeholder=" ...")


def screening_recovery(table: pd.DataFrame, title: str = "Planted faults found") -> Figure:
    """Recall per kind of fault, precision and clean clips removed, with intervals, per rule.

    Columns rule, setting, measure, value, low, high (per cent), n.
    """
    require(table, ["rule", "setting", "measure", "value", "low", "high", "n"], "recovery")
    shown = table[table["n"] > 0].rename(columns={"rule": "model"})
    names = shown["measure"].where(shown["measure"] != "false alarms", "")
    text = (names + " " + shown["setting"]).str.strip()
    # What is removed, and so n, differs from rule to rule: a line of its own for each.
    apart = "precision, " + shown["model"]
    shown = shown.assign(setting=text.where(names != "precision", apart))
    caption = "Point: share of n clips. Line: 95% Wilson interval."
    return auc_comparison(shown, title, caption, None, "share of clips")
