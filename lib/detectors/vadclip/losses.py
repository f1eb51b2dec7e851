"""The losses of VadCLIP (Wu et al. 2024, eq. 8-10).

Axis letters: B videos, T positions, C classes, of which class 0 is the normal one.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, cosine_similarity, cross_entropy

from detectors.training_protocol import Variant
from detectors.vadclip.settings import VadCLIPSettings


class VadCLIPLosses(NamedTuple):
    """The weighted total (eq. 10) and its terms before weighting."""

    total: Tensor
    binary: Tensor
    alignment: Tensor
    separation: Tensor


def top_k_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean over time of the K = floor(L / 16) + 1 largest values of each class: -> (B, C).

    values (B, T, C); lengths (B,) is the number L of valid positions of each video.
    """
    rows = zip(values, lengths.tolist(), strict=True)
    return torch.stack([row[:n].topk(n // 16 + 1, dim=0).values.mean(dim=0) for row, n in rows])


def binary_loss(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """L_bce: cross entropy of the top-K mean of sigmoid(logits (B, T)); targets (B, C)."""
    confidence = top_k_mean(logits.sigmoid()[..., None], lengths)[:, 0]
    return binary_cross_entropy(confidence, 1 - targets[:, 0])


def alignment_loss(logits: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """L_nce (MIL-Align, eq. 8): cross entropy of the top-K means of logits (B, T, C).

    targets (B, C) are 0 or 1; the classes of a video have equal weight and sum to 1.
    """
    labels = targets / targets.sum(dim=1, keepdim=True)
    return cross_entropy(top_k_mean(logits, lengths), labels)


def separation_loss(text: Tensor, variant: Variant) -> Tensor:
    """L_cts (eq. 9) of text vectors (C, D): abnormal classes should differ from the normal one.

    official: mean over abnormal classes of |cos|; paper: sum of max(0, cos).
    """
    cosine = cosine_similarity(text[:1], text[1:])
    return cosine.relu().sum() if variant == "paper" else cosine.abs().mean()


def total_loss(
    logits1: Tensor,
    logits2: Tensor,
    text: Tensor,
    targets: Tensor,
    lengths: Tensor,
    settings: VadCLIPSettings,
) -> VadCLIPLosses:
    """L_bce + L_nce + lambda L_cts (eq. 10); Table 6 drops one of the first two.

    logits1 (B, T), logits2 (B, T, C), text (C, D), targets (B, C) of 0 and 1, lengths (B,).
    """
    binary = binary_loss(logits1, targets, lengths)
    alignment = alignment_loss(logits2, targets, lengths)
    separation = separation_loss(text, settings.variant)
    total = settings.binary_weight * binary + settings.alignment_weight * alignment
    total = total + settings.separation_weight * separation
    return VadCLIPLosses(total, binary, alignment, separation)
