"""Visual tokens of videos, one safetensors file each, so that any model can be tested later.

Tensors of a file: tokens (T, h, w, W) fp16 before the projector, moved (T, h, w) the change of each
since ``gap`` frames before, inf where there is none, times (T,) s.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alertclip.cache import FrameCache
from alertclip.files import atomic_write
from alertclip.survey import uniform_indices
from vagpt.effective_tokens import Patches, on_grid
from vagpt.language_model import Shown, VisionLanguageModel


def video_tokens(
    vlm: VisionLanguageModel,
    path: Path,
    file: Path,
    cache: FrameCache,
    frames: int,
    gap: int,
    encode: Patches | None = None,
) -> Shown:
    """The tokens of ``frames`` frames of a video, from ``file`` or made and kept there.

    ``encode``: whose patches are compared (VA-GPT: DINOv2); None: the tokens themselves.
    """
    try:
        kept = load_file(file)
    except (FileNotFoundError, SafetensorError):
        now, times = _chosen(path, cache, frames)
        before = np.maximum(now - gap, 0)
        needed = np.union1d(now, before)
        shown = np.asarray(cache.get(path, needed.tolist()))
        seen = vlm.see(shown)
        patches = encode(shown) if encode else seen.float().numpy()
        at, earlier = np.searchsorted(needed, now), np.searchsorted(needed, before)
        moved = on_grid(np.abs(patches[at] - patches[earlier]).sum(axis=-1), seen.shape[1:3])
        moved[now < gap] = np.inf
        kept = {
            "tokens": seen[torch.from_numpy(at)].half(),
            "moved": torch.from_numpy(moved),
            "times": torch.from_numpy(times).float(),
        }
        with atomic_write(file) as temporary:
            save_file(kept, temporary)
    return Shown(kept["tokens"].float(), kept["moved"].numpy(), kept["times"].numpy())


def _chosen(path: Path, cache: FrameCache, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (T,) of the frames that a model is shown, spread evenly, and their times in s."""
    info = cache.info(path)
    numbers = uniform_indices(info, 0, info.duration, frames)
    return numbers, info.clock[numbers]


def frames_shown(path: Path, cache: FrameCache, frames: int) -> np.ndarray:
    """The frames (T, H, W, 3) uint8 whose tokens a model is shown."""
    return np.asarray(cache.get(path, _chosen(path, cache, frames)[0].tolist()))


def between(shown: Shown, start: float, end: float) -> Shown:
    """The frames within a time in s; where there are none, the nearest to its middle."""
    inside = (shown.times >= start) & (shown.times < end)
    if not inside.any():
        inside[np.abs(shown.times - (start + min(end, shown.times[-1])) / 2).argmin()] = True
    return Shown(shown.tokens[torch.from_numpy(inside)], shown.moved[inside], shown.times[inside])
