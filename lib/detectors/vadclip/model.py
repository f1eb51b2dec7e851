"""The VadCLIP network: local-global adapter, two branches, learnable and visual prompt.

Wu, Zhou, Pang, Zhou, Yan, Wang and Zhang, "VadCLIP: Adapting vision-language models for weakly
supervised video anomaly detection", AAAI 2024 (official code: nwpu-zxr/VadCLIP).
Axes: B videos, T positions, C classes, D feature, L text slots, W text dimension.
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

CHUNKS = 32  # scored at once, to bound memory; scores do not depend on it


@torch.no_grad()
def prompt_layout(
    tokens: Tensor, embedding: nn.Module, names: Sequence[str], prefix: int, postfix: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return fixed embeddings (C, L, W), mask of learned slots (C, L) and slot of EOT (C,).

    A prompt is [SOT][prefix][class, m tokens][postfix][EOT] (eq. 5). All slots except SOT, class
    and EOT hold learned context, shared by all classes. ``tokens`` (C, L) are SOT, name, EOT (the
    largest id of a row) and padding. Raises InputError if a name is too long.
    """
    ids, learned = torch.zeros_like(tokens), torch.ones_like(tokens).bool()
    end = tokens.argmax(dim=1) + prefix + postfix
    for c, (name, row) in enumerate(zip(names, tokens, strict=True)):
        m = int(row.argmax()) - 1
        if end[c] >= len(row):
            what = f"class {name}: {m} tokens, prefix {prefix} and postfix {postfix}"
            raise InputError(f"{what} do not fit into the {len(row)} of the text tower; lower one")
        fixed = [0, *range(1 + prefix, 1 + prefix + m), int(end[c])]
        ids[c, fixed], learned[c, fixed] = row[: m + 2], False
    return embedding(ids).float(), learned, end


def row_softmax(h: Tensor, valid: Tensor) -> Tensor:
    """Row-wise softmax of h (..., T, T) over valid (B, T) positions; exp is safe for h <= 1."""
    weights = h.exp() * (valid[:, :, None] & valid[:, None, :])
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(h.dtype).tiny)


