"""The small stand-ins for CLIP and SigLIP: architectures and pre-training loss.

The architectures differ as the big ones do. MiniCLIP: open_clip's own ViT, causal text. MiniSigLIP
(Zhai et al. 2023): timm's ViT with attention pooling, bidirectional text pooled at its last slot.
Both are pre-trained with symmetric InfoNCE: SigLIP's pairwise sigmoid loss, made for batches of
32,768, learned almost nothing here in 400 steps of 256.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CONTEXT_LENGTH, BATCH_SIZE = 40, 256
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Recipe:
    """One stand-in: its pixels, its class, and what its open_clip ``model_cfg`` adds."""

    name: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    make: Callable[..., nn.Module]
    vision: dict[str, Any]
    text: dict[str, Any]
    whole: dict[str, Any]

    def config(self, vocab_size: int) -> dict[str, Any]:
        """open_clip's ``model_cfg``; the tokenizer's name makes open_clip read the folder's own."""
        text = {"context_length": CONTEXT_LENGTH, "vocab_size": vocab_size,
                "width": 192, "heads": 6, "layers": 2, **self.text,
                "hf_tokenizer_name": self.name.lower(),
                "tokenizer_kwargs": {"clean": "lower"}}  # fmt: skip
        vision = {"image_size": self.image_size, **self.vision}
        return {**self.whole, "vision_cfg": vision, "text_cfg": text}

    def build(self, vocab_size: int) -> nn.Module:
        """The model with random weights, by torch's seed."""
        config = self.config(vocab_size)
        config.pop("custom_text", None)  # read by open_clip's factory, as are the tokenizer's
        text = config["text_cfg"]
        text = {k: v for k, v in text.items() if not k.endswith(("_name", "_kwargs"))}
        return self.make(**config | {"text_cfg": text})


def soft_contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor, caption_ids: Tensor
) -> Tensor:
    """Symmetric InfoNCE whose target mass is shared by identical captions.

    image, text: (B, D) l2-normalised; caption_ids: (B,) equal where captions are equal.
    """
    targets = (caption_ids[:, None] == caption_ids[None, :]).float()
    targets = targets / targets.sum(1, keepdim=True)
    logits = scale * image.float() @ text.float().T
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def _siglip(**config: Any) -> nn.Module:
    """open_clip's SigLIP with its residual scales at one: SigLIP's towers have none."""
    model = CustomTextCLIP(**config)
    with torch.no_grad():
        for block in model.visual.trunk.blocks:
            block.ls1.gamma.fill_(1.0)
            block.ls2.gamma.fill_(1.0)
    return model


RECIPES = {
    "clip": Recipe(  # a plain ViT-S-like tower, the code path of ViT-B/32
        "MiniCLIP", 128, CLIP_MEAN, CLIP_STD, CLIP,
        {"patch_size": 16, "layers": 4, "width": 192, "head_width": 32, "pool_type": "avg"},
        {}, {"embed_dim": 128},
    ),
    # timm's one small ViT with attention pooling (9 blocks of 96): stock open_clip must load it,
    # so only timm's own names and sizes can be used.
    "siglip": Recipe(
        "MiniSigLIP", 160, HALF, HALF, _siglip,
        {"timm_model_name": "test_vit3", "timm_model_pretrained": False,
         "timm_pool": "map", "timm_proj": "none"},
        {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
        # the bias is SigLIP's; a softmax does not see it
        {"embed_dim": 96, "init_logit_bias": 0.0, "custom_text": True},
    ),
}  # fmt: skip
