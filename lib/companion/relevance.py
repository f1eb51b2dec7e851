"""Where and when the model looks for a chosen text: gradients over patches and frames.

Relevance follows Chefer, Gur and Wolf (ICCV 2021, "Generic attention-model explainability"),
section 3.2: attention times its gradient. Axes: F frames, N tokens, h w patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from alertclip import attention_maps as maps


class FrameMaps(NamedTuple):
    """Maps of the same F frames, each (F, h, w) that sums to 1 per frame."""

    rollout: Tensor
    relevance: Tensor


def frame_maps(model: nn.Module, frames: Tensor, directions: Tensor) -> FrameMaps:
    """Rollout, and relevance of each patch to the frame's similarity with its direction.

    frames (F, 3, H, W) uint8; directions (F, D), any length: a text's unit embedding, the
    difference of two, or ``frame_gradients``. Uniform where no patch raises the similarity.
    """
    visual = model.clip.visual
    with torch.enable_grad(), maps.keep_probabilities(visual) as blocks, _pooled(visual) as tokens:
        v = normalize(model.image_features(frames), dim=-1)
        score = (v * directions).sum()  # frames are independent here
        gradients = torch.autograd.grad(score, [*blocks, *tokens])
    with torch.no_grad():
        weighted = [gradient_weighted(*pair) for pair in zip(blocks, gradients, strict=False)]
        layers, query = maps.layers_and_query(weighted)
        if tokens:  # average pooling is attention with constant weights, so eq. 5 applies
            query = (tokens[0] * gradients[-1]).sum(dim=-1).clamp(min=0)[:, None]
        patches = maps.token_maps(maps.read(relevance(torch.stack(layers)), query), model.grid)
        return FrameMaps(maps.rollout_maps(model, blocks).cpu(), patches.cpu())


def frame_gradients(model: nn.Module, v: Tensor, mask: Tensor, direction: Tensor) -> Tensor:
    """Gradient of the summed frame scores by each frame embedding: v (B, T, D) -> (B, T, D).

    A frame's score is logit_scale * z_t . direction after the temporal transformer, as in the
    frame metrics; mask (B, T), direction (D,).
    """
    with torch.enable_grad():
        v = v.clone().requires_grad_()
        z = normalize(model.pool_frames(v, mask).z.float(), dim=-1)
        score = model.logit_scale.exp() * (z @ direction)[mask].sum()
        return torch.autograd.grad(score, v)[0].detach()


def gradient_weighted(attention: Tensor, gradient: Tensor) -> Tensor:
    """Chefer et al. (2021), eq. 5: mean over heads of the positive part of gradient * attention.

    Both (B, heads, N, M) -> (B, N, M).
    """
    return (gradient * attention).clamp(min=0).mean(dim=1)


def relevance(weighted: Tensor) -> Tensor:
    """Chefer et al. (2021), eq. 6 from R = I: R + A R block by block, (L, B, N, N) -> (B, N, N)."""
    identity = torch.eye(weighted.shape[-1], dtype=weighted.dtype, device=weighted.device)
    return reduce(lambda total, block: total + block @ total, weighted, identity)


@contextmanager
def _pooled(visual: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the tokens (B, N, D) that average pooling averages; none for other towers."""
    tokens: list[Tensor] = []
    if getattr(visual, "pool_type", None) != "avg":
        yield tokens
        return
    after = getattr(visual, "final_ln_after_pool", False)
    last = visual.transformer.resblocks[-1] if after else visual.ln_post
    handle = last.register_forward_hook(lambda _module, _args, output: tokens.append(output))
    try:
        yield tokens
    finally:
        handle.remove()
