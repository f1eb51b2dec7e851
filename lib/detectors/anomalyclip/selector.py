"""Normality prototype, Selector and segment selection (section 3.1, 3.4, eq. 1-5)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from alertclip.errors import InputError

MASKED = 1e6  # larger than any score, so that masked segments come last (official code)


class Selection(NamedTuple):
    """Segment indices: most and least abnormal of the abnormal videos, most of the normal ones."""

    abnormal_top: Tensor  # (A, K)
    abnormal_bottom: Tensor  # (A, K)
    normal_top: Tensor  # (B - A, K)


def normality_prototype(videos: Iterable[Tensor]) -> Tensor:
    """m (D,), eq. 1: the mean of all frame features (N, D) of all normal training videos."""
    total, count = 0.0, 0
    for features in videos:
        total, count = total + features.double().sum(dim=0), count + len(features)
    if not count:
        raise InputError("normality prototype of no frames: give the normal training videos")
    return (total / count).float()


def class_directions(text: Tensor, prototype: Tensor, normal_id: int) -> Tensor:
    """Unit directions d_c / |d_c| (C, D) of the abnormal classes, eq. 2: text (C+1, D) minus m."""
    abnormal = torch.cat([text[:normal_id], text[normal_id + 1 :]])
    return normalize(abnormal - prototype, dim=-1)


def abnormal_column(labels: Tensor, normal_id: int) -> Tensor:
    """Columns among the C abnormal classes for abnormal labels among all C+1 classes."""
    return labels - (labels > normal_id).long()


class Selector(nn.Module):
    """S(x) of eq. 3-4: projections on the class directions, batch-normalised without affine.

    ``logit_scale`` is unused; it is here because the official checkpoints contain it.
    """

    def __init__(self, classes: int, logit_scale: Tensor) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(logit_scale.detach().float().clone())
        self.bn_layer = nn.BatchNorm1d(classes, affine=False)

    def forward(self, x: Tensor, directions: Tensor) -> Tensor:
        """x (..., D) minus the prototype, directions (C, D) of unit length -> logits (..., C)."""
        projected = x @ directions.T
        return self.bn_layer(projected.flatten(0, -2)).view_as(projected)


def select_segments(
    logits: Tensor, labels: Tensor, mask: Tensor, normal_id: int, top_k: int, bottom_k: int
) -> Selection:
    """Segments by likelihood, eq. 5: the sum of the logits (B, S, F, C) over a segment's frames.

    The first half of the batch is abnormal and is ranked by the logits of its label (B/2,), the
    normal half by the sum over classes. Only segments with a True mask (B, S) are selected, unless
    fewer than k of them are left (official code).
    """
    half = len(logits) // 2
    likelihood = logits.detach().sum(dim=2)  # (B, S, C)
    column = abnormal_column(labels, normal_id)
    own = likelihood[torch.arange(half, device=column.device), :, column]  # (B/2, S)
    closed, closed_normal = ~mask[:half], ~mask[half:]
    normal = likelihood[half:].sum(dim=2)
    return Selection(
        own.masked_fill(closed, -MASKED).topk(top_k).indices,
        own.masked_fill(closed, MASKED).topk(bottom_k, largest=False).indices,
        normal.masked_fill(closed_normal, -MASKED).topk(top_k).indices,
    )
