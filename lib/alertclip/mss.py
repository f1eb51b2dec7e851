"""MeanSignScore and the entanglement of CLIP's text space (Alert-CLIP paper, Figures 1-2, Table 1).

Similarities are cosines in [-1, 1]. Intervals are percentile bootstraps that resample videos.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from alertclip.errors import InputError

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(values (B, ...), weights (n_boot, B)) -> (n_boot,): a statistic of weighted samples."""

BLOCK = 4_000_000  # weights held at once: a bootstrap then needs about 200 MB


class Interval(NamedTuple):
    """A statistic, its 95% percentile bootstrap interval, and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int


def set_similarities(embedding: np.ndarray, normal: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """S_N and S_A of the Alert-CLIP paper: mean cosine of each embedding to P_N and to P_A.

    embedding (..., D), normal (C_N, D), abnormal (C_A, D), all unit length -> (..., 2).
    """
    means = np.stack([normal.mean(axis=0), abnormal.mean(axis=0)])  # (2, D)
    return embedding @ means.T


def signed_score(similarities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """SS(x) of the Alert-CLIP paper: S_A - S_N if x is abnormal, S_N - S_A if it is normal.

    similarities (B, 2) holds S_N, S_A; labels (B,) is 1 where abnormal -> (B,) in [-2, 2].
    """
    similarities, labels = _checked(similarities, labels)
    return np.where(labels, 1.0, -1.0) * (similarities[:, 1] - similarities[:, 0])


def mean_sign_score(similarities: np.ndarray, labels: np.ndarray) -> float:
    """MSS of the paper: the mean of SS(x) over the videos. Swapping labels negates it."""
    return float(signed_score(similarities, labels).mean())


def mss_table(
    similarities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    n_boot: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """MSS per class and over all videos ("all", first row).

    Columns: class_name, n, mss, low, high, right_signed (share of videos with SS > 0).
    ``groups`` names what is resampled together, such as the clips of one video.
    """
    scores = signed_score(similarities, labels)
    names, groups = _column(classes, scores, "classes"), _group_ids(groups, len(scores))
    rows = []
    for name in ["all", *sorted(set(names))]:
        chosen = np.ones(len(names), bool) if name == "all" else names == name
        interval = bootstrap_interval(scores[chosen], mean, n_boot, seed, groups[chosen])
        rows.append(_mss_row(name, interval, scores[chosen]))
    return pd.DataFrame(rows)


def _mss_row(name: str, interval: Interval, scores: np.ndarray) -> dict[str, object]:
    return {
        "class_name": name,
        "n": interval.n,
        "mss": interval.value,
        "low": interval.low,
        "high": interval.high,
        "right_signed": float((scores > 0).mean()),
    }


def gap_table(
    similarities: np.ndarray, labels: np.ndarray, classes: Sequence[str], keys: Sequence[str]
) -> pd.DataFrame:
    """Figure 1 as a table: S_N, S_A and their gap S_A - S_N per video.

    Columns: key, class_name, label, normal, abnormal, gap.
    """
    similarities, labels = _checked(similarities, labels)
    normal, abnormal = similarities.T
    return pd.DataFrame(
        {
            "key": list(keys),
            "class_name": list(classes),
            "label": labels.astype(int),
            "normal": normal,
            "abnormal": abnormal,
            "gap": abnormal - normal,
        }
    )


def text_similarity_matrix(text: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Figure 2 as a tidy table: cosine between every two prompts.

    text (C, D) unit length -> columns row, column, cosine; C * C rows in prompt order.
    """
    cosine = text @ text.T  # (C, C)
    names = list(names)
    if len(names) != len(text):
        raise InputError(f"{len(names)} prompt names for {len(text)} prompts: give one name each")
    return pd.DataFrame(
        {
            "row": np.repeat(names, len(names)),
            "column": names * len(names),
            "cosine": cosine.ravel(),
        }
    )


def text_entanglement(normal: np.ndarray, abnormal: np.ndarray) -> float:
    """Mean cosine between P_N and P_A; Figure 2 shows about .7 for CLIP. (C_N, D), (C_A, D)."""
    return float((normal @ abnormal.T).mean())


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean: values (B,), weights (n_boot, B) -> (n_boot,)."""
    return weights @ values / weights.sum(axis=1)


def ratio(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ratio of weighted sums: values (B, 2) above and below, weights (n_boot, B) -> (n_boot,)."""
    above, below = (weights @ values).T
    return above / below


def bootstrap_interval(
    values: np.ndarray,
    statistic: Statistic = mean,
    n_boot: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Interval:
    """A statistic with its 95% percentile interval, resampling groups (default: each value).

    values (B, ...). Resamples on which the statistic is undefined (nan) do not count.
    """
    ids = _group_ids(groups, len(values))
    draws = _draws(values, statistic, ids, n_boot, seed)
    value = float(statistic(values, np.ones((1, len(values))))[0])
    return Interval(value, *percentiles(draws), n=len(values))


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


def project_2d(embedding: np.ndarray, seed: int = 0, neighbours: int = 15) -> np.ndarray:
    """UMAP of unit vectors by cosine: (M, D) -> (M, 2). Fixed seed, one thread: repeatable."""
    if len(embedding) < 5:
        raise InputError(f"UMAP of {len(embedding)} points: give at least 5")
    from umap import UMAP  # imports numba, which takes seconds

    neighbours = min(neighbours, len(embedding) - 2)
    # The spectral start needs many more points than dimensions; PCA serves any number.
    reducer = UMAP(n_neighbors=neighbours, metric="cosine", init="pca", random_state=seed, n_jobs=1)
    return reducer.fit_transform(np.asarray(embedding, np.float32))


def _draws(
    values: np.ndarray, statistic: Statistic, ids: np.ndarray, n_boot: int, seed: int
) -> np.ndarray:
    rng, n_groups, block = np.random.default_rng(seed), ids.max() + 1, max(1, BLOCK // len(ids))
    draws = []
    for start in range(0, n_boot, block):
        size = min(block, n_boot - start)
        counts = _counts(rng, n_groups, size)
        draws.append(statistic(values, counts[:, ids].astype(float)))
    return np.concatenate(draws)


def resampled_counts(n_groups: int, n_boot: int, seed: int) -> np.ndarray:
    """How often each group is drawn in each resample: (n_boot, n_groups)."""
    return _counts(np.random.default_rng(seed), n_groups, n_boot)


def _counts(rng: np.random.Generator, n_groups: int, size: int) -> np.ndarray:
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=size)


def percentiles(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5% and 97.5% percentiles of the draws that are defined (not nan)."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _group_ids(groups: Sequence[str] | np.ndarray | None, n: int) -> np.ndarray:
    if not n:
        raise InputError("no items to average: the selection is empty")
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise InputError(f"{len(groups)} groups for {n} items: give one each")
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _column(values: Sequence[str], like: np.ndarray, name: str) -> np.ndarray:
    if len(values) != len(like):
        raise InputError(f"{len(values)} {name} for {len(like)} videos: give one each")
    return np.asarray(values, dtype=object)


def _checked(similarities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similarities, labels = np.asarray(similarities, float), np.asarray(labels).astype(bool)
    if similarities.shape != (len(labels), 2):
        raise InputError(
            f"similarities of shape {similarities.shape} for {len(labels)} labels: give one row"
            " (S_N, S_A) per video"
        )
    if not len(labels):
        raise InputError("MSS of no videos: the selection is empty")
    if not np.isfinite(similarities).all():
        raise InputError(f"video {int((~np.isfinite(similarities)).any(1).argmax())}: not finite")
    return similarities, labels
