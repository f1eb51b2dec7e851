"""Figures of counts and curves: items, losses, scores over time, measures over levels."""

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from companion.figures import style
from companion.figures.style import ABNORMAL, INK, NORMAL, Figure
from detectors.event_annotations import mask_runs

SMOOTH = 10  # optimiser steps
BINS = {"0-25": (10, 25), "25-40": (25, 40), "40-50": (40, 51)}  # scores, end-exclusive
PANELS = 4  # per row of panel_curves


def dataset_overview(table: pd.DataFrame, unit: str) -> Figure:
    """Bars of items per class and split on a log scale. Columns: class_name, split, items."""
    counts = table.groupby(["class_name", "split"], sort=False)["items"].sum().reset_index()
    totals = counts.groupby("split")["items"].sum()
    counts["split"] = [f"{split} ({totals[split]:,})" for split in counts["split"]]
    order = counts.groupby("class_name", sort=False)["items"].sum().sort_values(ascending=False)
    splits = counts["split"].unique().tolist()
    figure, axes = style.panels(9, 1.2 + (0.1 + 0.2 * len(splits)) * len(order))
    groups = {"hue": "split", "hue_order": splits, "palette": style.colours(splits)}
    look = {"saturation": 1, "errorbar": None, "order": order.index, "ax": axes}
    sns.barplot(counts, x="items", y="class_name", **groups, **look)
    for bars in axes.containers:
        axes.bar_label(bars, fmt=lambda n: f"{n:,.0f}" if n else "", padding=3, fontsize=9)
    axes.set(xscale="log", xlim=(0.8, counts["items"].max() * 2))
    axes.set(xlabel=f"{unit} (log scale)", ylabel="")
    axes.grid(axis="y", visible=False)
    return style.stamp(figure, f"n = {totals.sum():,} {unit}.", axes)


def score_distribution(table: pd.DataFrame) -> Figure:
    """Clips per score with the paper's three bins. Columns: score (10 to 50), bin, decision."""
    kept = (table["decision"] == "keep").sum()
    names = {"drop": f"removed ({len(table) - kept:,})", "keep": f"kept ({kept:,})"}
    palette = dict(zip(names.values(), (ABNORMAL, NORMAL), strict=True))
    figure, axes = style.panels(9, 3.8)
    look = {"multiple": "stack", "discrete": True, "shrink": 0.9, "alpha": 1, "linewidth": 0}
    groups = {"hue": "decision", "hue_order": list(palette), "palette": palette}
    clips = table.assign(decision=table["decision"].map(names))
    sns.histplot(clips, x="score", ax=axes, **groups, **look)
    axes.axvline(BINS["25-40"][0] - 0.5, color=INK, linewidth=1.5, label="threshold 25")
    axes.axvline(BINS["40-50"][0] - 0.5, color=INK, linewidth=1, linestyle=":", label="bin edge")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    shares = table["bin"].value_counts(normalize=True)
    for name, (low, high) in BINS.items():
        text = f"{name}\n{100 * shares.get(name, 0.0):.1f}%"
        place = {"ha": "center", "va": "top", "transform": axes.get_xaxis_transform()}
        axes.text((low + high - 1) / 2, 0.97, text, **place)
    axes.set(xlim=(9.5, 50.5), xlabel="score (10 to 50)", ylabel="clips")
    note = f"n = {len(table):,} clips. A score on an edge belongs to the bin above."
    return style.stamp(figure, note, axes)


def loss_curves(table: pd.DataFrame) -> Figure:
    """Loss terms over optimiser steps: thin = each step, thick = mean of the last ten.

    Columns: step, term, value (nats).
    """
    table = table.sort_values("step", kind="stable")
    table["term"] = table["term"].replace("loss", "total").str.replace("_?loss_?", "", regex=True)
    terms, groups = table["term"].unique().tolist(), table.groupby("term")["value"]
    mean = groups.transform(lambda part: part.rolling(SMOOTH, min_periods=1).mean())
    few = groups.transform("size") <= 3 * SMOOTH  # such as validation: not smoothed
    figure, axes = style.panels(9, 4)
    look = {"x": "step", "hue": "term", "hue_order": terms, "palette": style.colours(terms)}
    sns.lineplot(table, y="value", alpha=0.25, linewidth=0.8, legend=False, ax=axes, **look)
    sns.lineplot(table.assign(mean=table["value"].where(few, mean)), y="mean", ax=axes, **look)
    axes.set(xlabel="optimiser step", ylabel="loss (nats)")
    note = f"Thin: every step. Thick: mean of the last {SMOOTH} steps; validation as measured."
    return style.stamp(figure, note, axes)


