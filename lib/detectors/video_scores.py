"""What both detectors read and return: features of a video in, scores out."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alertclip.errors import InputError

Features = np.ndarray | Tensor
"""Features (n, D) of one video: a row per snippet of 16 frames (VadCLIP) or per frame."""


class VideoScores(NamedTuple):
    """Scores of a video's n features, each in [0, 1]: anomaly (n,) and probabilities (n, C).

    adapted (n, D): the features that both branches of VadCLIP read.
    """

    anomaly: np.ndarray
    probabilities: np.ndarray
    adapted: np.ndarray | None = None


def as_features(features: Features, width: int, where: str = "") -> Tensor:
    """float32 features (n, D); raises InputError if they are empty, not D wide or not finite."""
    tensor = torch.as_tensor(features, dtype=torch.float32)
    if tensor.ndim != 2 or not len(tensor) or tensor.shape[1] != width:
        raise InputError(f"{where}features of shape {tuple(tensor.shape)}: give n x {width}, n > 0")
    if not tensor.isfinite().all():
        raise InputError(f"{where}features are not finite: extract them again")
    return tensor
