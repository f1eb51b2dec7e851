"""The training losses of Alert-CLIP (paper, Key Designs 2-4) as pure functions.

All embeddings are unit vectors; ``scale`` is the inverse temperature. The equations were not
available to us; we use CLIP's InfoNCE on the similarities that the text defines. Clips or regions
that share a caption are never each other's negatives: they are left out of the denominators.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad


@dataclass(frozen=True)
class Embeddings:
    """Unit embeddings of a batch with the captions that pair them.

    Clips v (B, D) and their captions t (B, D); in Stage II regions v_r (R, D), their captions t_r
    (R, D) and hard negatives t_neg (R, K, D), with negative_mask (R, K) True where one exists.
    """

    v: Tensor
    t: Tensor
    captions: list[str]
    v_r: Tensor | None = None
    t_r: Tensor | None = None
    t_neg: Tensor | None = None
    negative_mask: Tensor | None = None
    region_captions: list[str] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Embeddings":
        """A copy with ``change`` applied to every tensor."""
        return replace(self, **{name: change(tensor) for name, tensor in self.tensors().items()})


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Concatenate micro-batches; regions with fewer hard negatives are padded and masked."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part.tensors()):
        tensors = [t for part in parts if (t := getattr(part, name)) is not None]
        if name in ("t_neg", "negative_mask"):  # (R, K, D) and (R, K)
            k = max(t.shape[1] for t in tensors)
            tensors = [pad(t, [0, 0] * (t.ndim - 2) + [0, k - t.shape[1]]) for t in tensors]
        joined[name] = torch.cat(tensors)
    captions = sum((part.captions for part in parts), [])
    regions = sum((part.region_captions for part in parts), [])
    return Embeddings(captions=captions, region_captions=regions, **joined)


def info_nce(x: Tensor, t: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """Symmetric InfoNCE of pairs x (N, D), t (N, D): mean of both directions' cross entropies.

    This is L_global (Key Design 2) of clips and captions and L_region (3) of regions and captions.
    """
    caption_id = {text: i for i, text in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([caption_id[text] for text in captions], device=x.device)
    same = ids[:, None] == ids[None, :]
    eye = torch.eye(len(x), dtype=torch.bool, device=x.device)
    logits = (scale * x @ t.T).masked_fill(same & ~eye, float("-inf"))
    target = torch.arange(len(x), device=x.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def hard_negative_loss(
    v_r: Tensor, t_r: Tensor, t_neg: Tensor, scale: Tensor, mask: Tensor
) -> Tensor:
    """L_hard (Key Design 4): -log exp(s+) / (exp(s+) + sum_k exp(s-_k)), mean over regions.

    v_r, t_r (R, D); t_neg (R, K, D); mask (R, K) True where a negative exists. Regions without
    negatives do not count; if no region has any, the loss is zero.
    """
    positive = scale * (v_r * t_r).sum(dim=-1, keepdim=True)  # (R, 1)
    # Scale before masking: the gradient of scale * -inf is NaN.
    negative = (scale * torch.einsum("rd,rkd->rk", v_r, t_neg)).masked_fill(~mask, float("-inf"))
    logits = torch.cat([positive, negative], dim=1)  # (R, 1 + K)
    has_negative = mask.any(dim=1)
    if not has_negative.any():
        return positive.sum() * 0
    target = torch.zeros(int(has_negative.sum()), dtype=torch.long, device=v_r.device)
    return cross_entropy(logits[has_negative], target)


class Losses(NamedTuple):
    """Loss terms in nats; region and hard are None without regions."""

    total: Tensor
    global_: Tensor
    region: Tensor | None = None
    hard: Tensor | None = None


def total_loss(
    e: Embeddings, scale: Tensor, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Losses:
    """Weighted sum of L_global, L_region and L_hard (paper, Loss & Training), with its terms.

    Without regions, as in Stage I, it is the weighted L_global.
    """
    global_ = info_nce(e.v, e.t, scale, e.captions)
    if e.v_r is None:
        return Losses(weights[0] * global_, global_)
    region = info_nce(e.v_r, e.t_r, scale, e.region_captions)
    hard = hard_negative_loss(e.v_r, e.t_r, e.t_neg, scale, e.negative_mask)
    total = weights[0] * global_ + weights[1] * region + weights[2] * hard
    return Losses(total, global_, region, hard)
