"""Figures of counts and results: data set overview, MSS per class, AUC comparison."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from companion.figures.style import (
    INK,
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


@styled
def dataset_overview(table: pd.DataFrame, title: str = "Items per class") -> Figure:
    """Bars of items per class and split (log scale). Columns: class_name, split, items."""
    require(table, ["class_name", "split", "items"], "dataset overview")
    counts = table.groupby(["class_name", "split"], sort=False)["items"].sum().unstack(fill_value=0)
    splits = in_order(table["split"])
    counts = counts[splits].loc[counts.sum(axis=1).sort_values().index]
    figure = new_figure(9, 1.2 + 0.2 * len(counts) * len(splits) + 0.1 * len(counts))
    axes = figure.subplots()
    thickness = 0.8 / len(splits)
    for i, split in enumerate(splits):
        places = np.arange(len(counts)) + (len(splits) / 2 - i - 0.5) * thickness
        label = f"{split} ({counts[split].sum():,})"
        bars = axes.barh(places, counts[split], thickness, label=label, color=PALETTE[i])
        labels = [f"{n:,}" if n else "" for n in counts[split]]
        axes.bar_label(bars, labels, padding=3, fontsize=9)
    axes.set_yticks(np.arange(len(counts)), counts.index)
    axes.set_xscale("log")
    axes.set_xlim(0.8, counts.to_numpy().max() * 2)
    axes.set_xlabel("items (log scale)")
    axes.grid(axis="y", visible=False)
    legend_outside(figure, axes)
    headline(figure, title, f"n = {int(table['items'].sum()):,} items.")
    return figure


@styled
def mss_per_class(
    table: pd.DataFrame, title: str = "MeanSignScore per class", caption: str = ""
) -> Figure:
    """MSS with intervals per class, models side by side, the paper's number as a black bar.

    Columns: model, class_name, mss, low, high, n; optional paper (nan where there is none).
    """
    require(table, ["model", "class_name", "mss", "low", "high", "n"], "MSS per class")
    counts = table.groupby("class_name", sort=False)["n"].max()
    rows = [f"{name}  (n = {n})" for name, n in counts.items()]
    shown = table.assign(row=[f"{c}  (n = {counts[c]})" for c in table["class_name"]])
    figure = new_figure(9, 1.5 + _row_height(shown["model"].nunique()) * len(rows))
    axes = figure.subplots()
    _intervals(axes, shown.rename(columns={"mss": "value"}), rows, "model")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel("MeanSignScore (difference of cosines; above 0: right prompts preferred)")
    legend_outside(figure, axes)
    headline(figure, title, caption or _marks(table, "mean over n videos"))
    return figure


@styled
def auc_comparison(
    table: pd.DataFrame,
    title: str = "Detection",
    caption: str = "",
    chance: float | None = 50,
    unit: str = "",
) -> Figure:
    """Dot plot with intervals: one row per setting, one mark per model.

    Columns: setting, model, value, low, high (all in per cent), n; optional paper.
    ``chance`` draws the level of guessing (50 for AUC; None where it varies, as for AP); ``unit``
    names the axis where it is neither AUC nor AP.
    """
    require(table, ["setting", "model", "value", "low", "high", "n"], "AUC comparison")
    counts = table.groupby("setting", sort=False)["n"].max()
    names = {setting: f"{setting}\n(n = {n:,})" for setting, n in counts.items()}
    figure = new_figure(9, 1.5 + _row_height(table["model"].nunique()) * len(names))
    axes = figure.subplots()
    _intervals(axes, table.assign(row=table["setting"].map(names)), list(names.values()), "model")
    if chance is not None:
        axes.axvline(chance, color=INK, linewidth=1, linestyle=":", label="chance")
    axes.set_xlabel(f"{unit or ('AUC or AP' if chance is None else 'AUC')} (%)")
    legend_outside(figure, axes)
    headline(figure, title, caption or _marks(table, "value on n items"))
    return figure


@styled
def paired_changes(table: pd.DataFrame, title: str = "Paired changes", unit: str = "") -> Figure:
    """Change of each variant to its reference, with intervals, one row per variant.

    Columns: title, metric, value, change, low, high, seeds, reference (True for the reference).
    """
    columns = ["title", "metric", "value", "change", "low", "high", "seeds", "reference"]
    require(table, columns, "paired changes")
    shown = table[~table["reference"]]
    figure = new_figure(9, 1.8 + 0.42 * len(shown))
    axes, y = figure.subplots(), np.arange(len(shown))
    axes.hlines(y, shown["low"], shown["high"], color=PALETTE[0])
    axes.plot(shown["change"], y, "o", color=PALETTE[0])
    axes.axvline(0, color=INK, linewidth=1)
    rows = zip(shown["title"], shown["value"], strict=True)
    axes.set_yticks(y, [f"{name} ({value:.3g})" for name, value in rows])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"change of {table['metric'].iloc[0]}{unit and f' ({unit})'}")
    reference = table[table["reference"]].iloc[0]
    seeds = int(table["seeds"].min())
    line = "95% interval of Student's t over seeds" if seeds > 1 else "one seed, no interval"
    caption = (
        f"To {reference['title']} ({reference['value']:.3g}). n = {seeds} seeds; line: {line}."
    )
    headline(figure, title, caption)
    return figure


def _marks(table: pd.DataFrame, point: str) -> str:
    paper = " Black bar: the paper's number for that model, on real data."
    text = f"Point: {point}. Line: 95% bootstrap interval over videos."
    return text + paper if _has_paper(table) else text


def _has_paper(table: pd.DataFrame) -> bool:
    return "paper" in table and bool(table["paper"].notna().any())


def _row_height(models: int) -> float:
    return 0.3 + 0.16 * models


def _intervals(axes: Axes, table: pd.DataFrame, rows: list[str], by: str) -> None:
    models = in_order(table[by])
    offsets = np.linspace(-0.3, 0.3, len(models)) if len(models) > 1 else [0.0]
    palette = colours(models)
    for i, model in enumerate(models):
        part = table[table[by] == model]
        y = np.array([rows.index(row) for row in part["row"]]) + offsets[i]
        axes.hlines(y, part["low"], part["high"], color=palette[model])
        axes.plot(part["value"], y, MARKERS[i % len(MARKERS)], color=palette[model], label=model)
        if _has_paper(part):
            axes.plot(
                part["paper"],
                y,
                "|",
                color="black",
                markersize=13,
                markeredgewidth=2.2,
                label=PAPER,
            )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    for edge in np.arange(len(rows) - 1) + 0.5:
        axes.axhline(edge, color="#e3e3e3", linewidth=0.6)
