"""Figures of points with intervals: models by setting, and many trainings over seeds."""

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
    """A row per value of column ``row``, in it a mark per value of ``by`` with its interval.

    Columns: those named, and optionally low and high, and paper (its number, drawn as a bar).
    ``level`` draws a vertical line; ``text`` is a column written beside each mark.
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
        beside = so.Text(halign="left", offset=6, fontsize=9, color=INK)
        plot = plot.add(beside, so.Dodge(), x="high", text=text, legend=False)
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
    """Values with intervals, one row per setting (or class) and one mark per model.

    Columns: setting, model, value, low, high, n; optional paper. ``level`` is that of guessing.
    """
    counts = table.groupby(row)["n"].max()
    shown = table.assign(row=[f"{name}\n(n = {counts[name]:,})" for name in table[row]])
    caption += " Dotted: chance." if level else ""
    return point_intervals(shown, "row", value, "model", caption, level, xlabel=axis)


def screening_recovery(table: pd.DataFrame) -> Figure:
    """Recall per kind of fault, precision, and clean clips removed, per rule.

    Columns: rule, setting, measure, value, low, high (per cent), n.
    """
    shown = table[table["n"] > 0].rename(columns={"rule": "model"})
    names = shown["measure"].where(shown["measure"] != "false alarms", "") + " " + shown["setting"]
    # Each rule removes other clips, so its precision has another n and a row of its own.
    apart = "precision, " + shown["model"]
    shown = shown.assign(setting=names.str.strip().where(shown["measure"] != "precision", apart))
    caption = "Point: share of n clips. Line: 95% Wilson interval."
    return model_comparison(shown, caption, "share of clips (%)")


def paired_changes(table: pd.DataFrame) -> Figure:
    """Change of each variant against its reference in points, with intervals.

    Columns: title, metric, value, change, low, high, seeds, reference (True for the reference).
    """
    references, shown = table[table["reference"]], table[~table["reference"]]
    axis, seeds = f"change of {table['metric'].iloc[0]} (points)", sorted(set(shown["seeds"]))
    rows = zip(shown["title"], shown["value"], strict=True)
    shown = shown.assign(row=[f"{name} ({value:.1f})" for name, value in rows])
    line = f"Line: 95% interval of Student's t over {' or '.join(map(str, seeds))} seeds."
    line = line if max(seeds, default=1) > 1 else "One seed, no interval."
    whole = ", ".join(f"{r.title} ({r.value:.1f})" for r in references.itertuples())
    caption = f"Against {whole}. In brackets: the value. {line}"
    figure = point_intervals(shown, "row", "change", "metric", caption, 0, xlabel=axis)
    figure.legends.clear()
    return figure


def violations_by_kind(table: pd.DataFrame) -> Figure:
    """Share of each kind of fault per direction of rewriting, on a symmetric log scale.

    Columns: direction, kind, count, n, value, low, high (shares of one).
    """
    sizes = table.groupby("direction")["n"].min()
    names = [f"{name} (n = {sizes[name]:,})" for name in table["direction"]]
    shown = table.assign(direction=names, text=[f"{n:,}" for n in table["count"]])
    shown[["value", "low", "high"]] *= 100
    caption = "Point: share. Line: 95% bootstrap interval over videos. Number: count."
    axis = {"xlabel": "share of hard negatives (%, log scale above 0.1)", "text": "text"}
    figure = point_intervals(shown, "kind", "value", "direction", caption, **axis)
    figure.axes[0].set_xscale("symlog", linthresh=0.1)
    figure.axes[0].set(xlim=(-0.01, 300), xticks=[0, 0.1, 1, 10, 100])
    figure.axes[0].xaxis.set_major_formatter("{x:g}")
    return figure


def against_floor(table: pd.DataFrame) -> Figure:
    """Measured value and its floor per line on a log scale.

    Columns: line, unit (one for all), ours, low, high, n, floor, ratio; optional paper.
    """
    counts = zip(table["line"], table["n"], table["ratio"], strict=True)
    table = table.assign(row=[f"{line}\n(n = {n:.0f}, {r:.2g} x floor)" for line, n, r in counts])
    floor = table.assign(mark="floor", value=table["floor"], low=np.nan, high=np.nan, paper=np.nan)
    measured = table.assign(mark="measured here", value=table["ours"])
    shown = pd.concat([measured, floor], ignore_index=True)
    note = "Point: median of n calls. Line: quartiles. Floor: FLOPs / measured matmul ceiling."
    axis = {"xlabel": f"{table['unit'].iloc[0]} (log scale)", "xscale": "log"}
    figure = point_intervals(shown, "row", "value", "mark", note, **axis)
    ticks = figure.axes[0].xaxis
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ticks.set_major_formatter("{x:g}")
    ticks.set_minor_formatter(NullFormatter())
    return figure


def learning_curves(table: pd.DataFrame, panels: dict[str, str]) -> Figure:
    """Development metrics along training, a panel per metric of ``panels``, a line per variant.

    Columns: variant, seed, stage, step, metric, value. Stage II's steps follow Stage I's.
    """
    table = table[table["metric"].isin(panels)].copy()
    first = table.loc[table["stage"] == 1, "step"].max()
    table["at"] = table["step"] + first * (table["stage"] == 2)
    titles = {name: load_variants()[name].title for name in table["variant"].unique()}
    table["line"] = table["variant"].map(titles).where(table["stage"] == 2, "Stage I")
    lines = list(table.sort_values("stage", kind="stable")["line"].unique())
    aside = 4 * table["line"].map(lines.index) - 2 * len(lines)
    table["at"] += (table["stage"] - 1) * aside
    figure, grid = style.panels(11, 6, 2, 3, sharex=True)
    look = {"hue": "line", "hue_order": lines, "palette": style.colours(lines), "marker": "o"}
    look |= {"errorbar": lambda values: student_interval(values)[1:], "err_style": "bars"}
    for axes, (metric, name) in zip(grid.flat, panels.items(), strict=True):
        sns.lineplot(table[table["metric"] == metric], x="at", y="value", ax=axes, **look)
        axes.axvline(first, color=INK, linewidth=1, linestyle=":")
        axes.set(xlabel="optimiser step", ylabel="")
        axes.set_title(name, fontsize=10)
    for axes in grid.flat[1:]:
        axes.get_legend().remove()
    seeds = " or ".join(map(str, sorted(set(table.groupby("line")["seed"].nunique()))))
    note = f"Development clips. Point: mean over {seeds} seeds. Bar: 95% interval of Student's t."
    note += " Stage II's lines are set a few steps apart to be seen."
    return style.stamp(figure, note, grid[0, 0])


def mss_against_auc(table: pd.DataFrame) -> Figure:
    """MSS of every training against its AUCs, with the rank correlation.

    Columns: variant, seed, metric (MSS, video AUC, frame AUC ...), value.
    """
    wide = table.pivot_table(index=["variant", "seed"], columns="metric", values="value")
    wide = wide.reset_index()
    shown = {name: load_variants()[name].title for name in ("full", "global")}
    wide["title"] = wide["variant"].map(shown).fillna("other variants")
    names = ("video AUC", "frame AUC", "in-clip frame AUC")
    wide = wide.sort_values("title", ascending=False)  # the named ones on top
    order = list(wide["title"].unique())
    figure, panels = style.panels(11, 4, 1, len(names), sharex=True)
    look = {"hue": "title", "hue_order": order, "palette": style.colours(order)}
    look |= {"style": "title", "style_order": order, "markers": style.markers(order)}
    for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
        sns.scatterplot(wide, x="MSS", y=name, ax=axes, legend=not i, **look)
        value, low, high = rank_correlation(wide, "MSS", name)
        axes.set_title(f"Spearman {value:.2f} [{low:.2f}, {high:.2f}]", fontsize=10)
        axes.set(xlabel="MeanSignScore", ylabel=f"{name} (%)")
    note = "Point: one training, test clips. Interval: 95% bootstrap over variants."
    return style.stamp(figure, f"n = {len(wide)} trainings. {note}", panels[0])
