"""SigLIP (Zhai et al. 2023): a timm vision transformer with attention pooling, bidirectional text.

Pre-trained with the sigmoid loss, it is tuned with the paper's InfoNCE as every family is. Its
bias then plays no part: it is common to all pairs and cancels in the softmax.
"""

from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def fits(model: nn.Module) -> bool:
    """Is it an open_clip model of this kind, not yet split?"""
    visual, text = model.visual, getattr(model, "text", None)
    if not isinstance(visual, TimmModel) or not isinstance(text, TextTransformer):
        return False
    trunk = visual.trunk
    return isinstance(trunk, VisionTransformer) and isinstance(trunk.attn_pool, AttentionPoolLatent)


class SiglipTower:
    """Steps of a timm tower inside open_clip.

    The last block's tokens are not in the space of the texts before the pooling has projected
    them. A patch token therefore goes through the pooling alone, where it gets all the attention:
    value and output projection, then the pooling's MLP. It is the image feature of an image of
    that one token, as CLIP's projected patch is.
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
