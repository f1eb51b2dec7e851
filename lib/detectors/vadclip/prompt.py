"""Learned context around class names inside a frozen text tower (VadCLIP, Wu et al. 2024, eq. 5).

The slots of a name of m tokens: [SOT][prefix][class, m][postfix][EOT], then what follows EOT, which
a causal tower cannot see from there. All slots but SOT, class and EOT are learned, by place, and
shared by all classes.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from alertclip.errors import InputError


class TextTower(Protocol):
    """What VadCLIP needs of a text encoder: L slots of width W in, D dimensions out."""

    context_length: int  # L
    width: int  # W
    embed_dim: int  # D

    def tokenize(self, names: Sequence[str]) -> Tensor:
        """Token ids (C, L): SOT, the name, EOT, which is the largest id of its row, padding."""

    def token_embedding(self, tokens: Tensor) -> Tensor:
        """Token ids (...) -> embeddings (..., W)."""

    def encode(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        """Embeddings without positions (C, L, W), slots of EOT (C,) -> (C, D), not normalised."""


class CLIPText(nn.Module):
    """The text tower of an open_clip CLIP, stock or with split attention; a frozen copy of it."""

    def __init__(self, clip: nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> None:
        super().__init__()
        if not isinstance(getattr(clip, "text_projection", None), nn.Parameter):
            raise InputError("VadCLIP needs a CLIP whose text projection is a plain matrix")
        if clip.attn_mask is None or getattr(clip, "text_pool_type", "argmax") != "argmax":
            raise InputError("VadCLIP needs a CLIP with causal text, pooled at the largest token")
        self.tokenizer = tokenizer
        self.token_embedding = deepcopy(clip.token_embedding).float()
        self.transformer = deepcopy(clip.transformer).float()
        self.ln_final = deepcopy(clip.ln_final).float()
        for name in ("positional_embedding", "text_projection"):
            self.register_buffer(name, getattr(clip, name).detach().float().clone())
        self.register_buffer("attn_mask", clip.attn_mask.clone())
        self.context_length, self.width = self.positional_embedding.shape
        self.embed_dim = self.text_projection.shape[1]
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "CLIPText":
        """Stay in evaluation mode: what is frozen drops nothing out."""
        return super().train(False)

    def tokenize(self, names: Sequence[str]) -> Tensor:
        return self.tokenizer(list(names)).to(self.positional_embedding.device)

    def encode(self, embeddings: Tensor, eot: Tensor) -> Tensor:
        x = self.transformer(embeddings + self.positional_embedding, attn_mask=self.attn_mask)
        return self.ln_final(x)[torch.arange(len(x), device=x.device), eot] @ self.text_projection


class Prompts(NamedTuple):
    """Prompts before the learned context is in: C classes, L slots, W text dimensions."""

    fixed: Tensor  # (C, L, W): embeddings of SOT, class tokens and EOT, zero elsewhere
    learned: Tensor  # (C, L): True where a slot is learned
    eot: Tensor  # (C,): the slot of EOT

    def fill(self, context: Tensor) -> Tensor:
        """Prompts with the learned slots (L, W) put in: (C, L, W)."""
        return torch.where(self.learned[..., None], context, self.fixed)


@torch.no_grad()
def layout(text: TextTower, names: Sequence[str], prefix: int, postfix: int) -> Prompts:
    """Place SOT at 0, the m class tokens from 1 + prefix, EOT at 1 + prefix + m + postfix.

    Raises InputError for a name that has no room in the context length of ``text``.
    """
    tokens = text.tokenize(names)  # (C, L)
    slots = torch.zeros_like(tokens)
    learned = torch.ones_like(tokens, dtype=torch.bool)
    ends = []
    for c, (name, row) in enumerate(zip(names, tokens, strict=True)):
        m = int(row.argmax()) - 1  # EOT is the largest, after SOT and m tokens
        end = 1 + prefix + m + postfix
        _check_room(name, m, prefix, postfix, text.context_length)
        places = [0, *range(1 + prefix, 1 + prefix + m), end]
        slots[c, places] = row[: m + 2]
        learned[c, places] = False
        ends.append(end)
    fixed = text.token_embedding(slots).masked_fill(learned[..., None], 0.0)
    return Prompts(fixed, learned, torch.tensor(ends, device=tokens.device))


def _check_room(name: str, tokens: int, prefix: int, postfix: int, context_length: int) -> None:
    if tokens + prefix + postfix + 2 > context_length:
        raise InputError(
            f"class {name}: {tokens} tokens, prefix {prefix}, postfix {postfix} and 2 for start and"
            f" end do not fit into the {context_length} of the text tower; lower prefix or postfix"
        )
