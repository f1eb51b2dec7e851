"""Where and when the model looks: maps over patches, pooling weights over frames.

Rollout is Abnar and Zuidema (2020), section 3: heads averaged, half of each block's flow kept by
the residual connection, blocks multiplied. Relevance is Chefer, Gur and Wolf (ICCV 2021, "Generic
attention-model explainability"), section 3.2: attention times its gradient for a chosen text.
The paper shows maps (Figure 5) without saying how. Axis letters: F frames, N tokens, h w patches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from alertclip.errors import InputError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class FrameMaps(NamedTuple):
    """Maps of the same F frames, each (F, h, w) with sum 1 per frame."""

    rollout: Tensor
    relevance: Tensor


def head_probabilities(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) of each head: q (B, N, D), k (B, M, D) -> (B, heads, N, M)."""
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2).float() for x in (q, k))
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)


def weighted_values(probabilities: Tensor, v: Tensor) -> Tensor:
    """A v with heads joined: (B, heads, N, M), v (B, M, D) -> (B, N, D)."""
    heads = v.unflatten(-1, (probabilities.shape[1], -1)).transpose(1, 2).float()
    return (probabilities @ heads).transpose(1, 2).flatten(2)


def rollout(attention: Tensor) -> Tensor:
    """Flow of attention through L blocks: (L, B, N, N), rows sum to 1 -> (B, N, N), likewise."""
    identity = torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    flow = identity
    for block in attention:
        flow = (0.5 * block + 0.5 * identity) @ flow
    return flow


def gradient_weighted(attention: Tensor, gradient: Tensor) -> Tensor:
    """Chefer et al. (2021), eq. 5: mean over heads of the positive part of gradient * attention.

    Both (B, heads, N, M) -> (B, N, M).
    """
    return (gradient * attention).clamp(min=0).mean(dim=1)


def relevance(weighted: Tensor) -> Tensor:
    """Chefer et al. (2021), eq. 6 from R = I: R + A R block by block, (L, B, N, N) -> (B, N, N)."""
    total = torch.eye(weighted.shape[-1], dtype=weighted.dtype, device=weighted.device)
    for block in weighted:
        total = total + block @ total
    return total


def patch_maps(flow: Tensor, grid: tuple[int, int], pool: str) -> Tensor:
    """Share of each patch in the pooled image feature: flow (B, N, N) -> (B, h, w), sums to 1.

    ``pool`` is open_clip's: "tok" reads the class token, "avg" the mean over patch tokens.
    """
    extra = _extra_tokens(flow.shape[-1], grid)
    if pool == "tok" and not extra:
        raise InputError(f"{flow.shape[-1]} tokens of a {grid[0]} x {grid[1]} grid: no class token")
    row = flow[:, 0] if pool == "tok" else flow[:, extra:].mean(dim=1)
    return token_maps(row, grid)


