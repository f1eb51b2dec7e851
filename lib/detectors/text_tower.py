"""The text tower of a CLIP as both detectors use it: learned prompts in, class vectors out."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from alertclip.errors import InputError

Tokenizer = Callable[[list[str]], Tensor]


class TextTower(nn.Module):
    """A frozen copy of the text tower of an open_clip CLIP, with stock or split attention.

    Raises InputError unless it is causal, pooled at its last token and projected by a matrix.
    """

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        matrix = isinstance(getattr(clip, "text_projection", None), nn.Parameter)
        pooled = getattr(clip, "text_pool_type", "argmax") == "argmax"
        if not matrix or not pooled or clip.attn_mask is None:
            raise InputError("the detectors need the text tower of a CLIP; choose such a backbone")
        self.transformer = deepcopy(clip.transformer).float()
        self.ln_final = deepcopy(clip.ln_final).float()
        self.positional_embedding = nn.Parameter(clip.positional_embedding.detach().float().clone())
        self.text_projection = nn.Parameter(clip.text_projection.detach().float().clone())
        self.register_buffer("attn_mask", clip.attn_mask.clone(), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "TextTower":
        """Stay in evaluation mode: a frozen tower drops nothing out."""
        return super().train(False)

    def forward(self, prompts: Tensor, end: Tensor) -> Tensor:
        """Embedded prompts (C, L, W) and the place of each [EOT] (C,) -> (C, D), not normalised."""
        x = self.transformer(prompts + self.positional_embedding, attn_mask=self.attn_mask)
        x = self.ln_final(x)[torch.arange(len(x), device=x.device), end]
        return x @ self.text_projection
