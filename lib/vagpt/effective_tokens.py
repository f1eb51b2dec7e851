"""Spatial effective tokens: keep patches that changed since the previous frame (VA-GPT, SETS).

Patch features come from DINOv2 (a timm model) or from the backbone's own tower. VA-GPT keeps half
of the patches, the best of the five shares it tries. Axes: T frames, (h, w) patches, D features.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from alertclip.model import AlertCLIP
from media.cache import FrameCache
from media.errors import InputError
from media.files import atomic_write
from media.survey import uniform_indices

CHUNK = 64  # frames encoded at once

Patches = Callable[[np.ndarray], np.ndarray]
"""Frames (T, H, W, 3) uint8 of one video -> patch features (T, h, w, D)."""


class Shown(NamedTuple):
    """What a language model sees of a footage; an image is one frame."""

    tokens: Tensor  # (T, h, w, W), before the projector
    moved: np.ndarray  # (T, h, w): change of each token since an earlier frame; inf if unknown
    times: np.ndarray  # (T,) s


def patch_difference(patches: np.ndarray) -> np.ndarray:
    """Manhattan distance of each patch to that of the frame before: (T, h, w, D) -> (T, h, w).

    It is inf for the first frame.
    """
    distance = np.abs(np.diff(patches, axis=0)).sum(axis=-1)
    return np.concatenate([np.full((1, *patches.shape[1:3]), np.inf), distance])


def keep_top(distance: np.ndarray, share: float) -> np.ndarray:
    """Mask the ``share`` of each frame's patches of largest distance: (T, h, w) -> the same, bool.

    At least one is kept, of ties the first. A frame whose distances are all infinite keeps all.
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of kept patches must be above 0 and at most 1, not {share}")
    flat = distance.reshape(len(distance), -1)
    count = max(1, round(share * flat.shape[1]))
    order = np.argsort(-flat, axis=1, kind="stable")
    kept = np.zeros(flat.shape, bool)
    np.put_along_axis(kept, order[:, :count], True, axis=1)
    kept[np.isinf(flat).all(axis=1)] = True
    return kept.reshape(distance.shape)


def keep_random(shape: tuple[int, int, int], share: float, seed: int) -> np.ndarray:
    """Control: mask (T, h, w) of as many random patches per frame; the first frame keeps all."""
    drawn = np.random.default_rng(seed).random(shape)
    drawn[0] = np.inf
    return keep_top(drawn, share)


