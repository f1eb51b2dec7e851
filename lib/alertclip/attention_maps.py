"""Where and when the model looks: maps over patches, gradients over frames.

Rollout is Abnar and Zuidema (2020), section 3: heads averaged, half of each block's flow kept by
the residual connection, blocks multiplied. Relevance is Chefer, Gur and Wolf (ICCV 2021, "Generic
attention-model explainability"), section 3.2: attention times its gradient for a chosen text.
The paper shows maps (Figure 5) without saying how. Axis letters: F frames, N tokens, h w patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from alertclip.attention import Projections
from alertclip.errors import InputError


class FrameMaps(NamedTuple):
    """Maps of the same F frames, each (F, h, w) with sum 1 per frame."""

    rollout: Tensor
    relevance: Tensor


@torch.inference_mode()
def attention_maps(model: nn.Module, frames: Tensor) -> Tensor:
    """Rollout of an AlertCLIP's visual tower: frames (T, 3, H, W) uint8 -> (T, h, w), sums to 1."""
    with keep_probabilities(model.clip.visual) as blocks:
        model.image_features(frames)
    return _rollout_maps(model, blocks).cpu()


def frame_maps(model: nn.Module, frames: Tensor, directions: Tensor) -> FrameMaps:
    """Rollout, and relevance of each patch to the frame's similarity with its direction.

    frames (F, 3, H, W) uint8; directions (F, D), any length: a text's unit embedding, the
    difference of two, or ``frame_gradients``. Where nothing speaks for a direction, the map is
    uniform.
    """
    visual = model.clip.visual
    with torch.enable_grad(), keep_probabilities(visual) as blocks, _averaged(visual) as tokens:
        v = normalize(model.image_features(frames), dim=-1)
        score = (v * directions).sum()  # frames do not see each other here
        gradients = torch.autograd.grad(score, [*blocks, *tokens])
    with torch.no_grad():
        weighted = [gradient_weighted(*pair) for pair in zip(blocks, gradients, strict=False)]
        layers, query = _layers_and_query(weighted)
        if tokens:  # the mean is attention with constant weights: eq. 5 holds for it too
            query = (tokens[0] * gradients[-1]).sum(dim=-1).clamp(min=0)[:, None]
        found = token_maps(_read(relevance(torch.stack(layers)), query), model.grid)
        return FrameMaps(_rollout_maps(model, blocks).cpu(), found.cpu())


def frame_gradients(model: nn.Module, v: Tensor, mask: Tensor, direction: Tensor) -> Tensor:
    """Gradient of the summed frame scores in each frame embedding: v (B, T, D) -> (B, T, D).

    A frame's score is logit_scale * z_t . direction after the temporal transformer, as in the
    frame metrics; mask (B, T), direction (D,).
    """
    with torch.enable_grad():
        v = v.clone().requires_grad_()
        z = normalize(model.pool_frames(v, mask).z.float(), dim=-1)
        score = model.logit_scale.exp() * (z @ direction)[mask].sum()
        return torch.autograd.grad(score, v)[0].detach()


def rollout(attention: Tensor) -> Tensor:
    """Flow of attention through L blocks: (L, B, N, N), rows sum to 1 -> (B, N, N), likewise."""
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    return reduce(lambda flow, block: 0.5 * (block + identity) @ flow, attention, identity)


def gradient_weighted(attention: Tensor, gradient: Tensor) -> Tensor:
    """Chefer et al. (2021), eq. 5: mean over heads of the positive part of gradient * attention.

    Both (B, heads, N, M) -> (B, N, M).
    """
    return (gradient * attention).clamp(min=0).mean(dim=1)


def relevance(weighted: Tensor) -> Tensor:
    """Chefer et al. (2021), eq. 6 from R = I: R + A R block by block, (L, B, N, N) -> (B, N, N)."""
    identity = torch.eye(weighted.shape[-1], dtype=weighted.dtype, device=weighted.device)
    return reduce(lambda total, block: total + block @ total, weighted, identity)


def token_maps(row: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weights of the tokens (B, N), at least 0 -> patches (B, h, w), sum 1; all 0: uniform."""
    patches = row[:, -grid[0] * grid[1] :]  # behind a class token, if any
    total = patches.sum(dim=-1, keepdim=True)
    uniform = torch.full_like(patches, 1 / patches.shape[-1])
    return torch.where(total > 0, patches / total, uniform).unflatten(-1, grid)


@contextmanager
def keep_probabilities(tower: nn.Module) -> Iterator[list[Tensor]]:
    """Compute every attention inside the block explicitly, and collect its probabilities.

    Yields a list that fills with (B, heads, N, M) in running order; gradients pass through them.
    Raises InputError if a tower has no split attention.
    """
    attentions = [module for module in tower.modules() if isinstance(module, Projections)]
    if not attentions:
        raise InputError("attention maps need a visual tower with split attention (a ViT)")
    blocks: list[Tensor] = []
    for attention in attentions:
        attention.kept = blocks
    try:
        yield blocks
    finally:
        for attention in attentions:
            attention.kept = None


@contextmanager
def _averaged(visual: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the tokens (B, N, D) that average pooling takes the mean of; none for others."""
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


def _rollout_maps(model: nn.Module, blocks: list[Tensor]) -> Tensor:
    """Share of each patch in the pooled image feature: (F, h, w), sums to 1."""
    layers, query = _layers_and_query([block.detach().mean(dim=1) for block in blocks])
    flow, patches = rollout(torch.stack(layers)), model.grid[0] * model.grid[1]
    averaged = query is None and model.clip.visual.pool_type == "avg"  # over the patches
    row = flow[:, -patches:].mean(dim=1) if averaged else _read(flow, query)
    return token_maps(row, model.grid)


def _layers_and_query(blocks: list[Tensor]) -> tuple[list[Tensor], Tensor | None]:
    """Self-attention blocks (B, N, N), and the attention that pools (B, 1, N) if any."""
    pools = blocks[-1].shape[-2] != blocks[-1].shape[-1]
    return (blocks[:-1], blocks[-1]) if pools else (blocks, None)


def _read(flow: Tensor, weights: Tensor | None) -> Tensor:
    """flow (B, N, N) as read by pooled tokens of weights (B, 1, N), or by the class token."""
    return flow[:, 0] if weights is None else (weights @ flow)[:, 0]
