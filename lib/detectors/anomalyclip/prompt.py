"""Learned prompts of the classes (section 3.1, CoOp).

A prompt is [SOT][context vectors][class tokens][.][EOT]; every class, the normal one included, has
context vectors of its own. Parameter names are those of the official checkpoints.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alertclip.errors import InputError
from detectors.text_tower import Tokenizer

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


def class_tokens(tokenizer: Tokenizer, class_names: Sequence[str], context: int) -> Tensor:
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
