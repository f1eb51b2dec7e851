"""A CLIP small enough to take apart: 2 blocks per tower, a 3 x 4 patch grid, 16 dimensions."""

import zlib
from typing import Any

import open_clip
import torch
from torch import Tensor

from alertclip.backbone import Backbone, from_clip
from alertclip.model import AlertCLIP

END = 49  # open_clip pools the text tower at the largest token
TEXTS = ["two men fight", "a calm street", "fire"]


def config(pool: str = "tok", quick_gelu: bool = True) -> dict[str, Any]:
    """open_clip's model_cfg of the tiny CLIP."""
    return {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8,
                       "image_size": [24, 32], "pool_type": pool},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2},
    }  # fmt: skip


def clip(pool: str = "tok", seed: int = 0, **options: Any) -> open_clip.CLIP:
    """The stock open_clip model of ``config``."""
    return random_clip(config(pool, **options), seed)


def random_clip(config: dict[str, Any], seed: int = 0) -> open_clip.CLIP:
    """A stock open_clip model with random weights and biases."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero at the start: a lost bias would not be noticed
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def tokenize(texts: list[str]) -> Tensor:
    """One token per word, by hash, then END and zeros: (C, 8)."""
    tokens = torch.zeros(len(texts), 8, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        words = [zlib.crc32(word.encode()) % (END - 1) + 1 for word in text.split()[:7]]
        row[: len(words) + 1] = torch.tensor([*words, END])
    return tokens


def backbone(pool: str = "tok", seed: int = 0, **options: Any) -> Backbone:
    """The tiny CLIP with split attention."""
    return from_clip(clip(pool, seed, **options), tokenize, "tiny", config(pool, **options))


def alertclip(pool: str = "tok", seed: int = 0, **options: Any) -> AlertCLIP:
    """An untrained AlertCLIP on the tiny CLIP, in evaluation mode."""
    return AlertCLIP(backbone(pool, seed), temporal_heads=2, **options).eval()


def frames(*shape: int, seed: int = 0, size: tuple[int, int] = (24, 32)) -> Tensor:
    """Random uint8 frames (*shape, 3, *size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3, *size), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def embeddings(model: AlertCLIP) -> list[Tensor]:
    """Embeddings of three frames, of their clip, of the frames within the clip, and of TEXTS."""
    images, mask = frames(1, 3, size=model.image_size), torch.ones(1, 3, dtype=torch.bool)
    clip = model.encode_clip(images, mask)
    return [model.encode_frames(images).v[0], clip.embedding, clip.z, model.encode_text(TEXTS)]


def stir(model: torch.nn.Module, seed: int = 1, scale: float = 0.3) -> None:
    """Move every trainable parameter, so that what starts at zero takes part."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += scale * noise.to(parameter)
