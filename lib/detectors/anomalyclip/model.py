"""The AnomalyCLIP network: prompts, Selector, Temporal model and their aggregation (section 3).

Zanella, Liberatori, Menapace, Poiesi, Wang and Ricci, "Delving into CLIP latent space for video
anomaly recognition", CVIU 2024 (official code: lucazanella/AnomalyCLIP). Not the AnomalyCLIP of
Zhou, Pang, Tian, He and Chen (ICLR 2024), a method for defects in industrial images.

A prompt is [SOT][context vectors][class tokens][.][EOT]; every class, the normal one included, has
context vectors of its own (CoOp). Parameter names are those of the official checkpoints.
Axes: B windows, S segments, F frames, C abnormal classes, D feature, E embedding, W text dimension.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from detectors.detector_parts import Features, TextTower, Tokenizer, VideoScores, as_features
from detectors.training_protocol import AnomalyCLIPSettings
from media.errors import InputError

WINDOWS = 16  # scored at once: bounds memory and changes no score


class PromptLearner(nn.Module):
    """Context vectors ``ctx`` (C+1, n, W) between the fixed embeddings of the other tokens.

    ``tokens`` (C+1, L) are those of "class name.", [EOT] the largest of a row; W is the text width.
    """

    def __init__(self, token_embedding: nn.Embedding, tokens: Tensor, context: int) -> None:
        super().__init__()
        with torch.no_grad():
            embedded = token_embedding(tokens.to(token_embedding.weight.device)).float()
        noise = torch.randn(len(tokens), context, embedded.shape[-1])
        self.ctx = nn.Parameter(0.02 * noise)  # deviation: Appendix A
        self.register_buffer("token_prefix", embedded[:, :1].clone())
        # only padding is cut off at the end, where the names leave room
        self.register_buffer("token_suffix", embedded[:, 1 : tokens.shape[1] - context].clone())

    def forward(self) -> Tensor:
        """Embedded prompts (C+1, L, W)."""
        return torch.cat([self.token_prefix, self.ctx, self.token_suffix], dim=1)


def normality_prototype(videos: Iterable[Tensor]) -> Tensor:
    """m (D,), eq. 1: the mean of all frame features (N, D) of all normal training videos."""
    total, count = 0.0, 0
    for features in videos:
        total, count = total + features.double().sum(dim=0), count + len(features)
    if not count:
        raise InputError("normality prototype of no frames: give the normal training videos")
    return (total / count).float()


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


class AxialAttention(nn.Module):
    """Layer norm and multi-head self-attention along one axis of (B, E, S, F).

    Axis 2 are segments, 3 frames; q, k and v have no bias.
    """

    def __init__(self, axis: int, emb: int, heads: int) -> None:
        super().__init__()
        self.axis, self.heads = axis, heads
        maps = {
            "to_q": nn.Linear(emb, emb, bias=False),
            "to_kv": nn.Linear(emb, 2 * emb, bias=False),
        }
        attention = nn.ModuleDict({**maps, "to_out": nn.Linear(emb, emb)})
        self.fn = nn.ModuleDict({"norm": nn.LayerNorm(emb), "fn": attention})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, E, S, F) -> (B, E, S, F)."""
        rows, maps = x.movedim((self.axis, 1), (-2, -1)), self.fn["fn"]  # (B, other, axis, E)
        h = self.fn["norm"](rows.flatten(0, 1))
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, axis, E / heads)
            for part in (maps["to_q"](h), *maps["to_kv"](h).chunk(2, dim=-1))
        )
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return maps["to_out"](mixed).view(rows.shape).movedim((-2, -1), (self.axis, 1))


class ChannelNorm(nn.Module):
    """Normalise over E at each place; divides by (biased) std + eps, not by sqrt(var + eps)."""

    def __init__(self, emb: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, emb, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, emb, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, E, S, F) -> (B, E, S, F)."""
        std = x.std(dim=1, correction=0, keepdim=True)
        return (x - x.mean(dim=1, keepdim=True)) / (std + 1e-5) * self.g + self.b


class TemporalModel(nn.Module):
    """T(V) of eq. 6, the probability that a frame is abnormal: axial attention (Ho et al. 2019).

    Every layer has two attentions, along segments and along frames, and two convolutions, as
    residual steps of two streams. Both start as the input plus learned positions; the output is
    their mean. ``settings.axes`` "short" attends only within segments, "long" only across them
    (Table 10). The authors use reversible layers to save memory; the results are the same.
    """

    def __init__(self, width: int, settings: AnomalyCLIPSettings) -> None:
        super().__init__()
        emb, segments, frames = settings.emb_size, settings.segments, settings.segment_frames
        along = {"both": (2, 3), "short": (3, 3), "long": (2, 2)}[settings.axes]
        self.projection = nn.Linear(width, emb)
        positions = torch.randn(1, emb, segments, 1), torch.randn(1, emb, 1, frames)
        named = {f"param_{i}": nn.Parameter(axis) for i, axis in enumerate(positions)}
        blocks = nn.ModuleList()
        for _ in range(settings.depth):
            blocks.append(_coupled(*(AxialAttention(axis, emb, settings.heads) for axis in along)))
            blocks.append(_coupled(_convolutions(emb), _convolutions(emb)))
        layers = nn.ModuleDict({"blocks": blocks})
        self.axial_attn = nn.ModuleDict({"pos_emb": nn.ParameterDict(named), "layers": layers})
        last = {"layer_norm": nn.LayerNorm(emb), "linear": nn.Linear(emb, 1)}
        self.classifier = nn.ModuleDict(last)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, F, width) -> p_A (B, S, F) in [0, 1]."""
        x, positions = self.projection(x).movedim(-1, 1), self.axial_attn["pos_emb"]
        x1 = x2 = x + positions["param_0"] + positions["param_1"]  # (B, E, S, F)
        for pair in self.axial_attn["layers"]["blocks"]:
            x1 = x1 + pair["f"]["net"](x2)
            x2 = x2 + pair["g"]["net"](x1)
        x = self.classifier["layer_norm"](((x1 + x2) / 2).movedim(1, -1))
        return self.classifier["linear"](x).squeeze(-1).sigmoid()


