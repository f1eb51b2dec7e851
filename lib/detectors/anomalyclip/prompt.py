"""Learned prompts of the classes and the text tower that reads them (section 3.1, CoOp).

A prompt is [SOT][context vectors][class tokens][.][EOT]; every class, the normal one included, has
context vectors of its own. Parameter names are those of the official checkpoints.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from alertclip.errors import InputError

CONTEXT_STD = 0.02  # Appendix A


class PromptLearner(nn.Module):
    """Context vectors ``ctx`` (C+1, n, W) between the fixed embeddings of the other tokens.

    ``tokens`` (C+1, L) are the class names' own, from ``class_tokens``; W is the text width.
    """

    def __init__(self, token_embedding: nn.Embedding, tokens: Tensor, context: int) -> None:
        super().__init__()
        with torch.no_grad():
            embedded = token_embedding(tokens.to(token_embedding.weight.device)).float()
        self.ctx = nn.Parameter(torch.randn(len(tokens), context, embedded.shape[-1]) * CONTEXT_STD)
        self.register_buffer("token_prefix", embedded[:, :1].clone())
        # What the context pushes out at the end is padding: class_tokens has made sure.
        self.register_buffer("token_suffix", embedded[:, 1 : tokens.shape[1] - context].clone())

    def forward(self) -> Tensor:
        """Embedded prompts (C+1, L, W)."""
        return torch.cat([self.token_prefix, self.ctx, self.token_suffix], dim=1)


class TextEncoder(nn.Module):
    """A copy of CLIP's text tower, frozen but for its projection; the CLIP itself never changes."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        if not isinstance(getattr(clip, "text_projection", None), nn.Parameter):
            raise InputError("AnomalyCLIP needs a CLIP whose text projection is a plain matrix")
        if getattr(clip, "text_pool_type", "argmax") != "argmax":
            raise InputError("AnomalyCLIP needs a CLIP that pools its text at the largest token")
        self.transformer = deepcopy(clip.transformer).float()
        self.positional_embedding = nn.Parameter(clip.positional_embedding.detach().float().clone())
        self.ln_final = deepcopy(clip.ln_final).float()
        self.text_projection = nn.Parameter(clip.text_projection.detach().float().clone())
        self.register_buffer("attn_mask", deepcopy(clip.attn_mask), persistent=False)
        self.requires_grad_(False)
        self.text_projection.requires_grad_(True)

    def forward(self, prompts: Tensor, end: Tensor) -> Tensor:
        """prompts (C+1, L, W), end (C+1,) the place of [EOT] -> text features (C+1, D)."""
        x = self.transformer(prompts + self.positional_embedding, attn_mask=self.attn_mask)
        return self.ln_final(x)[torch.arange(len(x)), end] @ self.text_projection


def class_tokens(
    tokenizer: Callable[[list[str]], Tensor], class_names: Sequence[str], context: int
) -> Tensor:
    """Token ids (C+1, L) of "class name." with underscores as spaces, [EOT] the largest of a row.

    Raises InputError for a name that does not leave room for ``context`` tokens before it.
    """
    tokens = tokenizer([f"{name.replace('_', ' ')}." for name in class_names])
    room = tokens.shape[1] - context
    for name, end in zip(class_names, tokens.argmax(dim=1).tolist(), strict=True):
        if end >= room:
            raise InputError(
                f"class {name}: {end + 1} tokens and {context} of context do not fit into the"
                f" {tokens.shape[1]} of the text encoder; shorten the name or context_tokens"
            )
    return tokens
