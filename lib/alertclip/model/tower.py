"""The vision tower step by step: one pass gives the image feature and the patch grid."""

from typing import Literal

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alertclip.errors import InputError

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

    A grid is the last block's tokens after ``ln_post`` and ``proj`` (supplementary C.2), hence in
    the space of the texts. "value" takes them from a last block without q and k, as FG-CLIP does,
    since a token that has attended everywhere says little about its own place. None skips grids.
    Every ``every``-th block is recomputed in the backward pass; 0 keeps all activations.
    """
    x = visual._embeds(pixels)
    *blocks, last = visual.transformer.resblocks
    for number, block in enumerate(blocks):
        x = _run(block, x, every > 0 and number % every == 0)
    y = _run(last, x, every > 0 and len(blocks) % every == 0)
    pooled = visual._pool(y)[0] @ visual.proj
    if patch_tokens is None:
        return pooled, None
    tokens = value_path(last, x) if patch_tokens == "value" else y
    grid = visual.ln_post(tokens[:, 1:]) @ visual.proj  # without the class token
    return pooled, grid.transpose(1, 2).unflatten(2, visual.grid_size)


def value_path(block: nn.Module, x: Tensor) -> Tensor:
    """A block whose tokens attend to themselves only: x (F, N, width) -> the same shape."""
    x = x + block.ls_1(block.attn.out_proj(block.attn.v_proj(block.ln_1(x))))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _run(block: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    if recompute and block.training:
        return checkpoint(block, x, use_reentrant=False)
    return block(x)