def _coupled(f: nn.Module, g: nn.Module) -> nn.ModuleDict:
    parts = {"f": f, "g": g}
    return nn.ModuleDict({name: nn.ModuleDict({"net": part}) for name, part in parts.items()})


def _convolutions(emb: int) -> nn.Sequential:
    return nn.Sequential(
        ChannelNorm(emb),
        nn.Conv2d(emb, 4 * emb, kernel_size=3, padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(4 * emb, emb, kernel_size=3, padding=1),
    )


class AnomalyCLIP(nn.Module):
    """Detector on frame features of CLIP (projected, not normalised, every frame).

    The text tower of ``clip`` is copied. ``class_names`` (C+1) hold the normal class at
    ``settings.normal_id``; ``prototype`` m (D,) is from ``normality_prototype``. Raises InputError
    for a class name that is too long.
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
        self.settings = settings
        tokens = tokenizer([f"{name.replace('_', ' ')}." for name in class_names])
        end, room = tokens.argmax(dim=1), tokens.shape[1] - settings.context_tokens
        if end[longest := int(end.argmax())] >= room:
            raise InputError(
                f"class {class_names[longest]}: its tokens and {settings.context_tokens} of context"
                f" do not fit into the {tokens.shape[1]} of the text encoder; shorten either"
            )
        self.prompt_learner = PromptLearner(clip.token_embedding, tokens, settings.context_tokens)
        self.text_encoder = TextTower(clip)
        width, classes = self.text_encoder.text_projection.shape[1], len(class_names) - 1
        self.selector_model = Selector(classes, clip.logit_scale)
        self.temporal_model = TemporalModel(width + classes * settings.concat_logits, settings)
        self.text_encoder.text_projection.requires_grad_(settings.tune_projection)
        # not in the state dict: official checkpoints keep m in another file
        self.register_buffer("prototype", prototype.detach().float().clone(), persistent=False)
        self.register_buffer("end", end + settings.context_tokens, persistent=False)

    def directions(self) -> Tensor:
        """Unit directions d_c / |d_c| (C, D) of the abnormal classes, eq. 2: text minus m."""
        prompts = self.prompt_learner()[:, : int(self.end.max()) + 1]  # no padding: a quarter less
        text, normal = self.text_encoder(prompts, self.end), self.settings.normal_id
        abnormal = torch.cat([text[:normal], text[normal + 1 :]])
        return normalize(abnormal - self.prototype, dim=-1)

    def forward(self, features: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features (B, S, F, D), directions (C, D) -> logits, p_A, class probabilities.

        Logits (B, S, F, C) of the Selector are normalised by the batch in training, by running
        statistics in evaluation. p_A is (B, S, F), the probabilities are (B, S, F, C+1).
        """
        x = features - self.prototype
        logits = self.selector_model(x, directions)
        inputs = torch.cat([logits, x], dim=-1) if self.settings.concat_logits else x
        p_anomaly = self.temporal_model(inputs)
        return logits, p_anomaly, aggregate(logits, p_anomaly, self.settings.normal_id)


def aggregate(logits: Tensor, p_anomaly: Tensor, normal_id: int) -> Tensor:
    """Section 3.3: p_{A,c} = p_A softmax(S)_c, with p_N = 1 - p_A inserted at ``normal_id``.

    logits (..., C), p_anomaly (...) -> probabilities (..., C+1).
    """
    joint = logits.softmax(dim=-1) * p_anomaly[..., None]
    normal = 1 - p_anomaly[..., None]
    return torch.cat([joint[..., :normal_id], normal, joint[..., normal_id:]], dim=-1)


@torch.no_grad()
def score_video(model: AnomalyCLIP, features: Features, directions: Tensor) -> VideoScores:
    """p_A and class probabilities of a video's features (N, D), by ``model.directions()``."""
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
