"""Figures of many trainings: curves over seeds, and MSS against detection."""

import pandas as pd
import seaborn as sns

from companion.ablation_tables import rank_correlation, student_interval
from companion.figures import style
from companion.figures.style import INK, Figure
from companion.variants import load_variants

POINTS = {  # metrics of the curves: title of the panel
    "video AUC": "video AUC (%)",
    "frame AUC": "frame AUC (%)",
    "in-clip frame AUC": "in-clip frame AUC (%)",
    "MSS": "MeanSignScore",
    "stills, colour of 10: accuracy": "colour told on stills (%)",
    "stills, object of 6: accuracy": "object told on stills (%)",
}


@style.styled
def learning_curves(table: pd.DataFrame, title: str = "Stage I, then Stage II") -> Figure:
    """Development metrics along training, a panel per metric, a line per variant.

    Columns: variant, seed, stage, step, metric, value. Stage II's steps follow Stage I's.
    """
    table = table[table["metric"].isin(POINTS)].copy()
    first = table.loc[table["stage"] == 1, "step"].max()
    table["at"] = table["step"] + first * (table["stage"] == 2)
    titles = {name: load_variants()[name].title for name in table["variant"].unique()}
    table["line"] = table["variant"].map(titles).where(table["stage"] == 2, "Stage I")
    lines = list(table.sort_values("stage", kind="stable")["line"].unique())
    figure = style.new_figure(11, 6)
    panels = figure.subplots(2, 3, sharex=True).ravel()
    look = {"hue": "line", "hue_order": lines, "palette": style.colours(lines), "marker": "o"}
    look |= {"errorbar": lambda values: student_interval(values)[1:], "err_style": "bars"}
    for axes, (metric, name) in zip(panels, POINTS.items(), strict=True):
        sns.lineplot(table[table["metric"] == metric], x="at", y="value", ax=axes, **look)
        axes.axvline(first, color=INK, linewidth=1, linestyle=":")
        axes.set(xlabel="optimiser step", ylabel="")
        axes.set_title(name, fontsize=10)
    style.legend_outside(figure, panels[0])
    for axes in panels[1:]:
        axes.get_legend().remove()
    counts = table.groupby("line", sort=False)["seed"].nunique()
    seeds = ", ".join(f"{line}: {n}" for line, n in counts.items())
    note = f"Development clips. Point: mean over seeds ({seeds}). Bar: 95% interval of Student's t."
    return style.headline(figure, title, note)


@style.styled
def mss_against_auc(
    table: pd.DataFrame, title: str = "Does MSS tell which model detects?"
) -> Figure:
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
    figure = style.new_figure(11, 4)
    panels = figure.subplots(1, len(names), sharex=True)
    look = {"hue": "title", "hue_order": order, "palette": style.colours(order)}
    look |= {"style": "title", "style_order": order, "markers": style.markers(order)}
    for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
        sns.scatterplot(wide, x="MSS", y=name, ax=axes, legend=not i, **look)
        value, low, high = rank_correlation(wide, "MSS", name)
        axes.set_title(f"Spearman {value:.2f} [{low:.2f}, {high:.2f}]", fontsize=10)
        axes.set(xlabel="MeanSignScore", ylabel=f"{name} (%)")
    style.legend_outside(figure, panels[0])
    note = "Point: one training, test clips. Interval: 95% bootstrap over variants."
    return style.headline(figure, title, f"n = {len(wide)} trainings. {note}")
