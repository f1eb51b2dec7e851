"""The seven loss terms of AnomalyCLIP (section 3.4, eq. 7-13).

Axis letters: B videos, the first half abnormal, S segments, F frames, C abnormal classes, K
selected segments. Where text and released code differ, ``variant`` chooses.
"""

import torch
from torch import Tensor

from detectors.anomalyclip.selector import Selection, abnormal_column
from detectors.anomalyclip.settings import AnomalyCLIPSettings
from detectors.training_protocol import Variant


def direction_normal_loss(logits: Tensor, variant: Variant) -> Tensor:
    """L_N^DIR, eq. 10: mean of the logits (B/2, S, F, C) of normal videos (paper), or mean over
    frames of the maximum over classes (official code)."""
    return logits.mean() if variant == "paper" else logits.amax(dim=-1).mean()


def smoothness_loss(p_anomaly: Tensor, variant: Variant) -> Tensor:
    """L_smo, eq. 13, of p_A (B/2, S, F) of the abnormal videos.

    paper: the sum of differences of successive frames, so the last frame minus the first; we
    average it over videos. official: the sum of squared differences, with all videos joined to one
    sequence.
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
) -> dict[str, Tensor]:
    """ "total", the weighted sum (section 3.4), and its terms before weighting.

    logits (B, S, F, C), p_anomaly (B, S, F), probabilities (B, S, F, C+1); labels (B/2,) of the
    abnormal half among the C+1 classes. ``settings.left_out`` names terms outside the sum.
    """
    half, column = len(logits) // 2, abnormal_column(labels, settings.normal_id)[:, None]
    video = torch.arange(half, device=logits.device)[:, None]
    top, bottom, normal_top = selection
    p_abnormal, p_normal = p_anomaly[:half], p_anomaly[half:]
    terms = {
        "direction_abnormal": -logits[video, top, :, column].mean(),  # eq. 7
        "direction_normal": direction_normal_loss(logits[half:], settings.variant),
        "abnormal_top": -probabilities[video, top, :, labels[:, None]].log().mean(),  # eq. 8
        "abnormal_bottom": -(1 - p_abnormal[video, bottom]).log().mean(),  # eq. 9
        "normal_top": -(1 - p_normal[video, normal_top]).log().mean(),  # eq. 11
        "sparsity": p_abnormal.mean(),  # eq. 12
        "smoothness": smoothness_loss(p_abnormal, settings.variant),
    }
    weights = {"sparsity": settings.sparsity_weight, "smoothness": settings.smoothness_weight}
    kept = [name for name in terms if name not in settings.left_out]
    return {"total": sum(weights.get(name, 1) * terms[name] for name in kept), **terms}