def score_curves(table: pd.DataFrame, axis: str, note: str = "") -> Figure:
    """Scores of several models over time, one panel per video, annotated events shaded.

    Columns: video, time_s, model, score (0 to 1), truth (0 or 1). Optional, drawn above the curves:
    picked (0 or 1), the interval chosen from the scores, as a bar; predicted, the predicted class
    ("" = none), of which the most frequent is named. ``note`` explains these marks.
    """
    videos, palette = table["video"].unique(), style.colours(table["model"].unique())
    top = 1.06 + 0.13 * len(palette) if note else 1.02
    size = 9, 0.9 + 1.4 * top * len(videos)
    figure, panels = style.panels(*size, len(videos), 1, sharex=True, squeeze=False)
    shade = {"step": "post", "color": ABNORMAL, "alpha": 0.2, "linewidth": 0}
    for axes, video in zip(panels.flat, videos, strict=True):
        rows = table[table["video"] == video]
        truth = rows[rows["model"] == rows["model"].iloc[0]]
        axes.fill_between(truth["time_s"], truth["truth"], label="annotated event", **shade)
        for i, (model, colour) in enumerate(palette.items()):
            curve, height = rows[rows["model"] == model], 1.08 + 0.13 * i
            axes.step(curve["time_s"], curve["score"], where="post", color=colour, label=model)
            if "picked" in curve:
                runs = mask_runs(curve["picked"].to_numpy()) * curve["time_s"].diff().median()
                axes.hlines(np.full(len(runs), height), *runs.T, colour, linewidth=4)
            if "predicted" in curve:
                _name_class(axes, curve, height, colour)
        axes.set(ylim=(-0.02, top), yticks=[0, 0.5, 1], ylabel=axis)
        axes.set_title(video, fontsize=9, weight="normal")
    panels[-1, 0].set_xlabel("time (s)")
    return style.stamp(figure, f"n = {len(videos)} videos. {note}".rstrip(), panels[0, 0])


def _name_class(axes: Axes, curve: pd.DataFrame, height: float, colour: str) -> None:
    """Write the most frequently predicted class above the middle of its time."""
    predicted = curve[curve["predicted"].fillna("") != ""]
    if predicted.empty:
        return
    most = predicted[predicted["predicted"] == predicted["predicted"].mode()[0]]
    look = {"color": colour, "fontsize": 9, "ha": "center", "va": "bottom"}
    axes.text(most["time_s"].median(), height, most["predicted"].iloc[0], **look)


def panel_curves(
    table: pd.DataFrame, axis: str, caption: str, level: float | None = None
) -> Figure:
    """A measure with intervals over levels: a panel per title, a line per model.

    Columns: title, unit (of the levels), step (their order), level, model, value, low, high, n;
    optional of (its second value is dashed, without intervals) and chance (dotted). ``axis`` names
    the measure with its unit; ``level`` is one chance level for all panels.
    """
    table = table.assign(of=table.get("of", ""), chance=table.get("chance", level))
    titles = table["title"].unique().tolist()
    row_count = math.ceil((len(titles) + 1) / PANELS)  # one panel holds the legend
    figure, grid = style.panels(11, 0.9 + 2.6 * row_count, row_count, PANELS, squeeze=False)
    panels = grid.ravel()
    for i, (axes, title) in enumerate(zip(panels, titles, strict=False)):
        rows = table[table["title"] == title].sort_values("step", kind="stable")
        _lines(axes, rows)
        steps = rows.drop_duplicates("step")
        if steps["chance"].notna().any():
            axes.plot(steps["step"], steps["chance"], ":", color=INK, label="chance")
        ticks = ["as is" if math.isinf(value) else f"{value:g}" for value in steps["level"]]
        axes.set_xticks(steps["step"], ticks)
        axes.set(xlabel=rows["unit"].iloc[0], ylabel="" if i % PANELS else axis)
        axes.set_title(title, fontsize=10)
    for axes in panels[len(titles) :]:
        axes.set_axis_off()
    panels[len(titles)].legend(*panels[0].get_legend_handles_labels(), loc="center left")
    counts = ", ".join(map(str, sorted(set(table["n"]))))
    return style.stamp(figure, caption.format(n=counts))


def _lines(axes: Axes, table: pd.DataFrame) -> None:
    """A line per model over ``step``; markers and intervals only for the first value of ``of``."""
    models = table["model"].unique().tolist()
    for (model, of), curve in table.groupby(["model", "of"], sort=False):
        index, colour = models.index(model), style.colours(models)[model]
        x = curve["step"] + 0.12 * (index - (len(models) - 1) / 2)
        first = of == table["of"].iloc[0]
        if first:
            axes.vlines(x, curve["low"], curve["high"], color=colour, linewidth=1.4)
        look = {"marker": style.MARKERS[index]} if first else {"linestyle": "--", "linewidth": 1}
        axes.plot(x, curve["value"], color=colour, label=f"{model}, {of}" if of else model, **look)


def accuracy_by_share(table: pd.DataFrame, **texts: Any) -> Figure:
    """Accuracy over the share of patches kept: a panel per setting, a line per rule.

    Columns: setting, rule, share, value, low, high (per cent), n.
    """
    titles = table["setting"] + " (n = " + table["n"].astype(str) + ")"
    curves = table.assign(title=titles, model=table["rule"], unit="patches kept (%)")
    curves = curves.assign(level=curves["share"], step=curves["share"].rank(method="dense"))
    return panel_curves(curves, **texts)
