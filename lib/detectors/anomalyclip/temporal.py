"""Temporal model: an axial transformer over segments and frames (section 3.2; Ho et al. 2019).

The authors use reversible layers to save memory; the results are the same without them. Parameter
names are those of the official checkpoints (package axial-attention 0.6.1).
Axis letters: B windows, S segments, F frames per segment, E embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from detectors.training_protocol import AnomalyCLIPSettings


class SelfAttention(nn.Module):
    """Multi-head self-attention; q, k and v have no bias."""

    def __init__(self, emb: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(emb, emb, bias=False)
        self.to_kv = nn.Linear(emb, 2 * emb, bias=False)
        self.to_out = nn.Linear(emb, emb)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, E) -> (N, T, E)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, T, E / heads)
            for part in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        )
        return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class AxialAttention(nn.Module):
    """Layer norm and self-attention along one axis of (B, E, S, F): 2 segments, 3 frames."""

    def __init__(self, axis: int, emb: int, heads: int) -> None:
        super().__init__()
        self.axis = axis
        layers = {"norm": nn.LayerNorm(emb), "fn": SelfAttention(emb, heads)}
        self.fn = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, E, S, F) -> (B, E, S, F)."""
        rows = x.movedim((self.axis, 1), (-2, -1))  # (B, other axis, axis, E)
        out = self.fn["fn"](self.fn["norm"](rows.flatten(0, 1))).view(rows.shape)
        return out.movedim((-2, -1), (self.axis, 1))


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


class Coupling(nn.Module):
    """A residual step of two streams: y1 = x1 + f(x2), y2 = x2 + g(y1)."""

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        super().__init__()
        self.f, self.g = nn.ModuleDict({"net": f}), nn.ModuleDict({"net": g})

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Two streams of the same shape -> the same."""
        y1 = x1 + self.f["net"](x2)
        return y1, x2 + self.g["net"](y1)


class AxialTransformer(nn.Module):
    """Every layer has two attentions, along segments and along frames, and two convolutions.

    Both streams start as the input plus learned positions; the output is their mean.
    ``settings.axes`` "short" attends only within segments, "long" only across them (Table 10).
    """

    def __init__(self, settings: AnomalyCLIPSettings) -> None:
        super().__init__()
        emb, segments, frames = settings.emb_size, settings.segments, settings.segment_frames
        along = {"both": (2, 3), "short": (3, 3), "long": (2, 2)}[settings.axes]
        positions = torch.randn(1, emb, segments, 1), torch.randn(1, emb, 1, frames)
        named = {f"param_{i}": nn.Parameter(axis) for i, axis in enumerate(positions)}
        self.pos_emb = nn.ParameterDict(named)
        pairs = []
        for _ in range(settings.depth):
            attend = (AxialAttention(axis, emb, settings.heads) for axis in along)
            pairs += [Coupling(*attend), Coupling(_convolutions(emb), _convolutions(emb))]
        self.layers = nn.ModuleDict({"blocks": nn.ModuleList(pairs)})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, E, S, F) -> (B, E, S, F)."""
        x1 = x2 = x + self.pos_emb["param_0"] + self.pos_emb["param_1"]
        for pair in self.layers["blocks"]:
            x1, x2 = pair(x1, x2)
        return (x1 + x2) / 2


class TemporalModel(nn.Module):
    """T(V) of eq. 6: the probability that a frame is abnormal."""

    def __init__(self, width: int, settings: AnomalyCLIPSettings) -> None:
        super().__init__()
        emb = settings.emb_size
        self.projection = nn.Linear(width, emb)
        self.axial_attn = AxialTransformer(settings)
        self.classifier = nn.ModuleDict(
            {"layer_norm": nn.LayerNorm(emb), "linear": nn.Linear(emb, 1)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, F, width) -> p_A (B, S, F) in [0, 1]."""
        x = self.axial_attn(self.projection(x).movedim(-1, 1)).movedim(1, -1)  # (B, S, F, E)
        x = self.classifier["linear"](self.classifier["layer_norm"](x))
        return x.squeeze(-1).sigmoid()


def _convolutions(emb: int) -> nn.Sequential:
    return nn.Sequential(
        ChannelNorm(emb),
        nn.Conv2d(emb, 4 * emb, kernel_size=3, padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(4 * emb, emb, kernel_size=3, padding=1),
    )
