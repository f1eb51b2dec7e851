"""Where and when the model looks: attention rollout over patches, pooling weights over frames.

Rollout is Abnar and Zuidema (2020), section 3: heads averaged, half of each block's flow kept by
the residual connection, blocks multiplied. The paper shows maps (Figure 5) without saying how.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from alertclip.errors import InputError


def attention_probabilities(attention: nn.Module, x: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of one SplitAttention, averaged over heads.

    x (B, N, D) tokens after the block's first LayerNorm -> (B, N, N), rows sum to 1. The module's
    own forward uses a fused kernel that never holds these probabilities.
    """
    heads = attention.num_heads
    q, k = (
        projection(x).unflatten(-1, (heads, -1)).transpose(1, 2).float()  # (B, heads, N, D/heads)
        for projection in (attention.q_proj, attention.k_proj)
    )
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=1)


def rollout(attention: Tensor) -> Tensor:
    """Flow of attention through L blocks: (L, B, N, N), rows sum to 1 -> (B, N, N), likewise."""
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    flow = identity
    for block in attention:
        flow = (0.5 * block + 0.5 * identity) @ flow
    return flow


def patch_maps(flow: Tensor, grid: tuple[int, int], pool: str) -> Tensor:
    """Share of each patch in the pooled image feature: flow (B, N, N) -> (B, h, w), sums to 1.

    ``pool`` is open_clip's: "tok" reads the class token, "avg" the mean over patch tokens.
    """
    patches = grid[0] * grid[1]
    extra = flow.shape[-1] - patches  # class token in front, if there is one
    if extra not in (0, 1) or (pool == "tok" and not extra):
        raise InputError(f"{flow.shape[-1]} tokens do not fit a {grid[0]} x {grid[1]} patch grid")
    row = flow[:, 0] if pool == "tok" else flow[:, extra:].mean(dim=1)  # (B, N)
    maps = row[:, extra:]
    return (maps / maps.sum(dim=-1, keepdim=True)).unflatten(-1, grid)


@torch.inference_mode()
def attention_maps(model: nn.Module, frames: Tensor) -> Tensor:
    """Rollout of an AlertCLIP's visual tower: frames (T, 3, H, W) uint8 -> (T, h, w), sums to 1."""
    visual, grid = model.clip.visual, model.grid
    with _recorded(visual) as blocks:
        model.encode_frames(frames[None])
    if not blocks:
        raise InputError("attention maps need a visual tower with split attention (a ViT)")
    return patch_maps(rollout(torch.stack(blocks)), grid, visual.pool_type).cpu()


@contextmanager
def _recorded(tower: nn.Module) -> Iterator[list[Tensor]]:
    """Collect (B, N, N) probabilities of every split attention that runs inside the block."""
    blocks: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        blocks.append(attention_probabilities(module, args[0] if args else kwargs["query"]))

    handles = [
        module.register_forward_pre_hook(record, with_kwargs=True)
        for module in tower.modules()
        if hasattr(module, "q_proj") and hasattr(module, "k_proj")
    ]
    try:
        yield blocks
    finally:
        for handle in handles:
            handle.remove()
