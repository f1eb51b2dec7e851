"""The seven terms of AnomalyCLIP (section 3.4, eq. 7-13), one pure function each.

Axis letters: A abnormal videos, M normal videos, S segments, F frames, C abnormal classes, K
selected segments. Where text and released code differ, ``variant`` chooses.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from detectors.anomalyclip.selector import Selection, abnormal_column
from detectors.anomalyclip.settings import AnomalyCLIPSettings
from detectors.training_protocol import Variant


class AnomalyCLIPLosses(NamedTuple):
    """The weighted total and the terms before weighting."""

    total: Tensor
    direction_abnormal: Tensor
    direction_normal: Tensor
    abnormal_top: Tensor
    abnormal_bottom: Tensor
    normal_top: Tensor
    sparsity: Tensor
    smoothness: Tensor


def direction_abnormal_loss(logits: Tensor, column: Tensor, top: Tensor) -> Tensor:
    """L_A^DIR, eq. 7: minus the mean logit of the true class over the top-K segments' frames.

    logits (A, S, F, C), column (A,) the true class among the C, top (A, K).
    """
    videos = torch.arange(len(top), device=top.device)[:, None]
    return -logits[videos, top, :, column[:, None]].mean()


def direction_normal_loss(logits: Tensor, variant: Variant) -> Tensor:
    """L_N^DIR, eq. 10: mean of all logits (M, S, F, C) of normal videos (paper), or the mean over
    frames of their maximum over classes (official code)."""
    return logits.mean() if variant == "paper" else logits.amax(dim=-1).mean()


def abnormal_top_loss(probabilities: Tensor, labels: Tensor, top: Tensor) -> Tensor:
    """L_A+, eq. 8: -mean log p_{A,c} of the true class over the top-K segments' frames.

    probabilities (A, S, F, C+1), labels (A,) among the C+1, top (A, K).
    """
    videos = torch.arange(len(top), device=top.device)[:, None]
    return -probabilities[videos, top, :, labels[:, None]].log().mean()


def abnormal_bottom_loss(p_anomaly: Tensor, bottom: Tensor) -> Tensor:
    """L_A-, eq. 9: -mean log(1 - p_A) of p_A (A, S, F) over the bottom-K segments (A, K)."""
    return _normal_likelihood(p_anomaly, bottom)


def normal_top_loss(p_anomaly: Tensor, top: Tensor) -> Tensor:
    """L_N+, eq. 11: -mean log(1 - p_A) of p_A (M, S, F) over normal top-K segments (M, K)."""
    return _normal_likelihood(p_anomaly, top)


def sparsity_loss(p_anomaly: Tensor) -> Tensor:
    """L_spa, eq. 12: mean of p_A (A, S, F) over the abnormal videos."""
    return p_anomaly.mean()


def smoothness_loss(p_anomaly: Tensor, variant: Variant) -> Tensor:
    """L_smo, eq. 13, of p_A (A, S, F) of the abnormal videos.

    paper: the sum of differences of successive frames per video, which telescopes to the last
    minus the first; mean over videos (ours: the text has one video). official: the sum of squared
    differences over all videos as one sequence, so that it crosses from video to video.
    """
    if variant == "paper":
        return p_anomaly.flatten(1).diff(dim=1).sum(dim=1).mean()
    return p_anomaly.flatten().diff().square().sum()


def total_loss(
    logits: Tensor,
    p_anomaly: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    selection: Selection,
    settings: AnomalyCLIPSettings,
) -> AnomalyCLIPLosses:
    """Sum of the terms, the last two weighted by lambda_1 and lambda_2 (section 3.4).

    logits (B, S, F, C), p_anomaly (B, S, F), probabilities (B, S, F, C+1) of a batch whose first
    half is abnormal; labels (B/2,) of that half among the C+1 classes.
    """
    half, variant = len(logits) // 2, settings.variant
    column = abnormal_column(labels, settings.normal_id)
    terms = (
        direction_abnormal_loss(logits[:half], column, selection.abnormal_top),
        direction_normal_loss(logits[half:], variant),
        abnormal_top_loss(probabilities[:half], labels, selection.abnormal_top),
        abnormal_bottom_loss(p_anomaly[:half], selection.abnormal_bottom),
        normal_top_loss(p_anomaly[half:], selection.normal_top),
        sparsity_loss(p_anomaly[:half]),
        smoothness_loss(p_anomaly[:half], variant),
    )
    weights = (1, 1, 1, 1, 1, settings.sparsity_weight, settings.smoothness_weight)
    names = AnomalyCLIPLosses._fields[1:]
    total = sum(
        weight * term
        for name, weight, term in zip(names, weights, terms, strict=True)
        if name not in settings.left_out
    )
    return AnomalyCLIPLosses(total, *terms)


def _normal_likelihood(p_anomaly: Tensor, chosen: Tensor) -> Tensor:
    videos = torch.arange(len(chosen), device=chosen.device)[:, None]
    return -(1 - p_anomaly[videos, chosen]).log().mean()
