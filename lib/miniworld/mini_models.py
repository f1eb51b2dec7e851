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
from torch.nn.functional import log_softmax

CONTEXT_LENGTH, BATCH_SIZE = 40, 256
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """One stand-in: its pixels, its open_clip ``model_cfg`` by vocabulary size, its loss."""

    name: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    config: Callable[[int], dict[str, Any]]
    make: Callable[..., nn.Module]
    loss: Loss  # (model, unit images (B, D), unit texts (B, D), caption ids (B,)) -> scalar

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
    by_image = -(targets * log_softmax(logits, 1)).sum(1).mean()
    by_text = -(targets * log_softmax(logits.T, 1)).sum(1).mean()
    return (by_image + by_text) / 2


def _miniclip_config(vocab_size: int) -> dict[str, Any]:
    """A plain ViT-S-like tower, the code path of ViT-B/32."""
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 128,
            "patch_size": 16,
            "layers": 4,
            "width": 192,
            "head_width": 32,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "width": 192,
            "heads": 6,
            "layers": 2,
            "hf_tokenizer_name": "miniclip",  # read from the folder itself by open_clip
            "tokenizer_kwargs": {"clean": "lower"},
        },
    }


def _minisiglip_config(vocab_size: int) -> dict[str, Any]:
    """timm's one small ViT with attention pooling (9 blocks of 96), the code path of SigLIP.

    Stock open_clip must load it, so that only timm's own names and sizes can be used.
    """
    return {
        "embed_dim": 96,
        "init_logit_bias": 0.0,  # SigLIP's; a softmax does not see it
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit3",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "width": 192,
            "heads": 6,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "hf_tokenizer_name": "minisiglip",
            "tokenizer_kwargs": {"clean": "lower"},
        },
    }


def _siglip(**config: Any) -> nn.Module:
    """open_clip's SigLIP with its residual scales at one: SigLIP's towers have none."""
    model = CustomTextCLIP(**config)
    with torch.no_grad():
        for block in model.visual.trunk.blocks:
            block.ls1.gamma.fill_(1.0)
            block.ls2.gamma.fill_(1.0)
    return model


def _clip_loss(model: nn.Module, image: Tensor, text: Tensor, caption_ids: Tensor) -> Tensor:
    return soft_contrastive_loss(image, text, model.logit_scale.exp(), caption_ids)


HALF = (0.5, 0.5, 0.5)
RECIPES = {
    "clip": Recipe("MiniCLIP", 128, CLIP_MEAN, CLIP_STD, _miniclip_config, CLIP, _clip_loss),
    "siglip": Recipe("MiniSigLIP", 160, HALF, HALF, _minisiglip_config, _siglip, _clip_loss),
}
