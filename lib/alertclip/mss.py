"""MeanSignScore and the entanglement of CLIP's text space (Alert-CLIP paper, Figures 1-2, Table 1).

Similarities are cosines in [-1, 1].
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.intervals import bootstrap_interval


def set_similarities(embedding: np.ndarray, normal: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """S_N and S_A of the paper: mean cosine of each embedding to P_N and to P_A.

    embedding (..., D), normal (C_N, D), abnormal (C_A, D), all unit length -> (..., 2).
    """
    means = np.stack([normal.mean(axis=0), abnormal.mean(axis=0)])  # (2, D)
    return embedding @ means.T


def signed_score(similarities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """SS(x) of the paper: S_A - S_N if x is abnormal, S_N - S_A if it is normal.

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
    """MSS over all videos ("all", first row) and per class.

    Columns: class_name, n, mss, low, high, right_signed (share of videos with SS > 0).
    ``groups`` names what is resampled together, such as the clips of one video.
    """
    scores, names = signed_score(similarities, labels), np.asarray(classes, dtype=object)
    if len(names) != len(scores):
        raise InputError(f"{len(names)} classes for {len(scores)} videos: give one each")
    groups = np.arange(len(scores)) if groups is None else np.asarray(groups)
    rows = []
    for name in ["all", *sorted(set(names))]:
        chosen = np.ones(len(names), bool) if name == "all" else names == name
        found = bootstrap_interval(scores[chosen], n_boot=n_boot, seed=seed, groups=groups[chosen])
        right = float((scores[chosen] > 0).mean())
        rows.append((name, found.n, found.value, found.low, found.high, right))
    return pd.DataFrame(rows, columns=["class_name", "n", "mss", "low", "high", "right_signed"])


def gap_table(
    similarities: np.ndarray, labels: np.ndarray, classes: Sequence[str], keys: Sequence[str]
) -> pd.DataFrame:
    """Figure 1 as a table: S_N, S_A and their gap S_A - S_N per video.

    Columns: key, class_name, label, normal, abnormal, gap.
    """
    similarities, labels = _checked(similarities, labels)
    columns = {"key": list(keys), "class_name": list(classes), "label": labels.astype(int)}
    table = pd.DataFrame(columns | {"normal": similarities[:, 0], "abnormal": similarities[:, 1]})
    return table.assign(gap=table["abnormal"] - table["normal"])


def text_similarity_matrix(text: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Figure 2 as a tidy table: cosine between every two prompts.

    text (C, D) unit length -> columns row, column, cosine; C * C rows in prompt order.
    """
    names = list(names)
    if len(names) != len(text):
        raise InputError(f"{len(names)} prompt names for {len(text)} prompts: give one name each")
    row, column = np.repeat(names, len(names)), names * len(names)
    return pd.DataFrame({"row": row, "column": column, "cosine": (text @ text.T).ravel()})


def text_entanglement(normal: np.ndarray, abnormal: np.ndarray) -> float:
    """Mean cosine between P_N and P_A; Figure 2 shows about .7 for CLIP. (C_N, D), (C_A, D)."""
    return float((normal @ abnormal.T).mean())


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
