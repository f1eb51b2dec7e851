"""Scores of every frame of a video (Implementation details, section 3.3)."""

import torch
from torch import Tensor

from detectors.anomalyclip.model import AnomalyCLIP
from detectors.video_scores import Features, VideoScores, as_features

WINDOWS = 16  # scored at once: bounds memory and changes no score


@torch.no_grad()
def score_video(
    model: AnomalyCLIP, features: Features, directions: Tensor | None = None
) -> VideoScores:
    """p_A and class probabilities of the frame features (N, D) of one video.

    Puts the model into evaluation mode. ``directions`` are ``model.directions()``, if at hand.
    """
    model.eval()
    features = as_features(features, len(model.prototype))
    directions = model.directions() if directions is None else directions
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
