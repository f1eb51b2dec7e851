"""Curves over the levels of a degradation, from the table of ``measure``, with intervals."""

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.intervals import Statistic, bootstrap_interval, mean, ratio
from companion.degradation import DEGRADATIONS
from companion.failures.measurement import MAPS
from companion.figures.style import committed
from companion.profiles import Params
from detectors.frame_metrics import auc_statistic

CURVES = ("lift", "hits", "margin", "video AUC")
FIGURES = {
    "relevance": ("lift", "relevance"),
    "rollout": ("lift", "rollout"),
    "pointing": ("hits", "relevance"),
    "margin": ("margin", ""),
    "auc": ("video AUC", ""),
}
"""The figures of notebook 08: name -> the measure and the map of ``curves``."""


def all_curves(P: Params, table: pd.DataFrame) -> pd.DataFrame:
    """``curves`` of every figure, named in column figure."""
    made = [curves(P, table, *how).assign(figure=name) for name, how in FIGURES.items()]
    return pd.concat(made, ignore_index=True)


def reference_curves(name: str) -> pd.DataFrame:
    """The committed curves of a figure, of many clips of the mini world."""
    table = committed("failures_reference").query("figure == @name")
    return table.drop(columns="figure").dropna(axis="columns", how="all")


def curves(P: Params, table: pd.DataFrame, what: str, of: str = "") -> pd.DataFrame:
    """One measure along the levels: columns kind, title, unit, step, level, model, value, low,
    high, n.

    ``what``: "lift", the mass of map ``of`` inside the box over the area of the box (1 = no more
    than the area's share; a ratio of means over videos); "hits" of map ``of`` in per cent, with
    column chance; "margin", the mean of the abnormal clips, and of the normal ones (column of);
    "video AUC" in per cent. Intervals: 95% bootstrap over videos.
    """
    if what not in CURVES or (what in CURVES[:2] and of not in MAPS):
        raise InputError(f"curve {what} of {of!r}: choose from {CURVES} and, for maps, {MAPS}")
    if what == "margin":
        classes = {1: "abnormal clips", 0: "normal clips"}
        parts = [(table[table["label"] == label], name) for label, name in classes.items()]
        return pd.concat([_curve(P, part, what, of).assign(of=name) for part, name in parts])
    located = table if what == "video AUC" else table[table["area"].notna()]
    return _curve(P, located, what, of)


def _curve(P: Params, table: pd.DataFrame, what: str, of: str) -> pd.DataFrame:
    rows, names = [], ["kind", "step", "level", "model"]
    for place, part in table.groupby(names, sort=False):
        values, statistic, scale = _statistic(part, what, of)
        interval = bootstrap_interval(
            values, statistic, P.evaluation.bootstrap_samples, P.seed, part["video"].tolist()
        )
        value, low, high = (scale * number for number in interval[:3])
        row = dict(zip(names, place, strict=True)) | {"value": value, "low": low, "high": high}
        how = DEGRADATIONS[row["kind"]]
        row |= {"title": how.title, "unit": how.unit}
        if what == "lift":  # a map that is even over the picture, without the ground around it
            row["chance"] = row["level"] ** -2 if row["kind"] == "actor size" else 1.0
        if what == "hits":
            row["chance"] = 100 * part["reach"].mean()
        rows.append(row | {"n": interval.n})
    return pd.DataFrame(rows)


def _statistic(part: pd.DataFrame, what: str, of: str) -> tuple[np.ndarray, Statistic, float]:
    if what == "lift":
        return part[[f"mass_{of}", "area"]].to_numpy(), ratio, 1
    if what == "hits":
        return part[f"hits_{of}"].to_numpy(), mean, 100
    margins = part["margin"].to_numpy()
    if what == "margin":
        return margins, mean, 1
    return margins, auc_statistic(part["label"].to_numpy()), 100
