"""Figures of counts and distributions: items per class, screening scores."""

import pandas as pd
import seaborn as sns

from companion.figures import style
from companion.figures.style import ABNORMAL, INK, NORMAL, Figure

BINS = {"0-25": (10, 25), "25-40": (25, 40), "40-50": (40, 51)}  # scores, end-exclusive


@style.styled
def dataset_overview(
    table: pd.DataFrame, title: str = "Items per class", unit: str = "items"
) -> Figure:
    """Bars of items per class and split on a log scale. Columns: class_name, split, items."""
    counts = table.groupby(["class_name", "split"], sort=False)["items"].sum().reset_index()
    totals = counts.groupby("split")["items"].sum()
    counts["split"] = [f"{split} ({totals[split]:,})" for split in counts["split"]]
    order = counts.groupby("class_name", sort=False)["items"].sum().sort_values(ascending=False)
    splits = style.in_order(counts["split"])
    figure = style.new_figure(9, 1.2 + (0.1 + 0.2 * len(splits)) * len(order))
    axes = figure.subplots()
    groups = {"hue": "split", "hue_order": splits, "palette": style.colours(splits)}
    look = {"saturation": 1, "errorbar": None, "order": order.index, "ax": axes}
    sns.barplot(counts, x="items", y="class_name", **groups, **look)
    for bars in axes.containers:
        labels = [f"{n:,.0f}" if n else "" for n in bars.datavalues]
        axes.bar_label(bars, labels, padding=3, fontsize=9)
    axes.set(xscale="log", xlim=(0.8, counts["items"].max() * 2))
    axes.set(xlabel=f"{unit} (log scale)", ylabel="")
    axes.grid(axis="y", visible=False)
    style.legend_outside(figure, axes)
    return style.headline(figure, title, f"n = {totals.sum():,} {unit}.")


@style.styled
def score_distribution(table: pd.DataFrame, title: str = "Screening scores") -> Figure:
    """Clips per score with the paper's three bins. Columns: score (10 to 50), bin, decision."""
    kept = (table["decision"] == "keep").sum()
    names = {"drop": f"removed ({len(table) - kept:,})", "keep": f"kept ({kept:,})"}
    palette = dict(zip(names.values(), (ABNORMAL, NORMAL), strict=True))
    figure = style.new_figure(9, 3.8)
    axes = figure.subplots()
    look = {"multiple": "stack", "discrete": True, "shrink": 0.9, "alpha": 1, "linewidth": 0}
    groups = {"hue": "decision", "hue_order": list(palette), "palette": palette}
    shown = table.assign(decision=table["decision"].map(names))
    sns.histplot(shown, x="score", ax=axes, **groups, **look)
    axes.axvline(BINS["25-40"][0] - 0.5, color=INK, linewidth=1.5, label="threshold 25")
    axes.axvline(BINS["40-50"][0] - 0.5, color=INK, linewidth=1, linestyle=":", label="bin edge")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    shares = table["bin"].value_counts(normalize=True)
    for name, (low, high) in BINS.items():
        text = f"{name}\n{100 * shares.get(name, 0.0):.1f}%"
        place = {"ha": "center", "va": "top", "transform": axes.get_xaxis_transform()}
        axes.text((low + high - 1) / 2, 0.97, text, **place)
    axes.set(xlim=(9.5, 50.5), xlabel="score (10 to 50)", ylabel="clips")
    style.legend_outside(figure, axes)
    note = f"n = {len(table):,} clips. A score on an edge belongs to the bin above."
    return style.headline(figure, title, note)
