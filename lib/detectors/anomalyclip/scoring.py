"""Scores of every frame of a video (Implementation details, section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from alertclip.errors import InputError
from detectors.anomalyclip.model import AnomalyCLIP

WINDOWS = 16  # at once; windows are independent of one another, this only bounds memory


class FrameScores(NamedTuple):
    """p_A (N,) and the probabilities of all classes (N, C+1), which sum to one, per frame."""

    p_anomaly: Tensor
    probabilities: Tensor


@torch.no_grad()
def score_video(
    model: AnomalyCLIP, features: Tensor, directions: Tensor | None = None
) -> FrameScores:
    """Score the frame features (N, D) of one video; puts the model into evaluation mode.

    ``directions`` (C, D) saves encoding the text for each of many videos. Results are on the
    CPU. Raises InputError if a feature is not finite or has another dimension than the model's.
    """
    _check(features, len(model.prototype))
    model.eval()
    directions = model.directions() if directions is None else directions
    settings = model.settings
    windows = video_windows(features.float(), settings.segments, settings.segment_frames)
    outputs = [
        model(part.to(model.prototype.device), directions) for part in windows.split(WINDOWS)
    ]
    p_anomaly = torch.cat([output.p_anomaly for output in outputs])
    probabilities = torch.cat([output.probabilities for output in outputs])
    frames = len(features)
    return FrameScores(time_order(p_anomaly, frames).cpu(), time_order(probabilities, frames).cpu())


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
    """Undo ``video_windows``: (J, S, F, ...) -> (N, ...), padding cut off."""
    return windows.transpose(0, 1).flatten(0, 2)[:frames]


def _check(features: Tensor, width: int) -> None:
    if features.ndim != 2 or not len(features) or features.shape[1] != width:
        raise InputError(
            f"features of shape {tuple(features.shape)}: give frames x {width}, at least one frame"
        )
    if not features.isfinite().all():
        raise InputError("features that are not finite: extract them again")
