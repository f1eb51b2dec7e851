"""Figures of the embedding space: prompt similarities, gaps, projections (paper, Figures 1-2)."""

import pandas as pd

from companion.figures.style import (
    ABNORMAL,
    MARKERS,
    NORMAL,
    Figure,
    colours,
    headline,
    in_order,
    legend_outside,
    new_figure,
    require,
    styled,
    wrap,
)

ANNOTATED = 20  # cells per side up to which a number fits


@styled
def prompt_similarity_matrix(
    table: pd.DataFrame, title: str = "Cosine similarity between prompts", caption: str = ""
) -> Figure:
    """Heat map of text similarities (Figure 2). Columns: row, column, cosine."""
    require(table, ["row", "column", "cosine"], "prompt similarity matrix")
    rows, columns = in_order(table["row"]), in_order(table["column"])
    cosine = table.pivot(index="row", columns="column", values="cosine").loc[rows, columns]
    figure = new_figure(3.6 + 0.5 * len(columns), 3.2 + 0.42 * len(rows))
    axes = figure.subplots()
    low = min(0.0, float(cosine.to_numpy().min()))
    image = axes.imshow(cosine, cmap="cividis", vmin=low, vmax=1, aspect="auto")
    axes.set_xticks(
        range(len(columns)),
        [wrap(c, 28) for c in columns],
        rotation=50,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(rows)), [wrap(r, 34) for r in rows])
    axes.grid(visible=False)
    if max(len(rows), len(columns)) <= ANNOTATED:
        for (i, j), value in _cells(cosine):
            dark = value < (low + 1) / 2
            axes.text(
                j,
                i,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if dark else "black",
            )
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    headline(figure, title, caption)
    return figure


def _cells(frame: pd.DataFrame) -> list[tuple[tuple[int, int], float]]:
    values = frame.to_numpy()
    return [((i, j), values[i, j]) for i in range(len(values)) for j in range(values.shape[1])]


@styled
def similarity_gap(
    table: pd.DataFrame, title: str = "Similarity to normal and abnormal prompts", caption: str = ""
) -> Figure:
    """S_N and S_A per video, joined, with the signed gap written beside them (Figure 1).

    Columns: key, class_name, normal, abnormal, gap; rows are drawn top to bottom.
    """
    require(table, ["key", "class_name", "normal", "abnormal", "gap"], "similarity gap")
    figure = new_figure(9.5, 1.5 + 0.36 * len(table))
    axes = figure.subplots()
    y = range(len(table))
    axes.hlines(y, table["normal"], table["abnormal"], color="#999999", linewidth=2, zorder=1)
    axes.scatter(table["normal"], y, color=NORMAL, marker="o", label="S_N, normal prompts")
    axes.scatter(table["abnormal"], y, color=ABNORMAL, marker="s", label="S_A, abnormal prompts")
    right = table[["normal", "abnormal"]].max(axis=1)
    for place, edge, gap in zip(y, right, table["gap"], strict=True):
        axes.annotate(
            f"gap {gap:+.3f}",
            (edge, place),
            xytext=(9, 0),
            fontsize=9,
            va="center",
            textcoords="offset points",
        )
    pairs = zip(table["key"], table["class_name"], strict=True)
    labels = [f"{key} ({name})" for key, name in pairs]
    axes.set_yticks(y, [wrap(label, 42) for label in labels])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.margins(x=0.25)
    axes.set_xlabel("mean cosine similarity")
    axes.grid(axis="y", visible=False)
    legend_outside(figure, axes)
    headline(figure, title, caption or f"n = {len(table)} videos; gap = S_A - S_N.")
    return figure


@styled
def projection_panels(
    table: pd.DataFrame, title: str = "", caption: str = "", method: str = "UMAP"
) -> Figure:
    """Scatter of a projection in panels side by side, such as before and after tuning.

    Columns: panel, x, y, group. The axes of UMAP and t-SNE have no unit and panels share none.
    """
    require(table, ["panel", "x", "y", "group"], f"{method} panels")
    panels, groups = in_order(table["panel"]), in_order(table["group"])
    figure = new_figure(1.4 + 4 * len(panels), 4.6)
    palette = colours(groups)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, group in enumerate(groups):
            part = table[(table["panel"] == panel) & (table["group"] == group)]
            axes.scatter(
                part["x"],
                part["y"],
                s=14,
                alpha=0.55,
                label=group,
                linewidths=0,
                color=palette[group],
                marker=MARKERS[i % len(MARKERS)],
            )
        axes.set_title(f"{panel} (n = {(table['panel'] == panel).sum()})")
        axes.set(
            xlabel=f"{method} 1 (no unit)", ylabel=f"{method} 2 (no unit)", xticks=[], yticks=[]
        )
    legend_outside(figure, axes)
    headline(figure, title, caption)
    return figure
