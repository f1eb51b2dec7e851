"""Temporal transformer and attention pooling (supplementary C.1)."""

import torch
from torch import Tensor, nn

from alertclip.errors import InputError

MAX_FRAMES = 256  # Table 4


class TemporalTransformer(nn.Module):
    """Pre-LN transformer over frames: z = v + gain(f(v + positions)); gain starts at zero.

    The zero start (ours) makes step 0 exactly CLIP: the encoder adds nothing until it has learned.
    """

    def __init__(
        self,
        width: int,
        layers: int = 2,
        heads: int = 8,
        dropout: float = 0.1,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(max_frames, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, v: Tensor, mask: Tensor) -> Tensor:
        """v (B, T, D), mask (B, T) True where real -> z (B, T, D); padding is never attended."""
        if v.shape[1] > len(self.positions):
            raise InputError(f"num_frames is {v.shape[1]}, the most is {len(self.positions)}")
        x = self.encoder(v + self.positions[: v.shape[1]], src_key_padding_mask=~mask)
        return v + self.out(x)


class AttentionPooling(nn.Module):
    """Frame weights alpha_t by a two-layer MLP, softmax over real frames; uniform at the start."""

    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        nn.init.zeros_(self.score[-1].weight)
        nn.init.zeros_(self.score[-1].bias)

    def forward(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, T, D), mask (B, T) -> z_video = sum_t alpha_t z_t (B, D), alpha (B, T)."""
        scores = self.score(z).squeeze(-1).float().masked_fill(~mask, float("-inf"))
        weights = scores.softmax(dim=1)
        return (weights[..., None] * z).sum(dim=1), weights
