"""Figures of question answering: kept patches, accuracy by their share, intervals over footage."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from companion.figures.images import show_frame
from companion.figures.result_figures import auc_comparison
from companion.figures.style import (
    ABNORMAL,
    INK,
    MARKERS,
    Figure,
    colours,
    headline,
    in_order,
    legend_outside,
    new_figure,
    require,
    styled,
)
from detectors.event_annotations import mask_runs

DIMMED = 0.25  # brightness of what is not kept
CHANCE = 25.0  # per cent, of four options
WILSON = "Point: share of right answers. Line: 95% Wilson interval over n videos."


def answer_accuracy(table: pd.DataFrame, title: str = "Answers by similarity") -> Figure:
    """Accuracy of each answerer on each kind of question, with the level of guessing.

    Columns: setting, model, value, low, high (per cent), n; optional paper.
    """
    return auc_comparison(table, title, WILSON, CHANCE, "accuracy")


def interval_overlap(
    table: pd.DataFrame, title: str = "The classifier's interval against the event"
) -> Figure:
    """Overlap of intervals with events; columns as in ``answer_accuracy``."""
    return auc_comparison(table, title, chance=None, unit="IoU, or share of videos")


@styled
def kept_patches(
    frames: Sequence[np.ndarray], kept: np.ndarray, table: pd.DataFrame, title: str = ""
) -> Figure:
    """Frames in order, patches that are not kept darkened below them.

    frames (H, W, 3) uint8; kept (T, h, w) bool. Columns: time_s, share (of patches, per cent), one
    row per frame.
    """
    require(table, ["time_s", "share"], "kept patches")
    figure = new_figure(1.8 * len(frames), 4.4)
    panels = figure.subplots(2, len(frames), squeeze=False)
    for i, (frame, mask, row) in enumerate(zip(frames, kept, table.itertuples(), strict=True)):
        show_frame(panels[0, i], frame, f"{row.time_s:.2f} s")
        show_frame(panels[1, i], _dimmed(frame, mask), f"{row.share:.0f} % kept")
    note = "Dark: patches left out. The first frame has none before it and is kept whole."
    headline(figure, title, f"{note} n = {len(frames)} frames of one video.")
    return figure


def _dimmed(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    light = np.where(mask[rows][:, columns], 1.0, DIMMED)
    return (frame * light[..., None]).astype(np.uint8)


@styled
def accuracy_by_share(table: pd.DataFrame, title: str = "Full on the kept patches alone") -> Figure:
    """Accuracy over the share of patches kept, one panel per setting, one line per rule.

    Columns: setting, rule, share, value, low, high (per cent), n.
    """
    require(table, ["setting", "rule", "share", "value", "low", "high", "n"], "accuracy by share")
    settings, rules = in_order(table["setting"]), in_order(table["rule"])
    figure = new_figure(10, 3.8)
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    palette, gap = colours(rules), 1.5
    for axes, setting in zip(panels, settings, strict=True):
        part = table[table["setting"] == setting]
        for i, rule in enumerate(rules):
            rows = part[part["rule"] == rule].sort_values("share")
            x = rows["share"] + gap * (i - (len(rules) - 1) / 2)
            axes.vlines(x, rows["low"], rows["high"], color=palette[rule], alpha=0.6)
            marker = f"{MARKERS[i]}-"
            axes.plot(x, rows["value"], marker, color=palette[rule], label=rule)
        axes.axhline(CHANCE, color=INK, linewidth=1, linestyle=":", label="chance")
        axes.set(xlabel="patches kept (%)", ylim=(0, 100))
        axes.set_title(f"{setting} (n = {part['n'].max()})")
    panels[0].set_ylabel("accuracy (%)")
    legend_outside(figure, panels[-1])
    headline(figure, title, WILSON)
    return figure


@styled
def interval_curves(
    table: pd.DataFrame, title: str = "Where the classifier sees the anomaly"
) -> Figure:
    """Frame probabilities over footage, one panel each: truth shaded, the chosen interval barred.

    Columns: video, time_s, model, score (0 to 1), truth and picked (0 or 1).
    """
    names = ["video", "time_s", "model", "score", "truth", "picked"]
    require(table, names, "interval curves")
    videos, models = in_order(table["video"]), in_order(table["model"])
    palette = colours(models)
    figure = new_figure(9, 0.9 + 1.7 * len(videos))
    panels = figure.subplots(len(videos), 1, sharex=True, squeeze=False)[:, 0]
    for axes, video in zip(panels, videos, strict=True):
        rows = table[table["video"] == video]
        shade = rows[rows["model"] == models[0]]
        look = {"step": "post", "alpha": 0.2, "linewidth": 0, "color": ABNORMAL}
        axes.fill_between(shade["time_s"], shade["truth"], label="annotated event", **look)
        for i, model in enumerate(models):
            part = rows[rows["model"] == model]
            axes.step(part["time_s"], part["score"], "-", where="post", color=palette[model])
            step = part["time_s"].diff().median()
            runs = mask_runs(part["picked"].to_numpy()) * step
            bar = {"linewidth": 4, "color": palette[model], "label": model}
            axes.hlines(np.full(len(runs), 1.08 + 0.1 * i), runs[:, 0], runs[:, 1], **bar)
        axes.set(ylim=(-0.02, 1.1 + 0.1 * len(models)), ylabel="P(abnormal)")
        axes.set_yticks([0, 0.5, 1])
        axes.set_title(video, fontsize=9, loc="left", weight="normal")
    panels[-1].set_xlabel("time (s)")
    legend_outside(figure, panels[-1])
    headline(figure, title, f"Bar: the interval chosen from the curve. n = {len(videos)} videos.")
    return figure
