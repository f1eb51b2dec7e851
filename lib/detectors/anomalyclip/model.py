"""The AnomalyCLIP network: prompts, Selector, Temporal model and their aggregation (section 3).

A prompt is [SOT][context vectors][class tokens][.][EOT]; every class, the normal one included, has
context vectors of its own (CoOp). Parameter names are those of the official checkpoints.
Axis letters: B windows, S segments, F frames, C abnormal classes, D feature and W text dimension.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from alertclip.errors import InputError
from detectors.anomalyclip.temporal import TemporalModel
from detectors.detector_parts import Features, TextTower, Tokenizer, VideoScores, as_features
from detectors.training_protocol import AnomalyCLIPSettings

WINDOWS = 16  # scored at once: bounds memory and changes no score


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


def normality_prototype(videos: Iterable[Tensor]) -> Tensor:
    """m (D,), eq. 1: the mean of all frame features (N, D) of all normal training videos."""
    total, count = 0.0, 0
    for features in videos:
        total, count = total + features.double().sum(dim=0), count + len(features)
    if not count:
        raise InputError("normality prototype of no frames: give the normal training videos")
    return (total / count).float()


def class_directions(text: Tensor, prototype: Tensor, normal_id: int) -> Tensor:
    """Unit directions d_c / |d_c| (C, D) of the abnormal classes, eq. 2: text (C+1, D) minus m."""
    abnormal = torch.cat([text[:normal_id], text[normal_id + 1 :]])
    return normalize(abnormal - prototype, dim=-1)


class Selector(nn.Module):
    """S(x) of eq. 3-4: projections on the class directions, batch-normalised without affine.

    ``logit_scale`` is unused; it is here because the official checkpoints contain it.
    """

    def __init__(self, classes: int, logit_scale: Tensor) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(logit_scale.detach().float().clone())
        self.bn_layer = nn.BatchNorm1d(classes, affine=False)

    def forward(self, x: Tensor, directions: Tensor) -> Tensor:
        """x (..., D) minus the prototype, directions (C, D) of unit length -> logits (..., C)."""
        projected = x @ directions.T
        return self.bn_layer(projected.flatten(0, -2)).view_as(projected)


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
        self.settings = settings
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


@torch.no_grad()
def score_video(model: AnomalyCLIP, features: Features, directions: Tensor) -> VideoScores:
    """p_A and class probabilities of the frame features (N, D) of one video.

    ``directions`` are ``model.directions()``.
    """
    features = as_features(features, len(model.prototype))
    windows = video_windows(features, model.settings.segments, model.settings.segment_frames)
    parts = [part.to(model.prototype.device) for part in windows.split(WINDOWS)]
    _, p_anomaly, probabilities = (
        time_order(torch.cat(found), len(features)).cpu().numpy()
        for found in zip(*(model(part, directions) for part in parts), strict=True)
    )
    return VideoScores(p_anomaly, probabilities)


def video_windows(features: Tensor, segments: int, segment_frames: int) -> Tensor:
    """A whole video (N, D) as J windows (J, S, F, D); the end is padded by looping.

    The video is S blocks of J * F frames; window j holds the j-th F frames of every block.
    """
    windows = -(-len(features) // (segments * segment_frames))  # J
    total = windows * segments * segment_frames
    indices = torch.arange(total, device=features.device) % len(features)
    blocks = features[indices].unflatten(0, (segments, windows, segment_frames))  # (S, J, F, D)
    return blocks.transpose(0, 1)


def time_order(windows: Tensor, frames: int) -> Tensor:
    """Undo ``video_windows``: (J, S, F, ...) -> (N, ...), without the padding."""
    return windows.transpose(0, 1).flatten(0, 2)[:frames]
