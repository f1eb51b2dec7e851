"""The AnomalyCLIP network: prompts, Selector, Temporal model and their aggregation (section 3).

A prompt is [SOT][context vectors][class tokens][.][EOT]; every class, the normal one included, has
context vectors of its own (CoOp). Parameter names are those of the official checkpoints.
Axis letters: B windows, S segments, F frames, C abnormal classes, D feature and W text dimension.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alertclip.errors import InputError
from detectors.anomalyclip.selector import Selector, class_directions
from detectors.anomalyclip.settings import AnomalyCLIPSettings
from detectors.anomalyclip.temporal import TemporalModel
from detectors.text_tower import TextTower, Tokenizer


class PromptLearner(nn.Module):
    """Context vectors ``ctx`` (C+1, n, W) between the fixed embeddings of the other tokens.

    ``tokens`` (C+1, L) are the class names' own, from ``class_tokens``; W is the text width.
    """

    def __init__(self, token_embedding: nn.Embedding, tokens: Tensor, context: int) -> None:
        super().__init__()
        with torch.no_grad():
            embedded = token_embedding(tokens.to(token_embedding.weight.device)).float()
        noise = torch.randn(len(tokens), context, embedded.shape[-1])
        self.ctx = nn.Parameter(0.02 * noise)  # deviation: Appendix A
        self.register_buffer("token_prefix", embedded[:, :1].clone())
        # class_tokens makes sure that only padding is cut off at the end
        self.register_buffer("token_suffix", embedded[:, 1 : tokens.shape[1] - context].clone())

    def forward(self) -> Tensor:
        """Embedded prompts (C+1, L, W)."""
        return torch.cat([self.token_prefix, self.ctx, self.token_suffix], dim=1)


def class_tokens(tokenizer: Tokenizer, class_names: Sequence[str], context: int) -> Tensor:
    """Token ids (C+1, L) of "class name." with underscores as spaces, [EOT] the largest of a row.

    Raises InputError for a name that leaves no room for ``context`` tokens before it.
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


class AnomalyCLIPOutput(NamedTuple):
    """Selector logits (B, S, F, C), p_A (B, S, F), class probabilities (B, S, F, C+1)."""

    logits: Tensor
    p_anomaly: Tensor
    probabilities: Tensor


class AnomalyCLIP(nn.Module):
    """Detector on frame features of CLIP (projected, not normalised, every frame).

    The text tower of ``clip`` is copied. ``class_names`` (C+1) hold the normal class at
    ``settings.normal_id``; ``prototype`` m (D,) is from ``normality_prototype``. New weights come
    from torch's seed. Raises InputError if classes or dimensions do not fit.
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Tokenizer,
        class_names: Sequence[str],
        prototype: Tensor,
        settings: AnomalyCLIPSettings,
    ) -> None:
        super().__init__()
        if len({*class_names}) < len(class_names) or not 0 <= settings.normal_id < len(class_names):
            raise InputError(
                f"classes {', '.join(class_names)}: give each once, and the normal one at place"
                f" {settings.normal_id}"
            )
        self.settings, self.class_names = settings, tuple(class_names)
        tokens = class_tokens(tokenizer, class_names, settings.context_tokens)
        self.prompt_learner = PromptLearner(clip.token_embedding, tokens, settings.context_tokens)
        self.text_encoder = TextTower(clip)
        width, classes = self.text_encoder.text_projection.shape[1], len(class_names) - 1
        if prototype.shape != (width,):
            raise InputError(
                f"prototype of shape {tuple(prototype.shape)}, but features of {width} dimensions:"
                " compute both with the same backbone"
            )
        self.selector_model = Selector(classes, clip.logit_scale)
        self.temporal_model = TemporalModel(width + classes * settings.concat_logits, settings)
        self.text_encoder.text_projection.requires_grad_(settings.tune_projection)
        # not in the state dict: official checkpoints keep m in another file
        self.register_buffer("prototype", prototype.detach().float().clone(), persistent=False)
        end = tokens.argmax(dim=1) + settings.context_tokens
        self.register_buffer("end", end, persistent=False)

    def directions(self) -> Tensor:
        """Unit directions (C, D) of the abnormal classes, eq. 2."""
        text = self.text_encoder(self.prompt_learner(), self.end)
        return class_directions(text, self.prototype, self.settings.normal_id)

    def forward(self, features: Tensor, directions: Tensor) -> AnomalyCLIPOutput:
        """features (B, S, F, D), directions (C, D) -> logits and probabilities.

        Logits are normalised by the batch in training, by running statistics in evaluation.
        """
        x = features - self.prototype
        logits = self.selector_model(x, directions)
        inputs = torch.cat([logits, x], dim=-1) if self.settings.concat_logits else x
        p_anomaly = self.temporal_model(inputs)
        probabilities = aggregate(logits, p_anomaly, self.settings.normal_id)
        return AnomalyCLIPOutput(logits, p_anomaly, probabilities)


def aggregate(logits: Tensor, p_anomaly: Tensor, normal_id: int) -> Tensor:
    """Section 3.3: p_{A,c} = p_A softmax(S)_c, with p_N = 1 - p_A inserted at ``normal_id``.

    logits (..., C), p_anomaly (...) -> probabilities (..., C+1).
    """
    joint = logits.softmax(dim=-1) * p_anomaly[..., None]
    normal = 1 - p_anomaly[..., None]
    return torch.cat([joint[..., :normal_id], normal, joint[..., normal_id:]], dim=-1)
