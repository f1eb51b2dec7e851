"""Controlled degradation of a clip in physical units: one failure mode of the paper at a time.

Supplementary E names compression, blur, low resolution, darkness and actors that are small or
hidden. Each kind acts on the pixels the model sees and has a clean level, which changes nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from media.errors import InputError


@dataclass(frozen=True)
class Clip:
    """Frames (T, 3, H, W) uint8, boxes (R, T, 4) normalised x1 y1 x2 y2, present (R, T) bool.

    ``key`` and ``label`` (1 abnormal) identify the clip; ``mask`` (T,) is False in padding;
    ``located``: the boxes are annotations of this clip, not borrowed.
    """

    frames: Tensor
    boxes: Tensor
    present: Tensor
    key: str = ""
    label: int = 0
    mask: Tensor | None = None
    located: bool = False

    @property
    def seen(self) -> Tensor:
        """Indices of the frames with a box: (F,)."""
        return self.present.any(dim=0).nonzero().flatten()


class Degradation(NamedTuple):
    """One kind; its levels run from ``clean``, which changes nothing, to ``worst``."""

    title: str
    unit: str
    clean: float
    worst: float
    apply: Callable[[Clip, float, np.random.Generator], Clip]


def degrade(clip: Clip, kind: str, level: float, seed: int) -> Clip:
    """The clip degraded to ``level`` of ``kind``, deterministic for a seed and the clip's key.

    Random parts do not depend on the level: noise grows in place, a cover only gets larger.
    InputError for a level outside the kind's range.
    """
    degradation = DEGRADATIONS[kind]
    if level == degradation.clean:
        return clip
    low, high = sorted((degradation.clean, degradation.worst))
    if not (low <= level <= high and 0 < level < math.inf):
        raise InputError(f"degradation {kind}: level {level} is not between {low:g} and {high:g}")
    clip_seed = np.random.default_rng([seed, *clip.key.encode()]).integers(2**31)
    return degradation.apply(clip, level, np.random.default_rng([clip_seed, *kind.encode()]))


def blur(clip: Clip, sigma: float, _: np.random.Generator) -> Clip:
    """Gaussian blur; sigma in pixels of the model's input."""
    return _each(clip, lambda frame: cv2.GaussianBlur(frame, (0, 0), sigma))


def darken(clip: Clip, stops: float, _: np.random.Generator) -> Clip:
    """Lower the exposure: linear light (sRGB, IEC 61966-2-1) times 2^-stops, again 8-bit sRGB."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    dark = linear * 2.0**-stops
    encoded = np.where(dark <= 0.0031308, dark * 12.92, 1.055 * dark ** (1 / 2.4) - 0.055)
    table = np.rint(255 * encoded).astype(np.uint8)
    return replace(clip, frames=torch.from_numpy(table[clip.frames.numpy()]))


def add_noise(clip: Clip, sigma: float, rng: np.random.Generator) -> Clip:
    """Independent Gaussian noise per pixel and channel; sigma in grey levels."""
    noise = sigma * rng.standard_normal(clip.frames.shape, dtype=np.float32)
    noisy = np.rint(clip.frames.numpy() + noise).clip(0, 255)
    return replace(clip, frames=torch.from_numpy(noisy.astype(np.uint8)))


def compress(clip: Clip, quality: float, _: np.random.Generator) -> Clip:
    """Encode every frame as JPEG and decode it; libjpeg's quality, 100 to 1."""
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]

    def through_jpeg(frame: np.ndarray) -> np.ndarray:
        _, data = cv2.imencode(".jpg", frame[..., ::-1], options)
        return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]

    return _each(clip, through_jpeg)


def lower_resolution(clip: Clip, height: float, _: np.random.Generator) -> Clip:
    """Average down to ``height`` pixels and enlarge again: what a coarser camera delivers."""
    full = clip.frames.shape[-2:]
    if height > full[0]:
        raise InputError(f"degradation resolution: {height:g} px is above the frame's {full[0]}")
    small = (max(1, round(full[1] * height / full[0])), max(1, round(height)))

    def coarse(frame: np.ndarray) -> np.ndarray:
        reduced = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
        return cv2.resize(reduced, full[::-1], interpolation=cv2.INTER_LINEAR)

    return _each(clip, coarse)


def occlude(clip: Clip, share: float, rng: np.random.Generator) -> Clip:
    """Cover ``share`` of each box's area with a rectangle of the clip's mean colour; boxes stay."""
    frames, size = clip.frames.clone(), torch.tensor(clip.frames.shape[:-3:-1]).repeat(2)
    colour, side = _mean_colour(clip.frames), math.sqrt(share)
    for track, present in zip(clip.boxes.double(), clip.present, strict=True):
        anchor = torch.from_numpy(rng.random(2))  # larger covers contain smaller ones
        for t in present.nonzero().flatten().tolist():
            extent = track[t, 2:] - track[t, :2]
            start = track[t, :2] + anchor * (1 - side) * extent
            cover = torch.cat([start, start + side * extent]) * size
            x1, y1, x2, y2 = cover.round().int().tolist()
            frames[t, :, y1:y2, x1:x2] = colour
    return replace(clip, frames=frames)


def zoom_out(clip: Clip, scale: float, _: np.random.Generator) -> Clip:
    """Shrink the picture and its boxes to ``scale``, centred on the clip's mean colour."""
    height, width = clip.frames.shape[-2:]
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (height - h) // 2, (width - w) // 2
    small = _each(clip, lambda frame: cv2.resize(frame, (w, h), interpolation=cv2.INTER_AREA))
    frames = _mean_colour(clip.frames).expand_as(clip.frames).clone()
    frames[..., top : top + h, left : left + w] = small.frames
    extent, corner, whole = torch.tensor([[w, h] * 2, [left, top] * 2, [width, height] * 2])
    return replace(clip, frames=frames, boxes=(clip.boxes * extent + corner) / whole)


DEGRADATIONS: dict[str, Degradation] = {
    "blur": Degradation("Blur", "sigma (px)", 0, math.inf, blur),
    "darkness": Degradation("Darkness", "exposure lowered (stops)", 0, math.inf, darken),
    "noise": Degradation("Noise", "sigma (grey levels of 255)", 0, math.inf, add_noise),
    "compression": Degradation("Compression", "JPEG quality", math.inf, 0, compress),
    "resolution": Degradation("Resolution", "height (px)", math.inf, 0, lower_resolution),
    "occlusion": Degradation("Occlusion", "part of the actor covered (share)", 0, 1, occlude),
    "actor size": Degradation("Size of the actor", "scale (share of its size)", 1, 0, zoom_out),
}


def _each(clip: Clip, change: Callable[[np.ndarray], np.ndarray]) -> Clip:
    """Apply ``change`` to every frame as (H, W, 3)."""
    pictures = clip.frames.permute(0, 2, 3, 1).contiguous().numpy()
    changed = np.stack([change(picture) for picture in pictures])
    return replace(clip, frames=torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous())


def _mean_colour(frames: Tensor) -> Tensor:
    """Mean over frames and pixels: (3, 1, 1) uint8."""
    return frames.float().mean(dim=(0, 2, 3)).round().to(torch.uint8)[:, None, None]
