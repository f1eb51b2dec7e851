"""Vision towers of every family: one pass gives the image feature and the patch grid.

To add a family see CONTRIBUTING.md; here, describe its tower in ``take_apart``.
"""

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Literal, NamedTuple

from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from alertclip.attention import Projections
from alertclip.blip import BlipVision

PatchTokens = Literal["plain", "value"]


class Tower(NamedTuple):
    """What the families name differently. F frames, N tokens, h * w of them patches, D dimensions.

    ``patches``: tokens (F, N, width) after the last block -> patch tokens (F, h * w, D) in the
    space of the texts.
    """

    last: nn.Module  # its last block
    grid: tuple[int, int]  # h, w
    patches: Callable[[Tensor], Tensor]


def take_apart(visual: nn.Module) -> Tower:
    """The parts of a vision tower: BLIP's, SigLIP's (timm) or CLIP's (open_clip's own)."""
    if isinstance(visual, BlipVision):
        return Tower(visual.model.encoder.layers[-1], visual.grid, visual.patches)
    if isinstance(visual, TimmModel):
        trunk = visual.trunk
        grid = tuple(trunk.patch_embed.grid_size)
        return Tower(trunk.blocks[-1], grid, partial(_siglip_patches, visual))
    last, grid = visual.transformer.resblocks[-1], tuple(visual.grid_size)
    return Tower(last, grid, partial(_clip_patches, visual))


def _clip_patches(visual: nn.Module, tokens: Tensor) -> Tensor:
    return visual.ln_post(tokens[:, 1:]) @ visual.proj  # without the class token


def _siglip_patches(visual: TimmModel, tokens: Tensor) -> Tensor:
    """Each patch token pooled alone, where it gets all the attention.

    That is the feature of an image that has only this token, just as CLIP projects a patch.
    """
    trunk = visual.trunk
    x = trunk.attn_pool.values(trunk.norm(tokens[:, trunk.num_prefix_tokens :]))
    return visual.head(trunk.head(trunk.fc_norm(x)))


def image_and_patches(
    visual: nn.Module, pixels: Tensor, patch_tokens: PatchTokens | None = None
) -> tuple[Tensor, Tensor | None]:
    """Image features (F, D) of normalised pixels (F, 3, H, W), and patch grids (F, D, h, w).

    A grid is the last block's tokens, normed and projected like the image feature (supplementary
    C.2). "value" takes them from a last block without q and k, as FG-CLIP does, which keeps them
    local; None: no grids.
    """
    if patch_tokens is None:
        return visual(pixels), None
    tower, seen = take_apart(visual), []
    hook = tower.last.register_forward_hook(lambda _block, x, y: seen.append((x[0], y)))
    try:
        image = visual(pixels)
    finally:
        hook.remove()
    x, y = seen[0]
    tokens = value_path(tower.last, x) if patch_tokens == "value" else y
    return image, tower.patches(tokens).transpose(1, 2).unflatten(2, tower.grid)


def value_path(block: nn.Module, x: Tensor) -> Tensor:
    """A block in which each token attends to itself only: x (F, N, width) -> same shape."""
    parts = block.named_children()
    name, attention = next(part for part in parts if isinstance(part[1], Projections))
    # Copies share the weights, and are still local when checkpointing recomputes them.
    block, attention = copy(block), copy(attention)
    attention.local, block._modules = True, block._modules | {name: attention}
    return block(x)