class GraphConvolution(nn.Module):
    """A x W + residual(x); the residual is a convolution over time if the width changes."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, out)))
        self.residual = nn.Identity() if width == out else nn.Conv1d(width, out, 5, padding=2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """x (B, T, width), adjacency (B, T, T) or (T, T) -> (B, T, out)."""
        return adjacency @ (x @ self.weight) + self.residual(x.mT).mT


class VadCLIP(nn.Module):
    """VadCLIP on snippet features with a frozen copy of CLIP's text tower; names[0] is normal."""

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
        for name, tensor in zip(("fixed", "learned", "eot"), prompts, strict=True):
            self.register_buffer(f"prompt_{name}", tensor, persistent=False)
        sizes = width, settings.layers, settings.heads
        self.temporal = Transformer(*sizes, act_layer=QuickGELU)
        window = torch.arange(settings.length) // (settings.window or settings.length)
        outside = window[:, None] != window  # attention stays within a window
        mask = torch.zeros(outside.shape).masked_fill(outside, float("-inf"))
        self.register_buffer("window_mask", mask, persistent=False)
        self._make_graph(width)
        if settings.adapter == "transformers":  # a global transformer replaces the graph
            self.whole = Transformer(*sizes, act_layer=QuickGELU)
        self.linear = nn.Linear(width, width)
        self.mlp1, self.mlp2 = _mlp(width), _mlp(width)
        self.classifier = nn.Linear(width, 1)
        self.frame_position_embeddings = _embedding(settings.length, width)
        self.text_prompt_embeddings = _embedding(slots, text_width)

    def _make_graph(self, width: int) -> None:
        half, position = width // 2, torch.arange(self.settings.length, dtype=torch.float32)
        distance = (position[:, None] - position[None, :]).abs()
        self.activation = QuickGELU()
        self.disAdj = nn.Module()  # sigma of eq. 3; stored but not used by the official code
        self.disAdj.register_buffer("sigma", torch.ones(1))
        if self.settings.variant == "paper":
            self.gc = nn.Linear(width, half, bias=False)  # the one W of eq. 1
            self.register_buffer("distances", distance, persistent=False)
            return
        # the official code's A_dis, rows not normalised
        self.register_buffer("distance_decay", torch.exp(-distance / math.e), persistent=False)
        for name, inputs in (("gc1", width), ("gc3", width), ("gc2", half), ("gc4", half)):
            setattr(self, name, GraphConvolution(inputs, half))

    def forward(self, x: Tensor, lengths: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features x (B, T, D), valid lengths (B,) and t_out (C, D) of ``encode_text``.

        Returns C-branch logits (B, T), A-branch logits (B, T, C), which are cosines divided by the
        temperature, and the adapted features (B, T, D) that both branches read.
        """
        valid = torch.arange(x.shape[1], device=lengths.device) < lengths[:, None]  # not padding
        f = self.encode_video(x, valid)
        logits1 = self.classifier(f + self.mlp2(f))  # (B, T, 1), eq. 4
        if self.settings.focus != "none":
            prompted = text + self.visual_prompt(f, logits1, valid)  # (B, C, D)
            residual = text if self.settings.variant == "paper" else prompted
            text = residual + self.mlp1(prompted)  # eq. 7
        cosine = normalize(f, dim=-1) @ normalize(text, dim=-1).mT
        return logits1.squeeze(-1), cosine / self.settings.temperature, f

    def encode_text(self) -> Tensor:
        """Return t_out (C, D), class embeddings with learned context, not normalised."""
        context, learned = self.text_prompt_embeddings.weight, self.prompt_learned[..., None]
        return self.text(torch.where(learned, context, self.prompt_fixed), self.prompt_eot)

    def encode_video(self, x: Tensor, valid: Tensor) -> Tensor:
        """LGT-Adapter and FC, (B, T, D) -> (B, T, D); the local module sees padding (official)."""
        x = x + self.frame_position_embeddings.weight
        if self.settings.adapter in ("full", "local", "transformers"):
            x = self.temporal(x, attn_mask=self.window_mask)
        if self.settings.adapter in ("full", "graph"):
            x = self._graph(x, valid)
        elif self.settings.adapter == "transformers":
            x = self.whole(x)
        return self.linear(x)

    def _graph(self, x: Tensor, valid: Tensor) -> Tensor:
        """Global module (eq. 1). The text does not place its residual; "paper" spans the module.

        Cosines (eq. 2) up to the threshold become 0, not -inf, so they weigh exp(0) (official).
        """
        norm = x.norm(dim=-1, keepdim=True)
        cosine = x @ x.mT / (norm @ norm.mT + 1e-20)
        similarity = row_softmax(threshold(cosine, self.settings.similarity_threshold, 0.0), valid)
        if self.settings.variant == "paper":
            proximity = row_softmax(-self.distances / self.disAdj.sigma, valid)  # eq. 3
            h = self.gc(x)
            return x + self.activation(torch.cat([similarity @ h, proximity @ h], dim=-1))
        h1 = self.activation(self.gc1(x, similarity))
        h1 = self.activation(self.gc2(h1, similarity))
        h2 = self.activation(self.gc3(x, self.distance_decay))
        h2 = self.activation(self.gc4(h2, self.distance_decay))
        return torch.cat([h1, h2], dim=-1)

    def visual_prompt(self, f: Tensor, logits1: Tensor, valid: Tensor) -> Tensor:
        """Return V (B, 1, D), eq. 6: the attention-weighted sum of f (B, T, D) at unit length.

        The attention is logits1 (B, T, 1), padding included (official), or the confidence of valid
        snippets (paper). Table 7's average-frame prompt weighs valid snippets equally.
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

    The anomaly score is sigmoid(logits1) of the C-branch or, if ``aligned``, the A-branch's
    1 - p(normal). Each chunk of ``length`` snippets has its own visual prompt (official code).
    """
    features, length = as_features(features, model.linear.in_features), model.settings.length
    x = pad(features, (0, 0, 0, -len(features) % length)).unflatten(0, (-1, length))
    lengths = (len(features) - torch.arange(len(x)) * length).clamp(max=length)
    batches = zip(x.split(CHUNKS), lengths.split(CHUNKS), strict=True)
    outputs = [model(chunks.to(text.device), n.to(text.device), text) for chunks, n in batches]
    joined = (torch.cat(output).flatten(0, 1) for output in zip(*outputs, strict=True))
    logits1, logits2, adapted = (output[: len(features)].cpu() for output in joined)
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
