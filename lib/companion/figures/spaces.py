"""Figures of the embedding space: prompt similarities, gaps, projections (paper, Figures 1-2)."""

from textwrap import fill

import pandas as pd
import seaborn as sns

from companion.figures import style
from companion.figures.style import ABNORMAL, NORMAL, Figure, short_name

ANNOTATED = 20  # most cells per side that leave room for numbers


def prompt_similarity_matrix(table: pd.DataFrame) -> Figure:
    """Heat map of text similarities (Figure 2). Columns: row, column, cosine."""
    cosine = table.pivot(index="row", columns="column", values="cosine")
    cosine = cosine.loc[table["row"].unique().tolist(), table["column"].unique().tolist()]
    rows, columns = cosine.shape
    figure, axes = style.panels(4.6 + 0.48 * columns, 3.2 + 0.48 * rows)
    look = {"vmin": min(0.0, cosine.to_numpy().min()), "vmax": 1, "cmap": "cividis"}
    annotation = {"annot": max(rows, columns) <= ANNOTATED, "fmt": ".2f", "annot_kws": {"size": 9}}
    bar = {"label": "cosine similarity", "shrink": 0.6}
    sns.heatmap(cosine, square=True, cbar_kws=bar, ax=axes, **look, **annotation)
    axes.set(xlabel="", ylabel="")
    axes.set_yticklabels([fill(name, 34) for name in cosine.index], rotation=0)
    angle = {"rotation": 55, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticklabels([fill(name, 28) for name in cosine.columns], **angle)
    return figure


def batch_similarity(table: pd.DataFrame) -> Figure:
    """Heat maps of clips against captions, one panel per model.

    Columns: model, clip (number), caption (number), text (the clip's own caption), cosine.
    """
    models, size = table["model"].unique().tolist(), table["clip"].nunique()
    inches = 3.6 + 0.52 * size * len(models), 1.6 + 0.52 * size
    figure, [panels] = style.panels(*inches, 1, len(models), squeeze=False)
    texts = table.drop_duplicates("clip").set_index("clip")["text"]
    names = [fill(f"{clip}  {text}", 44) for clip, text in texts.items()]
    look = {"annot": True, "fmt": ".2f", "annot_kws": {"size": 9}, "cbar": False}
    look |= {"vmin": table["cosine"].min(), "vmax": table["cosine"].max()}
    for model, axes in zip(models, panels, strict=True):
        pairs = table[table["model"] == model]
        cosine = pairs.pivot(index="clip", columns="caption", values="cosine")
        sns.heatmap(cosine, cmap="cividis", square=True, ax=axes, **look)
        axes.set(xlabel="caption", ylabel="", title=model)
        axes.set_yticklabels(names if axes is panels[0] else texts.index, rotation=0)
    note = "Cosine of clip (row) and caption (column); its own on the diagonal."
    return style.stamp(figure, note)


def similarity_gap(table: pd.DataFrame) -> Figure:
    """S_N and S_A of each video joined by a line, with the signed gap beside it (Figure 1).

    Columns: key, class_name, normal, abnormal, gap; one row per video, drawn top to bottom.
    """
    y = range(len(table))
    figure, axes = style.panels(9, 1.5 + 0.36 * len(table))
    axes.hlines(y, table["normal"], table["abnormal"], color="#999999", linewidth=2, zorder=1)
    axes.scatter(table["normal"], y, color=NORMAL, marker="o", label="S_N, normal prompts")
    axes.scatter(table["abnormal"], y, color=ABNORMAL, marker="s", label="S_A, abnormal prompts")
    right = table[["normal", "abnormal"]].max(axis=1)
    for row, edge, gap in zip(y, right, table["gap"], strict=True):
        text = {"xytext": (9, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        axes.annotate(f"gap {gap:+.3f}", (edge, row), **text)
    pairs = zip(table["key"], table["class_name"], strict=True)
    axes.set_yticks(y, [f"{short_name(key)} ({name})" for key, name in pairs])
    axes.set(xlabel="mean cosine similarity", ylim=(len(table) - 0.4, -0.6))
    axes.margins(x=0.25)
    axes.grid(axis="y", visible=False)
    return style.stamp(figure, f"n = {len(table)} videos; gap = S_A - S_N.", axes)


def projection_panels(table: pd.DataFrame, method: str = "UMAP") -> Figure:
    """Scatter plot of a projection, one square panel per model or space; texts are stars.

    Columns: panel, x, y, group, text (1: a prompt or class, else 0). The axes have no unit.
    """
    panels, groups = table["panel"].unique().tolist(), table["group"].unique().tolist()
    square = {"squeeze": False, "subplot_kw": {"box_aspect": 1}}
    figure, [row] = style.panels(1.8 + 3.6 * len(panels), 4.6, 1, len(panels), **square)
    shared = {"hue": "group", "hue_order": groups, "palette": style.colours(groups)}
    points = {"style": "group", "style_order": groups, "markers": style.markers(groups)}
    points |= {"s": 16, "alpha": 0.7, "linewidth": 0}
    stars = {"marker": "*", "s": 90, "edgecolor": "white", "linewidth": 0.5}
    names = {"xlabel": f"{method} 1 (no unit)", "ylabel": f"{method} 2 (no unit)"}
    for i, (axes, panel) in enumerate(zip(row, panels, strict=True)):
        rows = table[table["panel"] == panel]
        texts = rows["text"] == 1
        sns.scatterplot(rows[~texts], x="x", y="y", ax=axes, legend=not i, **shared, **points)
        sns.scatterplot(rows[texts], x="x", y="y", ax=axes, legend=False, **shared, **stars)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(title=f"{panel} (n = {(~texts).sum()})", xticks=[], yticks=[], **names)
    return style.stamp(figure, "Stars: prompts or class texts, in their group's colour.", row[0])
