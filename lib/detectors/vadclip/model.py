"""The VadCLIP network: local and global adapter, two branches, two prompts.

Wu, Zhou, Pang, Zhou, Yan, Wang and Zhang, "VadCLIP: Adapting vision-language models for weakly
supervised video anomaly detection", AAAI 2024 (official code: nwpu-zxr/VadCLIP).
Axis letters: B videos, T positions, C classes, D feature, L text slots and W text dimension.
Parameter names are those of the official checkpoints.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from open_clip.transformer import QuickGELU, Transformer
from torch import Tensor, nn
from torch.nn.functional import normalize, pad, threshold

from detectors.detector_parts import Features, TextTower, Tokenizer, VideoScores, as_features
from detectors.training_protocol import VadCLIPSettings
from media.errors import InputError

CHUNKS = 32  # scored at once: bounds memory and changes no score


@torch.no_grad()
def prompt_layout(
    tokens: Tensor, embedding: nn.Module, names: Sequence[str], prefix: int, postfix: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed embeddings (C, L, W), slots with learned context (C, L), slot of EOT (C,).

    A name of m tokens takes the slots [SOT][prefix][class, m][postfix][EOT] (eq. 5); all others are
    learned and shared by all classes. tokens (C, L) hold SOT, the name, EOT (the largest of a row)
    and padding. Raises InputError for a name that is too long.
    """
    slots, learned = torch.zeros_like(tokens), torch.ones_like(tokens).bool()
    end = tokens.argmax(dim=1) + prefix + postfix
    for c, (name, row) in enumerate(zip(names, tokens, strict=True)):
        m = int(row.argmax()) - 1
        if end[c] >= len(row):
            have = f"class {name}: {m} tokens, prefix {prefix} and postfix {postfix}"
            raise InputError(f"{have} do not fit into the {len(row)} of the text tower; lower one")
        places = [0, *range(1 + prefix, 1 + prefix + m), int(end[c])]
        slots[c, places], learned[c, places] = row[: m + 2], False
    return embedding(slots).float(), learned, end


def row_softmax(h: Tensor, valid: Tensor) -> Tensor:
    """Softmax of h (..., T, T), values up to about 1, over valid (B, T) rows and columns."""
    weights = h.exp() * (valid[:, :, None] & valid[:, None, :])
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(h.dtype).tiny)


