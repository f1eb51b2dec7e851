"""The vision tower step by step: one pass gives the image feature and the patch grid."""

import os
import shutil
import sys
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alertclip.errors import InputError
from alertclip.families import take_apart

PatchTokens = Literal["plain", "value"]


def checkpoint_every(policy: str | int) -> int:
    """Checkpointing policy none, all or k as a number: every how many blocks, 0 = never."""
    every = {"none": "0", "all": "1"}.get(str(policy), str(policy))
    if not every.isdigit():
        raise InputError(f"checkpointing: {policy!r} is neither none, all nor a number of blocks")
    return int(every)


def image_and_patches(
    visual: nn.Module,
    pixels: Tensor,
    patch_tokens: PatchTokens | None = None,
    every: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """Image features (F, D) of normalised pixels (F, 3, H, W), and patch grids (F, D, h, w).

    A grid is the last block's tokens, normed and projected as the image feature is (supplementary
    C.2), hence in the space of the texts. "value" takes them from a last block without q and k, as
    FG-CLIP does, since a token that has attended everywhere says little about its own place. None
    skips grids. Every ``every``-th block, from the lowest that learns, is recomputed in the
    backward pass; 0 keeps all activations.
    """
    return from_tokens(visual, take_apart(visual).embed(pixels), 0, patch_tokens, every)


def from_tokens(
    visual: nn.Module,
    x: Tensor,
    depth: int,
    patch_tokens: PatchTokens | None = None,
    every: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """``image_and_patches`` from the tokens x (F, N, width) that enter block ``depth`` on."""
    tower, lowest = take_apart(visual), frozen_depth(visual) if every else 0
    *blocks, last = tower.blocks
    for number, block in enumerate(blocks[depth:], depth):
        x = _run(block, x, every > 0 and (number - lowest) % every == 0)
    y = _run(last, x, every > 0 and (len(blocks) - lowest) % every == 0)
    image = tower.image(y)
    if patch_tokens is None:
        return image, None
    tokens = tower.value_path(last, x) if patch_tokens == "value" else y
    return image, tower.patches(tokens).transpose(1, 2).unflatten(2, tower.grid)


def frozen_depth(visual: nn.Module) -> int:
    """Blocks below the lowest trainable parameter, never the last: patches may be its values."""
    blocks = take_apart(visual).blocks
    learned = [any(p.requires_grad for p in block.parameters()) for block in blocks]
    inside = {id(p) for p in blocks.parameters()}
    if any(p.requires_grad and id(p) not in inside for p in visual.parameters()):
        return 0
    return [*learned[:-1], True].index(True)


@torch.no_grad()
def frozen_tokens(visual: nn.Module, pixels: Tensor, depth: int) -> Tensor:
    """Tokens (F, N, width) that enter block ``depth``, for blocks below that learn nothing."""
    tower = take_apart(visual)
    x = tower.embed(pixels)
    for block in tower.blocks[:depth]:
        x = block(x)
    return x


def compile_blocks(visual: nn.Module) -> None:
    """Let torch.compile fuse each block when it first runs; weights and their names stay.

    All blocks share one compiled program. Results are those of the plain blocks up to rounding,
    dropout included. Raises InputError without a C++ compiler.
    """
    usual = "clang++" if sys.platform == "darwin" else "g++"
    if not shutil.which(os.environ.get("CXX", usual)):
        raise InputError("compile=true needs a C++ compiler: install g++, or leave compile=false")
    from torch._inductor import config

    config.fallback_random = True  # the masks that the plain blocks draw
    for block in take_apart(visual).blocks:
        block.compile()


def _run(block: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    if recompute and block.training:
        return checkpoint(block, x, use_reentrant=False)
    return block(x)
