"""Figures of points with intervals: models per setting, and trainings over seeds."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so
from matplotlib.ticker import LogLocator, NullFormatter

from companion.ablation_tables import rank_correlation, student_interval
from companion.figures import style
from companion.figures.style import INK, Figure
from companion.variants import load_variants


def point_intervals(
    table: pd.DataFrame,
    row: str,
    value: str = "value",
    by: str = "model",
    caption: str = "",
    level: float | None = None,
    text: str | None = None,
    **axis: Any,
) -> Figure:
    """A row per value of column ``row``, with a point and interval per value of ``by``.

    Columns: those named; optionally low and high, and paper (the paper's number, a black bar).
    ``level`` draws a vertical line; ``text`` names a column written beside each point.
    """
    rows, names = table[row].nunique(), table[by].unique().tolist()
    plot = so.Plot(table, y=row, x=value, color=by, marker=by)
    plot = plot.add(so.Dot(pointsize=6), so.Dodge())
    if "low" in table:
        plot = plot.add(so.Range(linewidth=1.6), so.Dodge(), xmin="low", xmax="high", legend=False)
    if "paper" in table and table["paper"].notna().any():
        bar = so.Dot(marker="|", color="black", pointsize=13, stroke=2.2)
        plot = plot.add(bar, so.Dodge(), x="paper", legend=False)
        caption += " Black bar: the paper's number."
    if text:
        label = so.Text(halign="left", offset=6, fontsize=9, color=INK)
        plot = plot.add(label, so.Dodge(), x="high", text=text, legend=False)
    figure, axes = style.panels(9, 1.6 + (0.28 + 0.16 * len(names)) * rows)
    plot = plot.scale(color=style.colours(names), marker=style.markers(names))
    plot.theme(matplotlib.rcParams).on(axes).plot()
    for edge in np.arange(rows - 1) + 0.5:
        axes.axhline(edge, color=style.RULE, linewidth=0.6)
    if level is not None:
        axes.axvline(level, color=INK, linewidth=1, linestyle="-" if level == 0 else ":")
    axes.set(ylabel="", **axis)
    return style.stamp(figure, caption, axes)


def model_comparison(
    table: pd.DataFrame,
    caption: str,
    axis: str,
    level: float | None = None,
    row: str = "setting",
    value: str = "value",
) -> Figure:
    """Values with intervals: a row per setting (or class), a point per model.

    Columns: setting, model, value, low, high, n; optional paper. ``level`` is the chance level.
    """
    counts = table.groupby(row)["n"].max()
    points = table.assign(row=[f"{name}\n(n = {counts[name]:,})" for name in table[row]])
    caption += " Dotted: chance." if level else ""
    return point_intervals(points, "row", value, "model", caption, level, xlabel=axis)


def screening_recovery(table: pd.DataFrame) -> Figure:
    """Recall per kind of fault, precision, and clean clips removed, per rule.

    Columns: rule, setting, measure, value, low, high (per cent), n.
    """
    rates = table[table["n"] > 0].rename(columns={"rule": "model"})
    names = rates["measure"].where(rates["measure"] != "false alarms", "") + " " + rates["setting"]
    # The rules remove different clips: n of the precision differs, so each has its own row.
    rules = "precision, " + rates["model"]
    rates = rates.assign(setting=names.str.strip().where(rates["measure"] != "precision", rules))
    caption = "Point: share of n clips. Line: 95% Wilson interval."
    return model_comparison(rates, caption, "share of clips (%)")


def paired_changes(table: pd.DataFrame) -> Figure:
    """Change of each variant from its reference in points, with intervals.

    Columns: title, metric, value, change, low, high, seeds, reference (True for the reference).
    """
    references, variants = table[table["reference"]], table[~table["reference"]]
    axis, seeds = f"change of {table['metric'].iloc[0]} (points)", sorted(set(variants["seeds"]))
    pairs = zip(variants["title"], variants["value"], strict=True)
    variants = variants.assign(row=[f"{name} ({value:.1f})" for name, value in pairs])
    note = f"Line: 95% interval of Student's t over {' or '.join(map(str, seeds))} seeds."
    note = note if max(seeds, default=1) > 1 else "One seed, no interval."
    baselines = ", ".join(f"{r.title} ({r.value:.1f})" for r in references.itertuples())
    caption = f"Against {baselines}. In brackets: the value. {note}"
    figure = point_intervals(variants, "row", "change", "metric", caption, 0, xlabel=axis)
    figure.legends.clear()
    return figure


def violations_by_kind(table: pd.DataFrame) -> Figure:
    """Share of each kind of fault per direction of rewriting, on a symmetric log scale.

    Columns: direction, kind, count, n, value, low, high (shares of one).
    """
    sizes = table.groupby("direction")["n"].min()
    names = [f"{name} (n = {sizes[name]:,})" for name in table["direction"]]
    points = table.assign(direction=names, text=[f"{n:,}" for n in table["count"]])
    points[["value", "low", "high"]] *= 100
    caption = "Point: share. Line: 95% bootstrap interval over videos. Number: count."
    axis = {"xlabel": "share of hard negatives (%, log scale above 0.1)", "text": "text"}
    figure = point_intervals(points, "kind", "value", "direction", caption, **axis)
    figure.axes[0].set_xscale("symlog", linthresh=0.1)
    figure.axes[0].set(xlim=(-0.01, 300), xticks=[0, 0.1, 1, 10, 100])
    figure.axes[0].xaxis.set_major_formatter("{x:g}")
    return figure


def against_floor(table: pd.DataFrame) -> Figure:
    """Measured value of each line beside its lower bound (floor), on a log scale.

    Columns: line, unit (one for all), ours, low, high, n, floor, ratio; optional paper.
    """
    counts = zip(table["line"], table["n"], table["ratio"], strict=True)
    table = table.assign(row=[f"{line}\n(n = {n:.0f}, {r:.2g} x floor)" for line, n, r in counts])
    floor = table.assign(mark="floor", value=table["floor"], low=np.nan, high=np.nan, paper=np.nan)
    measured = table.assign(mark="measured here", value=table["ours"])
    points = pd.concat([measured, floor], ignore_index=True)
    note = "Point: median of n calls. Line: quartiles. Floor: FLOPs / measured matmul ceiling."
    axis = {"xlabel": f"{table['unit'].iloc[0]} (log scale)", "xscale": "log"}
    figure = point_intervals(points, "row", "value", "mark", note, **axis)
    ticks = figure.axes[0].xaxis
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ticks.set_major_formatter("{x:g}")
    ticks.set_minor_formatter(NullFormatter())
    return figure


def learning_curves(table: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """Development metrics during training: a panel per metric of ``panels``, a line per variant.

    Columns: variant, seed, stage, step, metric, value. Stage II's steps follow Stage I's.
    """
    table = table[table["metric"].isin(panels)].copy()
    stage1_end = table.loc[table["stage"] == 1, "step"].max()
    table["at"] = table["step"] + stage1_end * (table["stage"] == 2)
    titles = {name: load_variants()[name].title for name in table["variant"].unique()}
    table["line"] = table["variant"].map(titles).where(table["stage"] == 2, "Stage I")
    lines = list(table.sort_values("stage", kind="stable")["line"].unique())
    offset = 4 * table["line"].map(lines.index) - 2 * len(lines)
    table["at"] += (table["stage"] - 1) * offset
    figure, grid = style.panels(11, 6, 2, 3, sharex=True)
    look = {"hue": "line", "hue_order": lines, "palette": style.colours(lines), "marker": "o"}
    look |= {"errorbar": lambda values: student_interval(values)[1:], "err_style": "bars"}
    for axes, (metric, name) in zip(grid.flat, panels.items(), strict=True):
        sns.lineplot(table[table["metric"] == metric], x="at", y="value", ax=axes, **look)
        axes.axvline(stage1_end, color=INK, linewidth=1, linestyle=":")
        axes.set(xlabel="optimiser step", ylabel="")
        axes.set_title(name, fontsize=10)
    for axes in grid.flat[1:]:
        axes.get_legend().remove()
    seeds = " or ".join(map(str, sorted(set(table.groupby("line")["seed"].nunique()))))
    note = f"Development clips. Point: mean over {seeds} seeds. Bar: 95% interval of Student's t."
    note += " Stage II's lines are set a few steps apart to be seen."
    return style.stamp(figure, note, grid[0, 0])


def mss_against_auc(table: pd.DataFrame) -> Figure:
    """MSS of every training against each AUC, with their rank correlation.

    Columns: variant, seed, metric (MSS, video AUC, frame AUC ...), value, optionally processor.
    """
    training = [name for name in ("variant", "seed", "processor") if name in table]
    wide = table.pivot_table(index=training, columns="metric", values="value")
    wide = wide.reset_index()
    named = {name: load_variants()[name].title for name in ("full", "global")}
    wide["title"] = wide["variant"].map(named).fillna("other variants")
    metrics = ("video AUC", "frame AUC", "in-clip frame AUC")
    wide = wide.sort_values("title", ascending=False)  # named ones drawn on top
    order = list(wide["title"].unique())
    figure, panels = style.panels(11, 4, 1, len(metrics), sharex=True)
    look = {"hue": "title", "hue_order": order, "palette": style.colours(order)}
    look |= {"style": "title", "style_order": order, "markers": style.markers(order)}
    for i, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
        sns.scatterplot(wide, x="MSS", y=metric, ax=axes, legend=not i, **look)
        value, low, high = rank_correlation(wide, "MSS", metric)
        axes.set_title(f"Spearman {value:.2f} [{low:.2f}, {high:.2f}]", fontsize=10)
        axes.set(xlabel="MeanSignScore", ylabel=f"{metric} (%)")
    note = "Point: one training, test clips. Interval: 95% bootstrap over variants."
    return style.stamp(figure, f"n = {len(wide)} trainings. {note}", panels[0])