class GraphConvolution(nn.Module):
    """A x W + residual(x); where the width changes, the residual is a convolution over time."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, out)))
        self.residual = nn.Identity() if width == out else nn.Conv1d(width, out, 5, padding=2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """x (B, T, width), adjacency (B, T, T) or (T, T) -> (B, T, out)."""
        return adjacency @ (x @ self.weight) + self.residual(x.mT).mT


class VadCLIP(nn.Module):
    """Detector on snippet features, with a frozen copy of the text tower; names[0] is normal."""

    def __init__(
        self, clip: nn.Module, tokenizer: Tokenizer, names: Sequence[str], settings: VadCLIPSettings
    ) -> None:
        super().__init__()
        self.settings, self.text = settings, TextTower(clip)
        (slots, text_width), width = clip.positional_embedding.shape, clip.text_projection.shape[1]
        if width % settings.heads:
            raise InputError(f"VadCLIP: {settings.heads} heads do not divide the width {width}")
        tokens = tokenizer(list(names)).to(clip.token_embedding.weight.device)
        context = settings.prefix, settings.postfix
        prompts = prompt_layout(tokens, clip.token_embedding, names, *context)
        for name, part in zip(("fixed", "learned", "eot"), prompts, strict=True):
            self.register_buffer(f"prompt_{name}", part, persistent=False)
        layers = width, settings.layers, settings.heads
        self.temporal = Transformer(*layers, act_layer=QuickGELU)
        window = torch.arange(settings.length) // (settings.window or settings.length)
        apart = window[:, None] != window  # attention stays within a window
        mask = torch.zeros(apart.shape).masked_fill(apart, float("-inf"))
        self.register_buffer("window_mask", mask, persistent=False)
        self._make_graph(width)
        if settings.adapter == "transformers":  # over all positions, in place of the graph
            self.whole = Transformer(*layers, act_layer=QuickGELU)
        self.linear = nn.Linear(width, width)
        self.mlp1, self.mlp2 = _mlp(width), _mlp(width)
        self.classifier = nn.Linear(width, 1)
        self.frame_position_embeddings = _embedding(settings.length, width)
        self.text_prompt_embeddings = _embedding(slots, text_width)

    def _make_graph(self, width: int) -> None:
        half, place = width // 2, torch.arange(self.settings.length, dtype=torch.float32)
        apart = (place[:, None] - place[None, :]).abs()
        self.activation = QuickGELU()
        self.disAdj = nn.Module()  # sigma of eq. 3: official checkpoints hold it and do not use it
        self.disAdj.register_buffer("sigma", torch.ones(1))
        if self.settings.variant == "paper":
            self.gc = nn.Linear(width, half, bias=False)  # the one W of eq. 1
            self.register_buffer("distances", apart, persistent=False)
            return
        # A_dis of the official code, not normalised
        self.register_buffer("distance_decay", torch.exp(-apart / math.e), persistent=False)
        for name, inputs in (("gc1", width), ("gc3", width), ("gc2", half), ("gc4", half)):
            setattr(self, name, GraphConvolution(inputs, half))

    def forward(self, x: Tensor, lengths: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features x (B, T, D), valid lengths (B,), t_out (C, D) of ``encode_text``.

        Returns logits of the C-branch (B, T), those of the A-branch (B, T, C) divided by the
        temperature, and the features that both read (B, T, D).
        """
        valid = torch.arange(x.shape[1], device=lengths.device) < lengths[:, None]  # not padding
        f = self.encode_video(x, valid)
        logits1 = self.classifier(f + self.mlp2(f))  # (B, T, 1), eq. 4
        if self.settings.focus != "none":
            both = text + self.visual_prompt(f, logits1, valid)  # (B, C, D)
            text = (text if self.settings.variant == "paper" else both) + self.mlp1(both)  # eq. 7
        cosine = normalize(f, dim=-1) @ normalize(text, dim=-1).mT
        return logits1.squeeze(-1), cosine / self.settings.temperature, f

    def encode_text(self) -> Tensor:
        """t_out (C, D): the classes' names in their learned context, not normalised."""
        context, learned = self.text_prompt_embeddings.weight, self.prompt_learned[..., None]
        return self.text(torch.where(learned, context, self.prompt_fixed), self.prompt_eot)

    def encode_video(self, x: Tensor, valid: Tensor) -> Tensor:
        """Local module (sees padding, official), global one and FC: x (B, T, D) -> (B, T, D)."""
        x = x + self.frame_position_embeddings.weight
        if self.settings.adapter in ("full", "local", "transformers"):
            x = self.temporal(x, attn_mask=self.window_mask)
        if self.settings.adapter in ("full", "graph"):
            x = self._graph(x, valid)
        elif self.settings.adapter == "transformers":
            x = self.whole(x)
        return self.linear(x)

    def _graph(self, x: Tensor, valid: Tensor) -> Tensor:
        """Global module (eq. 1); the paper does not place its residual, ours goes around it all.

        Cosines of eq. 2 up to the threshold become 0, not -inf (official), so they weigh exp(0).
        """
        norm = x.norm(dim=-1, keepdim=True)
        cosine = x @ x.mT / (norm @ norm.mT + 1e-20)
        similar = row_softmax(threshold(cosine, self.settings.similarity_threshold, 0.0), valid)
        if self.settings.variant == "paper":
            h, near = self.gc(x), row_softmax(-self.distances / self.disAdj.sigma, valid)  # eq. 3
            return x + self.activation(torch.cat([similar @ h, near @ h], dim=-1))
        h1 = self.activation(self.gc1(x, similar))
        h1 = self.activation(self.gc2(h1, similar))
        h2 = self.activation(self.gc3(x, self.distance_decay))
        h2 = self.activation(self.gc4(h2, self.distance_decay))
        return torch.cat([h1, h2], dim=-1)

    def visual_prompt(self, f: Tensor, logits1: Tensor, valid: Tensor) -> Tensor:
        """V (B, 1, D) of eq. 6: unit sum of f (B, T, D) by attention from logits1 (B, T, 1).

        official: the attention is the raw logit, with padding; paper: the confidence. Table 7's
        average-frame prompt weighs all valid snippets alike.
        """
        attention = logits1
        if self.settings.focus == "average":
            attention = valid[..., None].to(f.dtype)
        elif self.settings.variant == "paper":
            attention = logits1.sigmoid() * valid[..., None]
        return normalize(attention.mT @ f, dim=-1)


@torch.no_grad()
def score_video(
    model: VadCLIP, features: Features, text: Tensor, aligned: bool = False
) -> VideoScores:
    """Score the snippet features (n, D) of one video; ``text`` is ``model.encode_text()``.

    The anomaly score is sigmoid(logits1) of the C-branch, or, if ``aligned``, 1 - probability of
    the normal class. Every chunk of 256 snippets has its own visual prompt (official code).
    """
    features, length = as_features(features, model.linear.in_features), model.settings.length
    x = pad(features, (0, 0, 0, -len(features) % length)).unflatten(0, (-1, length))
    lengths = (len(features) - torch.arange(len(x)) * length).clamp(max=length)
    parts = zip(x.split(CHUNKS), lengths.split(CHUNKS), strict=True)
    outputs = [model(part.to(text.device), n.to(text.device), text) for part, n in parts]
    joined = (torch.cat(found).flatten(0, 1) for found in zip(*outputs, strict=True))
    logits1, logits2, adapted = (found[: len(features)].cpu() for found in joined)
    probabilities = logits2.softmax(dim=-1)
    scores = (logits1.sigmoid().numpy(), 1 - probabilities[:, 0].numpy())
    anomaly, other = scores[::-1] if aligned else scores
    return VideoScores(anomaly, probabilities.numpy(), adapted.numpy(), other, text.cpu().numpy())


def _mlp(width: int) -> nn.Sequential:
    inner, outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    return nn.Sequential(OrderedDict(c_fc=inner, gelu=QuickGELU(), c_proj=outer))


def _embedding(count: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(count, width)
    nn.init.normal_(embedding.weight, std=0.01)  # official code
    return embedding
