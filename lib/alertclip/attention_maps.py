"""Where the model looks: attention rollout over patches.

Rollout (Abnar and Zuidema 2020, section 3) averages the heads, gives half of each block's weight to
the residual connection and multiplies the blocks. The paper does not say how it made Figure 5.
Axis letters: F frames, N tokens, h w patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor, nn

from alertclip.attention import Projections
from media.errors import InputError


@torch.inference_mode()
def attention_maps(model: nn.Module, frames: Tensor) -> Tensor:
    """Rollout of the visual tower: frames (T, 3, H, W) uint8 -> (T, h, w), each map sums to 1."""
    with keep_probabilities(model.clip.visual) as blocks:
        model.image_features(frames)
    return rollout_maps(model, blocks).cpu()


def rollout(attention: Tensor) -> Tensor:
    """Attention rollout through L blocks: (L, B, N, N) -> (B, N, N); all rows sum to 1."""
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    return reduce(lambda flow, block: 0.5 * (block + identity) @ flow, attention, identity)


def token_maps(row: Tensor, grid: tuple[int, int]) -> Tensor:
    """Token weights (B, N) >= 0 -> patch maps (B, h, w) that sum to 1; all zero: uniform."""
    patches = row[:, -grid[0] * grid[1] :]  # after the class token, if any
    total = patches.sum(dim=-1, keepdim=True)
    uniform = torch.full_like(patches, 1 / patches.shape[-1])
    return torch.where(total > 0, patches / total, uniform).unflatten(-1, grid)


@contextmanager
def keep_probabilities(tower: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the attention probabilities of ``tower``'s forward passes inside the block.

    Yields a list that fills with (B, heads, M, N) in order of execution; gradients flow through
    them. Raises InputError if the tower has no split attention.
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


def rollout_maps(model: nn.Module, blocks: list[Tensor]) -> Tensor:
    """Share of each patch in the pooled image feature: (F, h, w), each map sums to 1."""
    layers, query = layers_and_query([block.detach().mean(dim=1) for block in blocks])
    flow, patches = rollout(torch.stack(layers)), model.grid[0] * model.grid[1]
    averaged = query is None and model.clip.visual.pool_type == "avg"  # over the patches
    row = flow[:, -patches:].mean(dim=1) if averaged else read(flow, query)
    return token_maps(row, model.grid)


def layers_and_query(blocks: list[Tensor]) -> tuple[list[Tensor], Tensor | None]:
    """Split ``blocks`` into self-attention (B, N, N) and pooling attention (B, 1, N) or None."""
    pools = blocks[-1].shape[-2] != blocks[-1].shape[-1]
    return (blocks[:-1], blocks[-1]) if pools else (blocks, None)


def read(flow: Tensor, weights: Tensor | None) -> Tensor:
    """Row (B, N) of flow (B, N, N) for pooling weights (B, 1, N), or for the class token."""
    return flow[:, 0] if weights is None else (weights @ flow)[:, 0]
