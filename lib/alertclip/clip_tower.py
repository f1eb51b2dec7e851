"""CLIP: open_clip's own vision transformer and text tower."""

from torch import Tensor, nn


def fits(model: nn.Module) -> bool:
    """Is it such a model, with class-token or average pooling?"""
    visual = model.visual
    if not hasattr(visual, "transformer") or not hasattr(model, "transformer"):
        return False
    return visual.attn_pool is None and visual.pool_type in ("tok", "avg")


class ClipTower:
    """Steps of open_clip's VisionTransformer."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual, self.blocks = visual, visual.transformer.resblocks
        self.grid = tuple(visual.grid_size)

    def embed(self, pixels: Tensor) -> Tensor:
        return self.visual._embeds(pixels)

    def image(self, tokens: Tensor) -> Tensor:
        return self.visual._pool(tokens)[0] @ self.visual.proj

    def patches(self, tokens: Tensor) -> Tensor:
        return self.visual.ln_post(tokens[:, 1:]) @ self.visual.proj  # without the class token

    def value_path(self, block: nn.Module, x: Tensor) -> Tensor:
        x = x + block.ls_1(block.attn.out_proj(block.attn.v_proj(block.ln_1(x))))
        return x + block.ls_2(block.mlp(block.ln_2(x)))
