"""Ablation tables: every variant over seeds, paired with the reference of its group."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from scipy.stats import t as student

from companion.profiles import Params
from companion.tuned_models import STAGES
from companion.variants import load_variants

NUMBERS = ("value", "low", "high", "change", "change_low", "change_high")


def ablation_table(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric of every variant and its paired difference from the group's reference, over seeds.

    ``table`` is tidy: variant, seed, metric, value, and optionally processor and weights (hash); a
    variant is paired with its reference on the same processor, a detector on features of equal
    weights, and a seed counts by the mean of its pairs. Columns group, title, metric, value,
    change, low, high (of the change), seeds, reference. The 95% interval is Student's t over the
    seeds' differences; nan with one seed.
    """
    rows = pd.DataFrame(_rows(table, metric)).drop(columns=["variant", "low", "high"])
    return rows.rename(columns={"change_low": "low", "change_high": "high"})


def results_table(P: Params, table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant and metric of ``table``, for the ledger.

    Columns group, title, variant, backbone (of a detector's features; empty where the variant is a
    backbone), metric, value, low, high (of the value), change, change_low, change_high, seeds,
    reference. Intervals are Student's t over the seeds that the variant shares with its reference.
    Without a reference the changes are nan.
    """
    rows = pd.DataFrame(row for metric in table["metric"].unique() for row in _rows(table, metric))
    tuned = [load_variants()[name].kind == "alertclip" for name in rows["variant"]]
    rows.insert(3, "backbone", np.where(tuned, "", STAGES[P.ablation.backbone]))
    return rows


def verdict(table: pd.DataFrame) -> str:
    """Summary of one group's ``ablation_table`` in Markdown sentences with its numbers."""
    if not table["reference"].any():
        return f"{', '.join(table['title'])}: without its reference there is nothing to compare."
    reference, rows = table[table["reference"]].iloc[0], table[~table["reference"]]
    head = f"**{reference['title']}** reaches a {reference['metric']} of {reference['value']:.1f}."
    if table["seeds"].max() < 2:
        changes = "; ".join(f"{r.title} {r.change:+.1f}" for r in rows.itertuples())
        return f"{head} Change in points: {changes}. One seed gives no interval: it may be chance."
    worse, better = rows[rows["high"] < 0], rows[rows["low"] > 0]
    return (
        f"{head} Worse: **{len(worse)} of {len(rows)} variants**{_listed(worse)}."
        f" Better: **{len(better)}**{_listed(better)}."
        f" For the other {len(rows) - len(worse) - len(better)} the interval contains zero."
    )


def _listed(rows: pd.DataFrame) -> str:
    """The rows' changes with their intervals in brackets, the largest first."""
    rows = rows.sort_values("change", key=abs, ascending=False)
    each = [f"{r.title} {r.change:+.1f} [{r.low:.1f}, {r.high:.1f}]" for r in rows.itertuples()]
    return f" ({'; '.join(each)})" if each else ""


def rank_correlation(
    wide: pd.DataFrame, x: str, y: str, n_boot: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's correlation of two metrics over trainings, and its 95% bootstrap interval.

    ``wide``: a row per training, with its variant. Variants are resampled: their seeds correlate.
    """
    variants = [rows[[x, y]].to_numpy() for _, rows in wide.groupby("variant")]
    draws = np.random.default_rng(seed).integers(len(variants), size=(n_boot, len(variants)))
    samples = [spearmanr(*np.concatenate([variants[i] for i in draw]).T)[0] for draw in draws]
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return spearmanr(wide[x], wide[y])[0], low, high


def student_table(values: pd.Series, name: str) -> pd.DataFrame:
    """Mean and ``student_interval`` over the seeds, for each other level of the index of values.

    Columns: these other levels, ``name``, low, high, seeds.
    """
    by = [level for level in values.index.names if level != "seed"]
    groups = values.dropna().groupby(level=by, sort=False)
    rows = [(*at, *student_interval(part), len(part)) for at, part in groups]
    return pd.DataFrame(rows, columns=[*by, name, "low", "high", "seeds"])


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """``student_table`` of a table of models: columns measure, model, value, low, high, seeds.

    A seed that was trained on several processors counts once, by its mean.
    """
    values = table.groupby(["measure", "model", "seed"], sort=False)["value"].mean()
    return student_table(values, "value")


def student_interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean over seeds and its 95% interval (Student's t); nan bounds from fewer than two seeds."""
    half = student.ppf(0.975, len(values) - 1) * values.sem()  # nan with one seed
    return values.mean(), values.mean() - half, values.mean() + half


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Full minus global alone at each step of Stage II of the learning curves, paired by seed.

    Columns step, metric, change, low, high (95%, Student's t), seeds.
    """
    wide = table[table["stage"] == 2].pivot_table(
        index=["metric", "step", "seed"], columns="variant", values="value", sort=False
    )
    return student_table(wide["full"] - wide["global"], "change")


def first_gain(table: pd.DataFrame) -> int | None:
    """First step at which Full beats global in video and in frame AUC (the schedule's rule).

    Beats: the 95% interval of the paired difference over seeds lies above zero.
    """
    changes = gains(table).query("metric in ('video AUC', 'frame AUC')")
    clear = changes.assign(clear=changes["low"] > 0).groupby("step")["clear"].all()
    return int(clear.idxmax()) if clear.any() else None


def _rows(table: pd.DataFrame, metric: str) -> Iterator[dict[str, Any]]:
    """A row per variant that has the metric, in the order of params/ablations.yaml."""
    variants = load_variants()
    table = table[table["metric"] == metric]
    tuned = [variants[name].kind == "alertclip" for name in table["variant"]]
    weights = table.get("weights", pd.Series("", table.index)).mask(tuned, "")
    table = table.assign(on=weights, processor=table.get("processor", ""))
    wide = table.pivot(index=["seed", "on", "processor"], columns="variant", values="value")
    for name in (name for name in variants if name in wide):
        group, title = variants[name].group, variants[name].title
        references = (n for n in wide if variants[n].group == group and variants[n].reference)
        reference = next(references, "")
        changes = wide[name] - wide.get(reference, np.nan)
        pairs = pd.DataFrame({"value": wide[name], "change": changes})
        pairs = pairs.dropna(subset=["change" if reference else "value"]).groupby("seed").mean()
        numbers = *student_interval(pairs["value"]), *student_interval(pairs["change"])
        row = {"group": group, "title": title, "variant": name, "metric": metric}
        row |= zip(NUMBERS, numbers, strict=True)
        yield row | {"seeds": len(pairs), "reference": name == reference}
