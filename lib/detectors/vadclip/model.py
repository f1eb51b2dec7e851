"""The VadCLIP network (Wu et al. 2024): local and global adapter, two branches, two prompts.

Axis letters: B videos, T positions, C classes, D feature, L text slots and W text dimension.
Parameter names are those of the official checkpoints.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from open_clip.transformer import QuickGELU, Transformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from alertclip.errors import InputError
from detectors.text_tower import TextTower, Tokenizer
from detectors.vadclip.graph import (
    DistanceScale,
    GraphConvolution,
    distance_adjacency,
    distance_decay,
    similarity_adjacency,
    valid_positions,
    window_mask,
)
from detectors.vadclip.settings import VadCLIPSettings

EMBEDDING_STD = 0.01  # official code: positions and context


class VadCLIPOutput(NamedTuple):
    """Logits of the C-branch (B, T), and of the A-branch, over the temperature (B, T, C).

    adapted (B, T, D) are the features that both read.
    """

    logits1: Tensor
    logits2: Tensor
    adapted: Tensor


class Prompts(NamedTuple):
    """Embedded prompts (C, L, W) without the learned context, and where the context goes.

    A name of m tokens takes the slots [SOT][prefix][class, m][postfix][EOT] (eq. 5); what follows
    EOT is never seen by a causal tower. All slots but SOT, class and EOT are learned, by place,
    and shared by all classes.
    """

    fixed: Tensor  # (C, L, W), zero where learned
    learned: Tensor  # (C, L) bool
    eot: Tensor  # (C,) slot of EOT

    def fill(self, context: Tensor) -> Tensor:
        """Prompts with the learned slots (L, W) put in: (C, L, W)."""
        return torch.where(self.learned[..., None], context, self.fixed)


@torch.no_grad()
def layout(
    tokens: Tensor, embedding: nn.Module, names: Sequence[str], prefix: int, postfix: int
) -> Prompts:
    """Place SOT at 0, the m class tokens from 1 + prefix, EOT at 1 + prefix + m + postfix.

    tokens (C, L) hold SOT, the name, EOT (the largest of a row) and padding. Raises InputError for
    a name that has no room.
    """
    slots, learned, ends = torch.zeros_like(tokens), torch.ones_like(tokens).bool(), []
    for c, (name, row) in enumerate(zip(names, tokens, strict=True)):
        m = int(row.argmax()) - 1
        end = 1 + prefix + m + postfix
        if end >= len(row):
            raise InputError(
                f"class {name}: {m} tokens, prefix {prefix}, postfix {postfix} and 2 for start and"
                f" end do not fit into the {len(row)} of the text tower; lower prefix or postfix"
            )
        places = [0, *range(1 + prefix, 1 + prefix + m), end]
        slots[c, places], learned[c, places] = row[: m + 2], False
        ends.append(end)
    fixed = embedding(slots).float().masked_fill(learned[..., None], 0.0)
    return Prompts(fixed, learned, torch.tensor(ends, device=tokens.device))


class VadCLIP(nn.Module):
    """Detector on snippet features of CLIP, with the text tower of the same CLIP.

    ``clip`` is an open_clip CLIP; its text tower is copied and stays frozen. ``class_names`` start
    with the normal class; only the prompts depend on them, no weight does. New weights come from
    torch's seed. Raises InputError if classes or dimensions do not fit.
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Tokenizer,
        class_names: Sequence[str],
        settings: VadCLIPSettings,
    ) -> None:
        super().__init__()
        self.settings, self.class_names, self.text = settings, tuple(class_names), TextTower(clip)
        (slots, text_width), width = clip.positional_embedding.shape, clip.text_projection.shape[1]
        _check(class_names, width, settings.heads)
        tokens = tokenizer(list(class_names)).to(clip.token_embedding.weight.device)
        prompts = layout(
            tokens, clip.token_embedding, class_names, settings.prefix, settings.postfix
        )
        for name, value in prompts._asdict().items():
            self.register_buffer(f"prompt_{name}", value, persistent=False)
        self.temporal = Transformer(width, settings.layers, settings.heads, act_layer=QuickGELU)
        mask = window_mask(settings.length, settings.window)
        self.register_buffer("window_mask", mask, persistent=False)
        self._make_graph(width)
        self.linear = nn.Linear(width, width)
        self.mlp1, self.mlp2 = _mlp(width), _mlp(width)
        self.classifier = nn.Linear(width, 1)
        self.frame_position_embeddings = _embedding(settings.length, width)
        self.text_prompt_embeddings = _embedding(slots, text_width)

    def _make_graph(self, width: int) -> None:
        half = width // 2
        self.disAdj, self.activation = DistanceScale(), QuickGELU()
        if self.settings.variant == "paper":
            self.gc = nn.Linear(width, half, bias=False)  # the one W of eq. 1
            return
        decay = distance_decay(self.settings.length)
        self.register_buffer("distance_decay", decay, persistent=False)
        self.gc1, self.gc3 = GraphConvolution(width, half), GraphConvolution(width, half)
        self.gc2, self.gc4 = GraphConvolution(half, half), GraphConvolution(half, half)

    def forward(self, x: Tensor, lengths: Tensor, text: Tensor) -> VadCLIPOutput:
        """Features x (B, T, D), valid lengths (B,), t_out (C, D) of ``encode_text`` -> logits."""
        if x.shape[1] != self.settings.length:
            raise InputError(f"{x.shape[1]} positions, but length is {self.settings.length}")
        valid = valid_positions(lengths, x.shape[1])
        f = self.encode_video(x, valid)
        logits1 = self.classifier(f + self.mlp2(f))  # (B, T, 1), eq. 4
        prompted = text
        if self.settings.focus != "none":
            prompted = self.prompt_text(text, self.visual_prompt(f, logits1, valid))  # (B, C, D)
        cosine = normalize(f, dim=-1) @ normalize(prompted, dim=-1).mT
        return VadCLIPOutput(logits1.squeeze(-1), cosine / self.settings.temperature, f)

    def encode_text(self) -> Tensor:
        """t_out (C, D): the classes' names in their learned context, not normalised."""
        prompts = Prompts(self.prompt_fixed, self.prompt_learned, self.prompt_eot)
        return self.text(prompts.fill(self.text_prompt_embeddings.weight), prompts.eot)

    def encode_video(self, x: Tensor, valid: Tensor) -> Tensor:
        """Local module, global module and FC layer: x (B, T, D), valid (B, T) -> (B, T, D).

        As in the official code, padding takes part in the windows.
        """
        x = x + self.frame_position_embeddings.weight
        if self.settings.adapter in ("full", "local"):
            x = self.temporal(x, attn_mask=self.window_mask)
        if self.settings.adapter in ("local", "none"):
            return self.linear(x)
        similar = similarity_adjacency(x, valid, self.settings.similarity_threshold)
        if self.settings.variant == "paper":
            return self.linear(self._shared_graph(x, similar, valid))
        return self.linear(self._official_graph(x, similar))

    def visual_prompt(self, f: Tensor, logits1: Tensor, valid: Tensor) -> Tensor:
        """V (B, 1, D) of eq. 6: unit sum of f (B, T, D) by attention from logits1 (B, T, 1).

        official: the attention is the raw logit, and padding takes part; paper: the confidence.
        Table 7's average-frame prompt attends to all snippets of the video alike.
        """
        attention = logits1
        if self.settings.focus == "average":
            attention = valid[..., None].to(f.dtype)
        elif self.settings.variant == "paper":
            attention = logits1.sigmoid() * valid[..., None]
        return normalize(attention.mT @ f, dim=-1)

    def prompt_text(self, text: Tensor, visual: Tensor) -> Tensor:
        """T of eq. 7 from t_out (C, D) and V (B, 1, D): (B, C, D)."""
        both = text + visual
        return (text if self.settings.variant == "paper" else both) + self.mlp1(both)

    def _official_graph(self, x: Tensor, similar: Tensor) -> Tensor:
        h1 = self.activation(self.gc1(x, similar))
        h1 = self.activation(self.gc2(h1, similar))
        h2 = self.activation(self.gc3(x, self.distance_decay))
        h2 = self.activation(self.gc4(h2, self.distance_decay))
        return torch.cat([h1, h2], dim=-1)

    def _shared_graph(self, x: Tensor, similar: Tensor, valid: Tensor) -> Tensor:
        """Eq. 1; the text leaves open where its residual connection goes: here, around it all."""
        h, near = self.gc(x), distance_adjacency(valid, self.disAdj.sigma)
        return x + self.activation(torch.cat([similar @ h, near @ h], dim=-1))


def _mlp(width: int) -> nn.Sequential:
    layers = {
        "c_fc": nn.Linear(width, 4 * width),
        "gelu": QuickGELU(),
        "c_proj": nn.Linear(4 * width, width),
    }
    return nn.Sequential(OrderedDict(layers))


def _embedding(count: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(count, width)
    nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
    return embedding


def _check(class_names: Sequence[str], width: int, heads: int) -> None:
    if len(class_names) < 2:
        raise InputError("VadCLIP needs the normal class first and at least one abnormal class")
    if width % 2 or width % heads:
        raise InputError(f"VadCLIP: feature width {width} must be even and divisible by {heads}")
