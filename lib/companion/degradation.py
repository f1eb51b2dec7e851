"""Controlled degradation of a clip, in physical units: the paper's failure modes one at a time.

Supplementary E names compression, blur, low resolution, darkness and actors that are small or
hidden. Every kind has a clean level, at which frames and boxes come back as they are, and works on
the pixels the model sees: (T, 3, H, W) uint8 with boxes (R, T, 4) normalised x1 y1 x2 y2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from alertclip.errors import InputError


@dataclass(frozen=True)
class Clip:
    """Frames (T, 3, H, W) uint8; boxes (R, T, 4); present (R, T) True where a box exists."""

    frames: Tensor
    boxes: Tensor
    present: Tensor


@dataclass(frozen=True)
class Degradation:
    """One kind: what its levels measure, the level that changes nothing, the open-ended worst.

    ``apply`` (clip, level, random generator) -> clip. Levels run from clean (included) to worst
    (excluded unless ``closed``).
    """

    title: str
    unit: str
    clean: float
    worst: float
    apply: Callable[[Clip, float, np.random.Generator], Clip]
    closed: bool = False


def degrade(clip: Clip, kind: str, level: float, seed: int) -> Clip:
    """The clip degraded to ``level`` of ``kind`` (a key of DEGRADATIONS), the same for a seed.

    Random parts do not depend on the level: noise grows in place, a cover only gets larger.
    InputError on an unknown kind or a level outside its range.
    """
    if kind not in DEGRADATIONS:
        raise InputError(f"degradation {kind}: unknown; choose from {', '.join(DEGRADATIONS)}")
    how = DEGRADATIONS[kind]
    if level == how.clean:
        return clip
    low, high = sorted((how.clean, how.worst))
    if not low < level < high and not (how.closed and level == how.worst):
        raise InputError(f"degradation {kind}: level {level} is not between {low:g} and {high:g}")
    return how.apply(clip, level, np.random.default_rng([seed, *kind.encode()]))


def blur(clip: Clip, sigma: float, _: np.random.Generator) -> Clip:
    """Gaussian blur, standard deviation in pixels of the model's input."""
    return _each(clip, lambda frame: cv2.GaussianBlur(frame, (0, 0), sigma))


def darken(clip: Clip, stops: float, _: np.random.Generator) -> Clip:
    """Exposure lowered: linear light (sRGB decoded, IEC 61966-2-1) times 2^-stops, 8 bits again."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    dark = linear * 2.0**-stops
    encoded = np.where(dark <= 0.0031308, dark * 12.92, 1.055 * dark ** (1 / 2.4) - 0.055)
    table = torch.from_numpy(np.rint(255 * encoded).astype(np.uint8))
    return replace(clip, frames=table[clip.frames.long()])


def add_noise(clip: Clip, sigma: float, rng: np.random.Generator) -> Clip:
    """Independent Gaussian noise per pixel and channel, standard deviation in grey levels."""
    noise = sigma * rng.standard_normal(clip.frames.shape, dtype=np.float32)
    noisy = np.rint(clip.frames.numpy() + noise).clip(0, 255)
    return replace(clip, frames=torch.from_numpy(noisy.astype(np.uint8)))


def compress(clip: Clip, quality: float, _: np.random.Generator) -> Clip:
    """Every frame through a JPEG encoder and back; quality as in libjpeg, 100 to 1."""
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]

    def through_jpeg(frame: np.ndarray) -> np.ndarray:
        _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
        return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    return _each(clip, through_jpeg)


def lower_resolution(clip: Clip, height: float, _: np.random.Generator) -> Clip:
    """Averaged down to ``height`` pixels and enlarged again: what a coarser camera delivers."""
    full = clip.frames.shape[-2:]
    if height > full[0]:
        raise InputError(f"degradation resolution: {height:g} px is above the frame's {full[0]}")
    small = (max(1, round(full[1] * height / full[0])), max(1, round(height)))

    def coarse(frame: np.ndarray) -> np.ndarray:
        reduced = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
        return cv2.resize(reduced, full[::-1], interpolation=cv2.INTER_LINEAR)

    return _each(clip, coarse)


def occlude(clip: Clip, share: float, rng: np.random.Generator) -> Clip:
    """A rectangle of the clip's mean colour over ``share`` of each box's area; boxes stay."""
    frames, size = clip.frames.clone(), clip.frames.shape[-2:]
    colour = _mean_colour(clip.frames)
    for track, present in zip(clip.boxes, clip.present, strict=True):
        anchor = torch.from_numpy(rng.random(2))
        for t in present.nonzero().flatten().tolist():
            x1, y1, x2, y2 = _pixels(_part(track[t].double(), share, anchor), size)
            frames[t, :, y1:y2, x1:x2] = colour
    return replace(clip, frames=frames)


def zoom_out(clip: Clip, scale: float, _: np.random.Generator) -> Clip:
    """The whole picture at ``scale`` of its size, centred on the clip's mean colour."""
    height, width = clip.frames.shape[-2:]
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (height - h) // 2, (width - w) // 2
    small = _each(clip, lambda frame: cv2.resize(frame, (w, h), interpolation=cv2.INTER_AREA))
    frames = _mean_colour(clip.frames).expand_as(clip.frames).clone()
    frames[..., top : top + h, left : left + w] = small.frames
    whole = clip.boxes.new_tensor([width, height, width, height])
    corner = clip.boxes.new_tensor([left, top, left, top])
    boxes = (clip.boxes * clip.boxes.new_tensor([w, h, w, h]) + corner) / whole
    return replace(clip, frames=frames, boxes=boxes)


DEGRADATIONS: dict[str, Degradation] = {
    "blur": Degradation("Blur", "sigma (px)", 0, math.inf, blur),
    "darkness": Degradation("Darkness", "exposure lowered (stops)", 0, math.inf, darken),
    "noise": Degradation("Noise", "sigma (grey levels of 255)", 0, math.inf, add_noise),
    "compression": Degradation("Compression", "JPEG quality", math.inf, 0, compress),
    "resolution": Degradation("Resolution", "height (px)", math.inf, 0, lower_resolution),
    "occlusion": Degradation(
        "Occlusion", "part of the actor covered (share)", 0, 1, occlude, closed=True
    ),
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


def _part(box: Tensor, share: float, anchor: Tensor) -> Tensor:
    """A box of the same shape with ``share`` of the area; larger shares contain smaller ones."""
    corner, extent = box[:2], box[2:] - box[:2]
    side = math.sqrt(share)
    start = corner + anchor * (1 - side) * extent
    return torch.cat([start, start + side * extent])


def _pixels(box: Tensor, size: tuple[int, int]) -> list[int]:
    """Normalised x1 y1 x2 y2 to whole pixels, end-exclusive."""
    height, width = size
    return (box * box.new_tensor([width, height, width, height])).round().int().tolist()
