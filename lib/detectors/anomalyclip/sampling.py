"""Which frames a forward pass sees, in training and at test (Implementation details; official)."""

import numpy as np
import torch
from torch import Tensor


def start_indices(
    frames: int, segments: int, segment_frames: int, rng: np.random.Generator
) -> np.ndarray:
    """First frame (S,) of each training segment: i * d plus a random offset of 0 to d - F + 1.

    d = (max(N, S * F) - F + 1) // S is the distance of the blocks. For N of at most S * F there is
    nothing to draw and segments of the official size overlap by one frame.
    """
    distance = (max(frames, segments * segment_frames) - segment_frames + 1) // segments
    # At other sizes d may be less than F - 1; the official code stops there.
    offsets = rng.integers(max(distance - segment_frames + 2, 1), size=segments)
    return np.arange(segments) * distance + offsets


def training_sample(
    features: Tensor, segments: int, segment_frames: int, rng: np.random.Generator
) -> Tensor:
    """S segments of F consecutive frames of a video (N, D), looped if short -> (S, F, D)."""
    starts = start_indices(len(features), segments, segment_frames, rng)
    indices = starts[:, None] + np.arange(segment_frames)  # (S, F)
    return features[torch.from_numpy(indices % len(features)).to(features.device)]


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
