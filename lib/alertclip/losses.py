"""The three objectives (Alert-CLIP paper, Key Designs 2-4), one pure function each.

All embeddings are unit vectors; ``scale`` is the inverse temperature. The documents leave the
equations out; the forms are the InfoNCE of CLIP. Identical captions are never negatives: pairs
that share a caption are taken out of the denominators.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


class Losses(NamedTuple):
    """Loss terms in nats; region and hard are zero in Stage I."""

    total: Tensor
    global_: Tensor
    region: Tensor
    hard: Tensor


def info_nce(x: Tensor, t: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """Symmetric InfoNCE of pairs x (N, D), t (N, D): mean of both directions' cross entropies."""
    same = _same(captions, x.device)
    eye = torch.eye(len(x), dtype=torch.bool, device=x.device)
    logits = (scale * x @ t.T).masked_fill(same & ~eye, float("-inf"))
    target = torch.arange(len(x), device=x.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def global_loss(v: Tensor, t: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """L_global (Key Design 2): clips v (B, D) against global captions t (B, D)."""
    return info_nce(v, t, scale, captions)


def region_loss(v_r: Tensor, t_r: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """L_region (Key Design 3): regions v_r (R, D) against region captions t_r (R, D)."""
    return info_nce(v_r, t_r, scale, captions)


def hard_negative_loss(
    v_r: Tensor, t_r: Tensor, t_neg: Tensor, scale: Tensor, mask: Tensor
) -> Tensor:
    """L_hard (Key Design 4): -log exp(s+) / (exp(s+) + sum_k exp(s-_k)), mean over regions.

    v_r, t_r (R, D); t_neg (R, K, D); mask (R, K) True where a negative exists. Regions without
    any negative do not count; if there is none at all the loss is zero.
    """
    positive = scale * (v_r * t_r).sum(dim=-1, keepdim=True)  # (R, 1)
    # Scaled before masked: the gradient of scale * -inf is not a number.
    negative = (scale * torch.einsum("rd,rkd->rk", v_r, t_neg)).masked_fill(~mask, float("-inf"))
    logits = torch.cat([positive, negative], dim=1)  # (R, 1 + K)
    counted = mask.any(dim=1)
    if not counted.any():
        return positive.sum() * 0
    target = torch.zeros(int(counted.sum()), dtype=torch.long, device=v_r.device)
    return cross_entropy(logits[counted], target)


def total_loss(
    embeddings: Mapping[str, Tensor],
    scale: Tensor,
    global_captions: list[str],
    region_captions: list[str],
    weights: tuple[float, float, float],
) -> Losses:
    """Weighted sum of the terms (Alert-CLIP paper, Loss & Training): L_global alone in Stage I.

    ``embeddings`` holds v and t and, in Stage II, v_r, t_r, t_neg and negative_mask; ``weights``
    are those of global, region and hard.
    """
    e, zero = embeddings, scale.new_zeros(())
    global_ = global_loss(e["v"], e["t"], scale, global_captions)
    if "v_r" not in e:
        return Losses(weights[0] * global_, global_, zero, zero)
    region = region_loss(e["v_r"], e["t_r"], scale, region_captions)
    hard = hard_negative_loss(e["v_r"], e["t_r"], e["t_neg"], scale, e["negative_mask"].bool())
    total = weights[0] * global_ + weights[1] * region + weights[2] * hard
    return Losses(total, global_, region, hard)


def _same(captions: list[str], device: torch.device) -> Tensor:
    place = {text: i for i, text in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([place[text] for text in captions], device=device)
    return ids[:, None] == ids[None, :]
