"""Percentile bootstrap intervals of a mean, ratio or other statistic, resampling whole videos."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from media.errors import InputError

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(values (B, ...), weights (n_boot, B)) -> (n_boot,): a statistic of weighted samples."""

BLOCK = 4_000_000  # weights held at once, which limits a bootstrap to about 200 MB


class Interval(NamedTuple):
    """A statistic, its 95 % percentile bootstrap interval, and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean: values (B,), weights (n_boot, B) -> (n_boot,)."""
    return weights @ values / weights.sum(axis=1)


def ratio(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ratio of weighted sums of the columns of values (B, 2), weights (n_boot, B) -> (n_boot,)."""
    numerator, denominator = (weights @ values).T
    return numerator / denominator


def bootstrap_interval(
    values: np.ndarray,
    statistic: Statistic = mean,
    n_boot: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Interval:
    """A statistic of values (B, ...) with its interval, resampling groups (default: each value).

    Resamples on which the statistic is NaN are ignored. Raises InputError without values.
    """
    if not len(values):
        raise InputError("no items to average: the selection is empty")
    ids = np.arange(len(values))
    if groups is not None:
        ids = np.unique(np.asarray(groups), return_inverse=True)[1]
    rng, block = np.random.default_rng(seed), max(1, BLOCK // len(ids))
    draws = []
    for start in range(0, n_boot, block):
        counts = resampled_counts(ids.max() + 1, min(block, n_boot - start), rng)
        draws.append(statistic(values, counts[:, ids].astype(float)))
    value = float(statistic(values, np.ones((1, len(values))))[0])
    return Interval(value, *percentiles(np.concatenate(draws)), n=len(values))


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    statistic: Statistic = mean,
    n_boot: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Interval:
    """statistic(b) - statistic(a) with an interval; both see the same resampled videos.

    a, b (B, ...) are aligned by video: SS(x) for MSS, or scores with an AUC statistic.
    """
    if len(a) != len(b):
        raise InputError(f"paired difference of {len(a)} and {len(b)} items: align them by video")

    def difference(pair: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return statistic(pair[:, 1], weights) - statistic(pair[:, 0], weights)

    return bootstrap_interval(np.stack([a, b], axis=1), difference, n_boot, seed, groups)


def resampled_counts(n_groups: int, n_boot: int, seed: int | np.random.Generator) -> np.ndarray:
    """How often each group is drawn in each resample: (n_boot, n_groups)."""
    rng = np.random.default_rng(seed)  # returns a generator unchanged
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_boot)


def percentiles(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % percentiles of the draws that are not NaN."""
    if not len(defined := draws[~np.isnan(draws)]):
        return float("nan"), float("nan")
    return tuple(np.percentile(defined, [2.5, 97.5]).tolist())
