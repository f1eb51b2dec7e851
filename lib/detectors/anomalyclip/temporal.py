"""AnomalyCLIP's Temporal model (section 3.2) and the alternatives of Table 10.

Axes: B windows, S segments, F frames, E embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from detectors.mil import MultiScale
from detectors.training_protocol import AnomalyCLIPSettings


class AxialAttention(nn.Module):
    """Layer norm and self-attention along axis 2 (segments) or 3 (frames) of (B, E, S, F)."""

    def __init__(self, axis: int, emb: int, heads: int) -> None:
        super().__init__()
        self.axis, self.heads = axis, heads
        to_q, to_kv = nn.Linear(emb, emb, bias=False), nn.Linear(emb, 2 * emb, bias=False)
        linear = {"to_q": to_q, "to_kv": to_kv, "to_out": nn.Linear(emb, emb)}
        attention = nn.ModuleDict(linear)
        self.fn = nn.ModuleDict({"norm": nn.LayerNorm(emb), "fn": attention})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, E, S, F) -> (B, E, S, F)."""
        rows, linear = x.movedim((self.axis, 1), (-2, -1)), self.fn["fn"]  # (B, other, axis, E)
        h = self.fn["norm"](rows.flatten(0, 1))
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, axis, E / heads)
            for part in (linear["to_q"](h), *linear["to_kv"](h).chunk(2, dim=-1))
        )
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return linear["to_out"](mixed).view(rows.shape).movedim((-2, -1), (self.axis, 1))


class ChannelNorm(nn.Module):
    """Normalise over E at each position: division by (biased) std + eps, not sqrt(var + eps)."""

    def __init__(self, emb: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, emb, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, emb, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, E, S, F) -> (B, E, S, F)."""
        std = x.std(dim=1, correction=0, keepdim=True)
        return (x - x.mean(dim=1, keepdim=True)) / (std + 1e-5) * self.g + self.b


class Axial(nn.Module):
    """Axial attention (Ho et al. 2019) with learned positions.

    A layer updates two residual streams by attention along segments and along frames, then by two
    convolution blocks. Both streams start as the input plus learned positions; the output is their
    mean. The authors make the layers reversible to save memory, which changes no result.
    """

    def __init__(self, emb: int, settings: AnomalyCLIPSettings) -> None:
        super().__init__()
        positions = (emb, settings.segments, 1), (emb, 1, settings.segment_frames)
        learned = {f"param_{i}": nn.Parameter(torch.randn(1, *s)) for i, s in enumerate(positions)}
        blocks = nn.ModuleList()
        for _ in range(settings.depth):
            blocks.append(_coupled(*(AxialAttention(axis, emb, settings.heads) for axis in (2, 3))))
            blocks.append(_coupled(_convolutions(emb), _convolutions(emb)))
        self.pos_emb, self.layers = nn.ParameterDict(learned), nn.ModuleDict({"blocks": blocks})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, F, E) -> (B, S, F, E)."""
        x1 = x2 = x.movedim(-1, 1) + self.pos_emb["param_0"] + self.pos_emb["param_1"]
        for pair in self.layers["blocks"]:
            x1 = x1 + pair["f"]["net"](x2)
            x2 = x2 + pair["g"]["net"](x1)
        return ((x1 + x2) / 2).movedim(1, -1)


class Encoder(nn.Module):
    """Transformer encoder (Vaswani et al. 2017) over ``length`` learned positions."""

    def __init__(self, emb: int, length: int, settings: AnomalyCLIPSettings) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(length, emb))
        # Capacity similar to the axial model's (paper): 3 layers, twice as wide, per axial layer.
        sizes, count = (emb, settings.heads, 4 * emb), 3 * settings.depth
        layers = (nn.TransformerEncoderLayer(*sizes, batch_first=True) for _ in range(count))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., length, E) -> (..., length, E); sequences do not interact."""
        return self.layers((x + self.positions).flatten(0, -3)).view_as(x)


class TemporalModel(nn.Module):
    """T(V) of eq. 6, the probability that a frame is abnormal.

    ``settings.temporal`` is the axial model or one of Table 10: a 3-layer MLP on each frame, a
    transformer within each segment (short), a transformer or RTFM's MTN over segments (long, mtn).
    The last two read the mean of a segment's frames and give all of them one probability.
    """

    def __init__(self, width: int, settings: AnomalyCLIPSettings) -> None:
        super().__init__()
        kind, emb = settings.temporal, settings.emb_size
        emb *= 2 if kind in ("short", "long") else 1
        self.projection, self.pooled = nn.Linear(width, emb), kind in ("long", "mtn")
        make = {
            "axial": lambda: Axial(emb, settings),
            "mlp": lambda: nn.Sequential(nn.ReLU(), nn.Linear(emb, emb), nn.ReLU()),
            "short": lambda: Encoder(emb, settings.segment_frames, settings),
            "long": lambda: Encoder(emb, settings.segments, settings),
            "mtn": lambda: MultiScale(emb),
        }
        self.axial_attn = make[kind]()  # official name, whichever model it is
        head = {"layer_norm": nn.LayerNorm(emb), "linear": nn.Linear(emb, 1)}
        self.classifier = nn.ModuleDict(head)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, F, width) -> p_A (B, S, F) in [0, 1]."""
        h = self.projection(x)
        h = self.axial_attn(h.mean(dim=2) if self.pooled else h)
        p = self.classifier["linear"](self.classifier["layer_norm"](h)).sigmoid()
        return p.expand(x.shape[:-1]) if self.pooled else p.squeeze(-1)


def _coupled(f: nn.Module, g: nn.Module) -> nn.ModuleDict:
    parts = {"f": f, "g": g}
    return nn.ModuleDict({name: nn.ModuleDict({"net": part}) for name, part in parts.items()})


def _convolutions(emb: int) -> nn.Sequential:
    wide, back = nn.Conv2d(emb, 4 * emb, 3, padding=1), nn.Conv2d(4 * emb, emb, 3, padding=1)
    return nn.Sequential(ChannelNorm(emb), wide, nn.LeakyReLU(), back)
