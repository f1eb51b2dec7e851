"""The AnomalyCLIP network: prompt learner, Selector and aggregation with the Temporal model.

Zanella, Liberatori, Menapace, Poiesi, Wang and Ricci, "Delving into CLIP latent space for video
anomaly recognition", CVIU 2024, section 3 (official code: lucazanella/AnomalyCLIP). Not the
AnomalyCLIP of Zhou et al. (ICLR 2024), a method for defects in industrial images.

A prompt is [SOT][context vectors][class tokens][.][EOT]; each class, the normal one included, has
its own context vectors (CoOp). Parameter names are those of the official checkpoints.
Axes: B windows, S segments, F frames, C abnormal classes, D feature, E embedding, W text dimension.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from detectors.anomalyclip.temporal import TemporalModel
from detectors.detector_parts import Features, TextTower, Tokenizer, VideoScores, as_features
from detectors.training_protocol import AnomalyCLIPSettings
from media.errors import InputError

WINDOWS = 16  # scored at once, to bound memory; scores do not depend on it


class PromptLearner(nn.Module):
    """Learned context vectors ``ctx`` (C+1, n, W) between fixed embeddings of the other tokens.

    ``tokens`` (C+1, L) tokenise "class name."; ``context`` is n. ``shared`` learns one context
    (1, n, W) for all classes (Table 8).
    """

    def __init__(
        self, token_embedding: nn.Embedding, tokens: Tensor, context: int, shared: bool = False
    ) -> None:
        super().__init__()
        with torch.no_grad():
            embedded = token_embedding(tokens.to(token_embedding.weight.device)).float()
        noise = torch.randn(1 if shared else len(tokens), context, embedded.shape[-1])
        self.ctx = nn.Parameter(0.02 * noise)  # std of Appendix A
        self.register_buffer("token_prefix", embedded[:, :1].clone())
        # the context takes the place of padding
        self.register_buffer("token_suffix", embedded[:, 1 : tokens.shape[1] - context].clone())

    def forward(self) -> Tensor:
        """Embedded prompts (C+1, L, W)."""
        context = self.ctx.expand(len(self.token_prefix), -1, -1)
        return torch.cat([self.token_prefix, context, self.token_suffix], dim=1)


def normality_prototype(videos: Iterable[Tensor]) -> Tensor:
    """Return m (D,), eq. 1: the mean of all frame features (N, D) of the normal training videos."""
    total, count = 0.0, 0
    for features in videos:
        total, count = total + features.double().sum(dim=0), count + len(features)
    if not count:
        raise InputError("normality prototype of no frames: give the normal training videos")
    return (total / count).float()


class Selector(nn.Module):
    """S(x), eqs. 3 and 4: projections on class directions, batch-normalised without affine."""

    def __init__(self, classes: int, logit_scale: Tensor) -> None:
        super().__init__()
        # Unused; the official checkpoints contain it.
        self.logit_scale = nn.Parameter(logit_scale.detach().float().clone())
        self.bn_layer = nn.BatchNorm1d(classes, affine=False)

    def forward(self, x: Tensor, directions: Tensor) -> Tensor:
        """Recentred features x (..., D), unit directions (C, D) -> logits (..., C)."""
        projected = x @ directions.T
        return self.bn_layer(projected.flatten(0, -2)).view_as(projected)


class AnomalyCLIP(nn.Module):
    """AnomalyCLIP on CLIP's frame features (projected, not normalised, every frame).

    The text tower of ``clip`` is copied. ``class_names`` (C+1) have the normal class at
    ``settings.normal_id``; ``prototype`` is m (D,) of ``normality_prototype``, replaced by 0 if the
    likelihood is cosines in CLIP's own space (Table 9). InputError if a class name is too long.
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
        self.settings, classes, width = settings, len(class_names) - 1, len(prototype)
        inputs = width * (settings.inputs != "logits") + classes * (settings.inputs != "features")
        m = prototype.detach().float().clone()
        if settings.directions == "free":  # Table 7, no text: points of m's norm (ours)
            self.points = nn.Parameter(torch.randn(classes, width) * m.norm() / width**0.5)
        else:
            self._make_text(clip, tokenizer, class_names)
        self.selector_model = Selector(classes, clip.logit_scale)
        self.temporal_model = TemporalModel(inputs, settings)
        # not in the state dict: official checkpoints keep m in another file
        m *= settings.likelihood == "projection"
        self.register_buffer("prototype", m, persistent=False)

    def _make_text(self, clip: nn.Module, tokenizer: Tokenizer, class_names: Sequence[str]) -> None:
        settings = self.settings
        names = [name.replace("_", " ") for name in class_names]
        tokens = tokenizer([settings.template.replace("{}", name) for name in names])
        end, room = tokens.argmax(dim=1), tokens.shape[1] - settings.context_tokens
        if end[i := int(end.argmax())] >= room:
            what = f"class {class_names[i]}: its tokens and {settings.context_tokens} of context"
            raise InputError(f"{what} exceed the text encoder's {tokens.shape[1]} tokens; shorten")
        context = settings.context_tokens, settings.directions == "shared"
        self.prompt_learner = PromptLearner(clip.token_embedding, tokens, *context)
        self.text_encoder = TextTower(clip)
        self.text_encoder.text_projection.requires_grad_(settings.tune_projection)
        self.register_buffer("end", end + settings.context_tokens, persistent=False)

    def directions(self) -> Tensor:
        """Return unit directions d_c / |d_c| (C, D) of the abnormal classes (eq. 2)."""
        if self.settings.directions == "free":
            return normalize(self.points - self.prototype, dim=-1)
        prompts = self.prompt_learner()[:, : int(self.end.max()) + 1]  # cut padding to save work
        text, normal = self.text_encoder(prompts, self.end), self.settings.normal_id
        abnormal = torch.cat([text[:normal], text[normal + 1 :]])
        return normalize(abnormal - self.prototype, dim=-1)

    def forward(self, features: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, S, F, D), directions (C, D) -> logits, p_A, class probabilities.

        The Selector's logits (B, S, F, C) are normalised by batch statistics in training, by
        running ones in evaluation. p_A is (B, S, F), the probabilities are (B, S, F, C+1).
        """
        x = features - self.prototype
        if self.settings.likelihood == "cosine":  # unscaled: Table 9 names no scale
            logits = normalize(x, dim=-1) @ directions.T
        else:
            logits = self.selector_model(x, directions)
        inputs = {"features": [x], "logits": [logits], "both": [logits, x]}[self.settings.inputs]
        p_anomaly = self.temporal_model(torch.cat(inputs, dim=-1))
        return logits, p_anomaly, aggregate(logits, p_anomaly, self.settings.normal_id)


def aggregate(logits: Tensor, p_anomaly: Tensor, normal_id: int) -> Tensor:
    """Return (..., C+1), section 3.3: p_A softmax(logits), with 1 - p_A at ``normal_id``."""
    joint = logits.softmax(dim=-1) * p_anomaly[..., None]
    normal = 1 - p_anomaly[..., None]
    return torch.cat([joint[..., :normal_id], normal, joint[..., normal_id:]], dim=-1)


@torch.no_grad()
def score_video(model: AnomalyCLIP, features: Features, directions: Tensor) -> VideoScores:
    """Score the frame features (N, D) of one video; ``directions`` is ``model.directions()``."""
    features = as_features(features, len(model.prototype))
    windows = video_windows(features, model.settings.segments, model.settings.segment_frames)
    batches = [batch.to(model.prototype.device) for batch in windows.split(WINDOWS)]
    outputs = zip(*(model(batch, directions) for batch in batches), strict=True)
    frames = (time_order(torch.cat(output), len(features)).cpu().numpy() for output in outputs)
    _, p_anomaly, probabilities = frames
    return VideoScores(p_anomaly, probabilities)


def video_windows(features: Tensor, segments: int, segment_frames: int) -> Tensor:
    """Cut a video (N, D) into J windows (J, S, F, D), repeating it from the start as padding.

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