def token_maps(row: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weights of the tokens (B, N), at least 0 -> patches (B, h, w), sum 1; all 0: uniform."""
    patches = row[:, _extra_tokens(row.shape[-1], grid) :]
    total = patches.sum(dim=-1, keepdim=True)
    uniform = torch.full_like(patches, 1 / patches.shape[-1])
    return torch.where(total > 0, patches / total, uniform).unflatten(-1, grid)


@torch.inference_mode()
def attention_maps(model: nn.Module, frames: Tensor) -> Tensor:
    """Rollout of an AlertCLIP's visual tower: frames (T, 3, H, W) uint8 -> (T, h, w), sums to 1."""
    visual = _tower(model)
    with explicit_attention(visual) as blocks:
        model.image_features(frames)
    return _rollout_maps(visual, blocks, model.grid).cpu()


def frame_maps(model: nn.Module, frames: Tensor, directions: Tensor) -> FrameMaps:
    """Rollout, and relevance of each patch to the frame's similarity with its direction.

    frames (F, 3, H, W) uint8; directions (F, D), any length: a text's unit embedding, the
    difference of two, or ``frame_gradients``. Where nothing speaks for a direction, the map is
    uniform. InputError where the tower cannot be explained.
    """
    visual = _tower(model)
    with torch.enable_grad(), explicit_attention(visual) as blocks, _pooled(visual) as tokens:
        v = normalize(model.image_features(frames), dim=-1)
        score = (v * directions).sum()  # frames do not see each other here
        kept = [*blocks, *tokens]
        gradients = torch.autograd.grad(score, kept)
    with torch.no_grad():
        weighted = [gradient_weighted(*pair) for pair in zip(blocks, gradients, strict=False)]
        weights = None
        if tokens:  # the mean is attention with constant weights: eq. 5 holds for it too
            weights = (tokens[0] * gradients[-1]).sum(dim=-1).clamp(min=0)
        read = _relevance_maps(visual, weighted, weights, model.grid)
        return FrameMaps(_rollout_maps(visual, blocks, model.grid).cpu(), read.cpu())


def frame_gradients(model: nn.Module, v: Tensor, mask: Tensor, direction: Tensor) -> Tensor:
    """Gradient of the summed frame scores in each frame embedding: v (B, T, D) -> (B, T, D).

    A frame's score is logit_scale * z_t . direction after the temporal transformer, as in the
    frame metrics; mask (B, T), direction (D,). It carries a text back to what a frame adds.
    """
    with torch.enable_grad():
        v = v.clone().requires_grad_()
        z = normalize(model.pool_frames(v, mask).z.float(), dim=-1)
        score = model.logit_scale.exp() * (z @ direction)[mask].sum()
        return torch.autograd.grad(score, v)[0].detach()


@contextmanager
def explicit_attention(tower: nn.Module) -> Iterator[list[Tensor]]:
    """Compute every attention inside the block from explicit probabilities, and collect them.

    Yields a list that fills with (B, heads, N, M) in running order; gradients pass through them.
    Raises InputError if a tower has no split attention, or one whose own output is another
    (masks, normalised queries): its map would be of a different model.
    """
    blocks: list[Tensor] = []
    handles = [
        handle
        for name, module in tower.named_modules()
        if all(hasattr(module, projection) for projection in PROJECTIONS)
        for handle in _watch(name, module, blocks)
    ]
    if not handles:
        raise InputError("attention maps need a visual tower with split attention (a ViT)")
    try:
        yield blocks
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, attention: nn.Module, blocks: list[Tensor]) -> list[Any]:
    """Hooks that put the explicit product in front of the output projection."""
    parts: dict[str, Tensor] = {}

    def keep(part: str) -> Any:
        return lambda _module, _args, output: parts.update({part: output})

    def replace(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        q, k, v = (parts.pop(part, None) for part in PROJECTIONS[:3])
        if q is None or k is None:  # a path that skips attention
            return None
        probabilities = head_probabilities(q, k, attention.num_heads)
        if torch.is_grad_enabled() and not probabilities.requires_grad:
            probabilities.requires_grad_()
        explicit = weighted_values(probabilities, v).to(args[0].dtype)
        if explicit.shape != args[0].shape or not _close(explicit, args[0]):
            raise InputError(f"{name}: not softmax(q k / sqrt d) v, so it cannot be explained")
        blocks.append(probabilities)
        return (explicit,)

    kept = [getattr(attention, p).register_forward_hook(keep(p)) for p in PROJECTIONS[:3]]
    return [*kept, attention.out_proj.register_forward_pre_hook(replace)]


def _close(explicit: Tensor, fused: Tensor) -> bool:
    tolerance = 0.05 if fused.dtype in (torch.bfloat16, torch.float16) else 1e-3
    return bool((explicit - fused).abs().max() <= tolerance * (1 + fused.abs().max()))


@contextmanager
def _pooled(visual: nn.Module) -> Iterator[list[Tensor]]:
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


def _tower(model: nn.Module) -> nn.Module:
    visual = getattr(model.clip, "visual", None)
    if visual is None:
        raise InputError("attention maps need a visual tower (model.clip.visual)")
    return visual


def _split(visual: nn.Module, blocks: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor | None]:
    """Self-attention blocks, and the attention that pools (fewer queries than keys) if any."""
    pools = blocks[-1].shape[-2] != blocks[-1].shape[-1]
    if not pools and getattr(visual, "pool_type", None) not in ("tok", "avg"):
        raise InputError("this tower's pooling cannot be explained: no class token, mean or query")
    return (blocks[:-1], blocks[-1]) if pools else (blocks, None)


def _rollout_maps(visual: nn.Module, blocks: list[Tensor], grid: tuple[int, int]) -> Tensor:
    layers, query = _split(visual, [block.detach().mean(dim=1) for block in blocks])
    flow = rollout(torch.stack(list(layers)))
    if query is None:
        return patch_maps(flow, grid, visual.pool_type)
    return token_maps(_through(query.mean(dim=1), flow), grid)


def _relevance_maps(
    visual: nn.Module, weighted: list[Tensor], weights: Tensor | None, grid: tuple[int, int]
) -> Tensor:
    layers, query = _split(visual, weighted)
    total = relevance(torch.stack(list(layers)))
    if query is not None:
        weights = query.mean(dim=1)
    if weights is None:
        return patch_maps(total, grid, "tok")
    return token_maps(_through(weights, total), grid)


def _through(weights: Tensor, flow: Tensor) -> Tensor:
    """weights (B, N) of the pooled tokens, flow (B, N, N) -> weights of the input tokens."""
    return (weights[:, None] @ flow)[:, 0]


def _extra_tokens(tokens: int, grid: tuple[int, int]) -> int:
    """Class tokens in front of the patches: 0 or 1."""
    extra = tokens - grid[0] * grid[1]
    if extra not in (0, 1):
        raise InputError(f"{tokens} tokens do not fit a {grid[0]} x {grid[1]} patch grid")
    return extra
