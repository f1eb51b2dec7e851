"""Vision towers, block by block: one pass gives the image feature and the patch grid.

To add a family: write a class like ``ClipTower``, return it from ``take_apart``, and load its
weights in ``backbone``.
"""

from typing import Literal

from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alertclip.blip import BlipVision

PatchTokens = Literal["plain", "value"]


class ClipTower:
    """CLIP, open_clip's own VisionTransformer, in the steps that every family has.

    F frames, N tokens, h * w of them patches, D dimensions; ``grid`` is (h, w).
    """

    def __init__(self, visual: nn.Module) -> None:
        self.visual, self.blocks = visual, visual.transformer.resblocks
        self.grid = tuple(visual.grid_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (F, 3, H, W) -> tokens (F, N, width) before the first block."""
        return self.visual._embeds(pixels)

    def image(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block -> image features (F, D), not normalised."""
        return self.visual._pool(tokens)[0] @ self.visual.proj

    def patches(self, tokens: Tensor) -> Tensor:
        """The same tokens -> patch tokens (F, h * w, D) in the space of the texts."""
        return self.visual.ln_post(tokens[:, 1:]) @ self.visual.proj  # without the class token

    def value_path(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block in which each token attends to itself only: x (F, N, width) -> same shape."""
        x = x + block.ls_1(block.attn.out_proj(block.attn.v_proj(block.ln_1(x))))
        return x + block.ls_2(block.mlp(block.ln_2(x)))


class SiglipTower:
    """SigLIP (Zhai et al. 2023): a timm vision transformer with attention pooling.

    A patch token goes through the pooling alone, where it gets all the attention: the result is the
    feature of an image that has only this token, just as CLIP projects a patch.
    """

    def __init__(self, visual: TimmModel) -> None:
        self.trunk, self.head = visual.trunk, visual.head
        self.blocks, self.grid = visual.trunk.blocks, tuple(visual.trunk.patch_embed.grid_size)

    def embed(self, pixels: Tensor) -> Tensor:
        x = self.trunk._pos_embed(self.trunk.patch_embed(pixels))
        return self.trunk.norm_pre(self.trunk.patch_drop(x))

    def image(self, tokens: Tensor) -> Tensor:
        return self.head(self.trunk.forward_head(self.trunk.norm(tokens)))

    def patches(self, tokens: Tensor) -> Tensor:
        trunk = self.trunk
        x = trunk.attn_pool.values(trunk.norm(tokens[:, trunk.num_prefix_tokens :]))
        return self.head(trunk.head(trunk.fc_norm(x)))

    def value_path(self, block: nn.Module, x: Tensor) -> Tensor:
        x = x + block.ls1(block.attn.out_proj(block.attn.v_proj(block.norm1(x))))
        return x + block.ls2(block.mlp(block.norm2(x)))


def take_apart(visual: nn.Module) -> ClipTower | SiglipTower | BlipVision:
    """The steps of a backbone's vision tower."""
    if isinstance(visual, BlipVision):
        return visual
    return SiglipTower(visual) if isinstance(visual, TimmModel) else ClipTower(visual)


def image_and_patches(
    visual: nn.Module,
    pixels: Tensor,
    patch_tokens: PatchTokens | None = None,
    every: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """Image features (F, D) of normalised pixels (F, 3, H, W), and patch grids (F, D, h, w).

    A grid is the last block's tokens, normed and projected like the image feature (supplementary
    C.2). "value" takes them from a last block without q and k, as FG-CLIP does, which keeps them
    local; None: no grids. ``every``: recompute every so many blocks in the backward pass, to save
    memory; 0 keeps all activations.
    """
    tower = take_apart(visual)
    y = tower.embed(pixels)
    for number, block in enumerate(tower.blocks):
        x = y
        recompute = block.training and every > 0 and number % every == 0
        y = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    image = tower.image(y)
    if patch_tokens is None:
        return image, None
    tokens = tower.value_path(block, x) if patch_tokens == "value" else y
    return image, tower.patches(tokens).transpose(1, 2).unflatten(2, tower.grid)