def on_grid(distance: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Average distances (T, h, w) onto the patch grid of another encoder: (T, *grid)."""
    maps = torch.from_numpy(distance[:, None]).float()
    return interpolate(maps, grid, mode="area")[:, 0].numpy()


@torch.inference_mode()
def backbone_patches(model: AlertCLIP, frames: np.ndarray) -> np.ndarray:
    """Return projected patch tokens (T, h, w, D) of frames (T, H, W, 3) of the backbone's size."""
    chunks = _pixels(frames, model.mean.device).split(CHUNK)
    grids = [model.encode_frames(chunk[None], patches=True).patches for chunk in chunks]
    return torch.cat(grids).float().permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def embed_frames(model: AlertCLIP, frames: np.ndarray) -> np.ndarray:
    """Return unit image embeddings (T, D) of frames (T, H, W, 3) uint8 of the backbone's size."""
    chunks = _pixels(frames, model.mean.device).split(CHUNK)
    return unit(torch.cat([model.image_features(chunk).cpu() for chunk in chunks]).numpy())


def _pixels(frames: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.tensor(frames, device=device).permute(0, 3, 1, 2)


def timm_patches(name: str, pretrained: bool = True, device: str = "cpu") -> Patches:
    """Return a timm vision transformer that makes patch features of frames of any size.

    VA-GPT uses DINOv2 ("vit_small_patch14_dinov2.lvd142m" here). InputError if the weights are not
    in the cache and cannot be fetched.
    """
    import timm  # slow to import

    try:
        encoder = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # unknown names and failed downloads share no base class
        raise InputError(f"timm cannot make {name} ({type(error).__name__}: {error})") from None
    encoder = encoder.to(device).eval()
    config = timm.data.resolve_model_data_config(encoder)
    mean, std = (torch.tensor(config[k], device=device).view(3, 1, 1) for k in ("mean", "std"))

    @torch.inference_mode()
    def encode(frames: np.ndarray) -> np.ndarray:
        size = config["input_size"][1:]
        pixels = interpolate(_pixels(frames, device) / 255, size, mode="bicubic", antialias=True)
        chunks = ((pixels - mean) / std).split(CHUNK)
        tokens = torch.cat([encoder.forward_features(chunk) for chunk in chunks])
        tokens = tokens[:, encoder.num_prefix_tokens :]
        return tokens.unflatten(1, encoder.patch_embed.grid_size).float().cpu().numpy()

    return encode


def pool_kept(patches: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return unit frame embeddings, the mean of the kept patches: (T, h, w, D) -> (T, D).

    With every patch kept this is the image embedding of a backbone that pools by averaging.
    """
    weights = kept[..., None].astype(patches.dtype)
    return unit((patches * weights).sum(axis=(1, 2)) / weights.sum(axis=(1, 2)))


def mask_frames(frames: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Paint the patches of frames (T, H, W, 3) grey that ``kept`` (T, h, w) leaves out."""
    height, width = frames.shape[1:3]
    rows = np.arange(height) * kept.shape[1] // height
    columns = np.arange(width) * kept.shape[2] // width
    return np.where(kept[:, rows][:, :, columns][..., None], frames, np.uint8(127))


def unit(features: np.ndarray) -> np.ndarray:
    """Scale embeddings (n, D) to unit length."""
    return normalize(torch.from_numpy(features), dim=-1).numpy()


def video_tokens(
    see: Callable[[np.ndarray], Tensor],
    path: Path,
    file: Path,
    cache: FrameCache,
    frames: int,
    gap: int,
    encode: Patches | None = None,
) -> Shown:
    """Return the tokens of ``frames`` frames of a video, cached in the safetensors ``file``.

    ``see``: frames (T, H, W, 3) uint8 -> tokens (T, h, w, W) before the projector, cached as fp16.
    ``moved`` is the change since ``gap`` frames earlier, inf if there is no such frame. ``encode``
    makes the patches that are compared (VA-GPT: DINOv2); None compares the tokens.
    """
    try:
        cached = load_file(file)
    except (FileNotFoundError, SafetensorError):
        now, times = _sampled(path, cache, frames)
        before = np.maximum(now - gap, 0)
        needed = np.union1d(now, before)
        images = np.asarray(cache.get(path, needed.tolist()))
        tokens = see(images)
        patches = encode(images) if encode else tokens.float().numpy()
        now_rows, before_rows = np.searchsorted(needed, now), np.searchsorted(needed, before)
        distance = np.abs(patches[now_rows] - patches[before_rows]).sum(axis=-1)
        moved = on_grid(distance, tokens.shape[1:3])
        moved[now < gap] = np.inf
        cached = {
            "tokens": tokens[torch.from_numpy(now_rows)].half(),
            "moved": torch.from_numpy(moved),
            "times": torch.from_numpy(times).float(),
        }
        with atomic_write(file) as temporary:
            save_file(cached, temporary)
    return Shown(cached["tokens"].float(), cached["moved"].numpy(), cached["times"].numpy())


def _sampled(path: Path, cache: FrameCache, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the evenly spaced indices (T,) of the frames a model sees, and their times in s."""
    info = cache.info(path)
    indices = uniform_indices(info, 0, info.duration, frames)
    return indices, info.clock[indices]


def frames_shown(path: Path, cache: FrameCache, frames: int) -> np.ndarray:
    """Return the frames (T, H, W, 3) uint8 whose tokens a model sees."""
    return np.asarray(cache.get(path, _sampled(path, cache, frames)[0].tolist()))


def between(shown: Shown, start: float, end: float) -> Shown:
    """Keep the frames in [start, end) s or, if there are none, the one nearest to its middle."""
    inside = (shown.times >= start) & (shown.times < end)
    if not inside.any():
        inside[np.abs(shown.times - (start + min(end, shown.times[-1])) / 2).argmin()] = True
    return Shown(shown.tokens[torch.from_numpy(inside)], shown.moved[inside], shown.times[inside])
