"""Zero-shot detection from embeddings and prompts: no training, no threshold (Alert-CLIP paper)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from alertclip.mss import set_similarities
from alertclip.prompts import PromptSets

EncodeText = Callable[[list[str]], torch.Tensor]
"""Sentences (C) -> unit vectors (C, D), such as AlertCLIP.encode_text."""

Spans = Sequence[tuple[float, float]]


@torch.inference_mode()
def encode_sets(encode_text: EncodeText, sets: PromptSets) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of P_N (C_N, D) and P_A (C_A, D)."""
    normal, abnormal = encode_text(list(sets.normal)), encode_text(list(sets.abnormal))
    return normal.float().cpu().numpy(), abnormal.float().cpu().numpy()


def zero_shot_margin(embedding: np.ndarray, normal: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """S_A - S_N, the zero-shot anomaly score: embedding (..., D) of clips or frames -> (...)."""
    similarities = set_similarities(embedding, normal, abnormal)
    return similarities[..., 1] - similarities[..., 0]


def inside(positions: np.ndarray, spans: Spans) -> np.ndarray:
    """Truth at frame numbers or times: True where start <= position < end of any span."""
    positions = np.asarray(positions)
    truth = np.zeros(positions.shape, bool)
    for start, end in spans:
        truth |= (positions >= start) & (positions < end)
    return truth


def hold(scores: np.ndarray, sampled: np.ndarray, n_frames: int) -> np.ndarray:
    """Spread scores at sampled frame numbers over all frames: each holds until the next one.

    scores (T,), sampled (T,) ascending -> (n_frames,); frames before the first take its score.
    """
    owner = np.searchsorted(sampled, np.arange(n_frames), side="right") - 1
    return np.asarray(scores)[np.maximum(owner, 0)]
