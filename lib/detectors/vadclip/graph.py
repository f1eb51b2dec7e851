"""Adjacencies and graph convolutions of the global module (VadCLIP, Wu et al. 2024, eq. 1-3)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import threshold

KERNEL = 5  # of the convolution that carries a residual to another width


def window_mask(length: int, window: int) -> Tensor:
    """Additive mask (length, length): 0 within disjoint windows, -inf between them.

    Window 0 is a single one of the whole length.
    """
    block = torch.arange(length) // (window or length)
    apart = block[:, None] != block[None, :]
    return torch.zeros(length, length).masked_fill(apart, float("-inf"))


def valid_positions(lengths: Tensor, total: int) -> Tensor:
    """lengths (B,) -> (B, total), True where a position holds a snippet rather than padding."""
    return torch.arange(total, device=lengths.device) < lengths[:, None]


def similarity_adjacency(x: Tensor, valid: Tensor, cutoff: float) -> Tensor:
    """Softmax(H_sim) of eq. 2 among valid positions, zero elsewhere: (B, T, D) -> (B, T, T).

    Cosines up to ``cutoff`` become 0, not -inf (official code): a weak relation keeps the weight
    exp(0) before normalisation.
    """
    norm = x.norm(dim=-1, keepdim=True)
    cosine = x @ x.mT / (norm @ norm.mT + 1e-20)
    return row_softmax(threshold(cosine, cutoff, 0.0), valid)


def distance_decay(length: int) -> Tensor:
    """A_dis of the official code, exp(-|i - j| / e), not normalised: (length, length)."""
    return torch.exp(-_distance(length) / math.e)


def distance_adjacency(valid: Tensor, sigma: Tensor) -> Tensor:
    """Softmax(H_dis) of eq. 3 among valid positions, zero elsewhere: (B, T) -> (B, T, T)."""
    return row_softmax(-_distance(valid.shape[1]).to(valid.device) / sigma, valid)


def row_softmax(h: Tensor, valid: Tensor) -> Tensor:
    """Softmax of each valid row over the valid columns, zero elsewhere.

    h (..., T, T) of values up to about 1, so that exp needs no shift; valid (B, T) -> (B, T, T).
    """
    weights = h.exp() * (valid[:, :, None] & valid[:, None, :])
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(h.dtype).tiny)


class GraphConvolution(nn.Module):
    """A x W + residual(x); the residual is a convolution over time where the width changes."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, out)))
        self.residual = (
            nn.Identity() if width == out else nn.Conv1d(width, out, KERNEL, padding=KERNEL // 2)
        )

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """x (B, T, width), adjacency (B, T, T) or (T, T) -> (B, T, out)."""
        return adjacency @ (x @ self.weight) + self.residual(x.mT).mT


class DistanceScale(nn.Module):
    """sigma of eq. 3, 1 in the paper. A name in official checkpoints, where it has no effect."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sigma", torch.ones(1))


def _distance(length: int) -> Tensor:
    place = torch.arange(length, dtype=torch.float32)
    return (place[:, None] - place[None, :]).abs()
