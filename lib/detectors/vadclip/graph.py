"""Adjacencies and graph convolutions of the global module (VadCLIP, Wu et al. 2024, eq. 1-3)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import threshold


def window_mask(length: int, window: int) -> Tensor:
    """Additive attention mask (length, length): 0 within a window, -inf between windows.

    Window 0 means one window over the whole length.
    """
    block = torch.arange(length) // (window or length)
    apart = block[:, None] != block[None, :]
    return torch.zeros(length, length).masked_fill(apart, float("-inf"))


def similarity_adjacency(x: Tensor, valid: Tensor, cutoff: float) -> Tensor:
    """Softmax(H_sim) of eq. 2 among valid positions, zero elsewhere: (B, T, D) -> (B, T, T).

    Cosines up to ``cutoff`` become 0, not -inf (official code), so they keep the weight exp(0).
    """
    norm = x.norm(dim=-1, keepdim=True)
    cosine = x @ x.mT / (norm @ norm.mT + 1e-20)
    return row_softmax(threshold(cosine, cutoff, 0.0), valid)


def distances(length: int) -> Tensor:
    """|i - j| between positions: (length, length)."""
    place = torch.arange(length, dtype=torch.float32)
    return (place[:, None] - place[None, :]).abs()


def distance_decay(length: int) -> Tensor:
    """A_dis of the official code, exp(-|i - j| / e), not normalised: (length, length)."""
    return torch.exp(-distances(length) / math.e)


def distance_adjacency(valid: Tensor, sigma: Tensor) -> Tensor:
    """Softmax(H_dis) of eq. 3 among valid positions, zero elsewhere: (B, T) -> (B, T, T)."""
    return row_softmax(-distances(valid.shape[1]).to(valid.device) / sigma, valid)


def row_softmax(h: Tensor, valid: Tensor) -> Tensor:
    """Softmax of each valid row over the valid columns, zero elsewhere.

    h (..., T, T) with values up to about 1, so exp needs no shift; valid (B, T) -> (B, T, T).
    """
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
