"""Snippet features of any number brought to the fixed length of one pass (official code).

For training a long video is pooled; for testing it is cut, so that every snippet has a score.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from alertclip.errors import InputError

Features = np.ndarray | Tensor
"""Snippet features (n, D) of one video, one row per 16 frames."""


def training_window(features: Tensor, length: int) -> tuple[Tensor, int]:
    """(n, D) -> (length, D) and the valid length min(n, length): pooled if longer, else padded."""
    if len(features) > length:
        return uniform_pool(features, length), length
    return _pad(features, length), len(features)


def uniform_pool(features: Tensor, bins: int) -> Tensor:
    """Means of (n, D) over ``bins`` bins with edges floor(i n / bins): (bins, D); n >= bins."""
    edges = torch.arange(1, bins) * len(features) // bins
    return torch.stack([part.mean(dim=0) for part in features.tensor_split(edges.tolist())])


def chunks(features: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(n, D) -> zero-padded chunks (K, length, D), valid lengths (K,); K = floor(n / length) + 1.

    If n is a multiple of ``length``, the last chunk is all padding, with length 0 (256 in the
    official code, without effect: nothing of that chunk is kept).
    """
    n = len(features)
    count = n // length + 1
    lengths = (n - torch.arange(count) * length).clamp(0, length)
    return _pad(features, count * length).unflatten(0, (count, length)), lengths


def as_features(features: Features, width: int) -> Tensor:
    """Checked float32 features (n, D); InputError if empty, of another width or not finite."""
    tensor = torch.as_tensor(features, dtype=torch.float32)
    if tensor.ndim != 2 or not len(tensor) or tensor.shape[1] != width:
        raise InputError(
            f"features of shape {tuple(tensor.shape)}: give snippets x {width}, at least one"
            " snippet, from the backbone of the text tower"
        )
    if not tensor.isfinite().all():
        raise InputError("features that are not finite: extract them again")
    return tensor


def _pad(features: Tensor, length: int) -> Tensor:
    return pad(features, (0, 0, 0, length - len(features)))
