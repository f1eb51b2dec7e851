"""MeanSignScore and zero-shot scores (Alert-CLIP paper, Figures 1-2, Table 1).

Similarities are cosines in [-1, 1].
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from alertclip.intervals import bootstrap_interval
from alertclip.prompts import PromptSets

EncodeText = Callable[[list[str]], torch.Tensor]  # C texts -> unit (C, D): AlertCLIP.encode_text


@torch.inference_mode()
def encode_sets(encode_text: EncodeText, sets: PromptSets) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings of P_N (C_N, D) and P_A (C_A, D)."""
    normal, abnormal = encode_text(list(sets.normal)), encode_text(list(sets.abnormal))
    return normal.float().cpu().numpy(), abnormal.float().cpu().numpy()


def set_similarities(embedding: np.ndarray, normal: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """S_N and S_A of the paper: mean cosine of each embedding to P_N and to P_A.

    embedding (..., D), normal (C_N, D), abnormal (C_A, D), all unit length -> (..., 2).
    """
    means = np.stack([normal.mean(axis=0), abnormal.mean(axis=0)])  # (2, D)
    return embedding @ means.T


def zero_shot_margin(embedding: np.ndarray, normal: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """S_A - S_N, the zero-shot anomaly score: embedding (..., D) of clips or frames -> (...)."""
    similarities = set_similarities(embedding, normal, abnormal)
    return similarities[..., 1] - similarities[..., 0]


def signed_score(similarities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """SS(x) of the paper: S_A - S_N if x is abnormal, S_N - S_A if it is normal; MSS is its mean.

    similarities (B, 2) holds S_N, S_A; labels (B,) is 1 where abnormal -> (B,) in [-2, 2].
    """
    normal, abnormal = np.asarray(similarities, float).T
    return np.where(labels, 1.0, -1.0) * (abnormal - normal)


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
    ``groups``: names (B,) of what is resampled together, such as the clips of one video.
    """
    scores, names = signed_score(similarities, labels), np.asarray(classes, dtype=object)
    groups = np.arange(len(scores)) if groups is None else np.asarray(groups)
    rows = []
    for name in ["all", *sorted(set(names))]:
        mask = np.ones(len(names), bool) if name == "all" else names == name
        mss = bootstrap_interval(scores[mask], n_boot=n_boot, seed=seed, groups=groups[mask])
        right_signed = float((scores[mask] > 0).mean())
        rows.append((name, mss.n, mss.value, mss.low, mss.high, right_signed))
    return pd.DataFrame(rows, columns=["class_name", "n", "mss", "low", "high", "right_signed"])


def inside(positions: np.ndarray, spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """Ground truth at frame numbers or times: True where start <= position < end of any span."""
    positions = np.asarray(positions)
    truth = np.zeros(positions.shape, bool)
    for start, end in spans:
        truth |= (positions >= start) & (positions < end)
    return truth


def hold(scores: np.ndarray, sampled: np.ndarray, n_frames: int) -> np.ndarray:
    """Scores of all frames: each sampled frame's score holds until the next sampled one.

    scores (T,), sampled (T,) ascending numbers -> (n_frames,); earlier frames take the first score.
    """
    latest = np.searchsorted(sampled, np.arange(n_frames), side="right") - 1
    return np.asarray(scores)[np.maximum(latest, 0)]
