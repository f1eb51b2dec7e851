"""The anomaly score of one video over time, with key frames."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from companion.figures.images import show_frame
from companion.figures.style import ABNORMAL, NORMAL, Figure, headline, new_figure, styled, wrap


@styled
def anomaly_curve(
    table: pd.DataFrame,
    key_frames: Sequence[np.ndarray] = (),
    key_times: Sequence[float] = (),
    attention: Sequence[np.ndarray] = (),
    spans: Sequence[tuple[float, float]] = (),
    title: str = "",
    caption: str = "",
    key_captions: Sequence[str] = (),
) -> Figure:
    """Anomaly score over time, ground truth shaded, key frames and attention below the curve.

    Columns: time_s, score (0 to 1). key_frames (H, W, 3) uint8 at key_times (s); attention (h, w)
    maps of the same frames; spans are ground truth in seconds; key_captions one line per frame.
    """
    rows = bool(len(key_frames)) + bool(len(attention))
    figure = new_figure(9, 3.2 + 2.0 * rows)
    heights = [1.5] + [1.0] * rows
    grid = figure.add_gridspec(1 + rows, max(1, len(key_frames)), height_ratios=heights)
    axes = figure.add_subplot(grid[0, :])
    _curve(axes, table, spans)
    for i, (frame, time) in enumerate(zip(key_frames, key_times, strict=True)):
        axes.axvline(time, color="black", linewidth=0.9, linestyle="--")
        axes.annotate(
            "ABCDEFGH"[i % 8],
            (time, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            weight="bold",
            annotation_clip=False,
        )
        name = f"{'ABCDEFGH'[i % 8]}  {time:.1f} s"
        text = wrap(key_captions[i], 26) if len(key_captions) else ""
        show_frame(figure.add_subplot(grid[1, i]), frame, name)
        if len(attention):
            last = figure.add_subplot(grid[2, i])
            show_frame(last, frame, "attention", attention[i])
        if text:
            figure.axes[-1].set_xlabel(text, fontsize=9)
    headline(figure, title, caption)
    return figure


def _curve(axes: Axes, table: pd.DataFrame, spans: Sequence[tuple[float, float]]) -> None:
    axes.plot(
        table["time_s"], table["score"], color=NORMAL, drawstyle="steps-post", label="anomaly score"
    )
    for i, (start, end) in enumerate(spans):
        axes.axvspan(
            start,
            end,
            color=ABNORMAL,
            alpha=0.2,
            linewidth=0,
            label="ground truth" if i == 0 else None,
        )
    axes.set(xlabel="time (s)", ylabel="anomaly score (0 to 1)", ylim=(-0.02, 1.02))
    last = float(table["time_s"].max())
    axes.set_xlim(0, max(last * 1.02, 1e-3))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.1), ncols=2, borderaxespad=0)
