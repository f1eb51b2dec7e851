"""Spatial effective tokens: keep the patches that changed since the frame before (VA-GPT, SETS).

Patch features come from DINOv2 (a timm model) or from the backbone's own tower. VA-GPT keeps half
of the patches, the best of its five shares. Axis letters: T frames, (h, w) patches, D features.
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
    moved: np.ndarray  # (T, h, w): change of each token since the frame before; inf where unknown
    times: np.ndarray  # (T,) s


def patch_difference(patches: np.ndarray) -> np.ndarray:
    """Manhattan distance of each patch to itself one frame earlier: (T, h, w, D) -> (T, h, w).

    The distances of the first frame are inf.
    """
    moved = np.abs(np.diff(patches, axis=0)).sum(axis=-1)
    return np.concatenate([np.full((1, *patches.shape[1:3]), np.inf), moved])


def keep_top(distance: np.ndarray, share: float) -> np.ndarray:
    """The ``share`` of each frame's patches with the largest distance: (T, h, w) -> the same, bool.

    At least one is kept; of equal ones the first. A frame of infinite distances keeps all.
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
    """The control: as many patches per frame, drawn by seed; (T, h, w) bool, first frame whole."""
    drawn = np.random.default_rng(seed).random(shape)
    drawn[0] = np.inf
    return keep_top(drawn, share)


def on_grid(distance: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Distances (T, h, w) averaged onto the patch grid of another encoder: (T, *grid)."""
    given = torch.from_numpy(distance[:, None]).float()
    return interpolate(given, grid, mode="area")[:, 0].numpy()


@torch.inference_mode()
def backbone_patches(model: AlertCLIP, frames: np.ndarray) -> np.ndarray:
    """The backbone's projected patch tokens (T, h, w, D) of frames (T, H, W, 3) of its size."""
    parts = _pixels(frames, model.mean.device).split(CHUNK)
    grids = [model.encode_frames(part[None], patches=True).patches for part in parts]
    return torch.cat(grids).float().permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def embed_frames(model: AlertCLIP, frames: np.ndarray) -> np.ndarray:
    """Unit image embeddings (T, D) of frames (T, H, W, 3) uint8 of the backbone's size."""
    parts = _pixels(frames, model.mean.device).split(CHUNK)
    return unit(torch.cat([model.image_features(part).cpu() for part in parts]).numpy())


def _pixels(frames: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.tensor(frames, device=device).permute(0, 3, 1, 2)


def timm_patches(name: str, pretrained: bool = True, device: str = "cpu") -> Patches:
    """Patch features of a timm vision transformer from frames of any size.

    VA-GPT takes DINOv2 ("vit_small_patch14_dinov2.lvd142m" here). InputError if the weights are not
    in the cache and cannot be fetched.
    """
    import timm  # slow to import

    try:
        encoder = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # unknown names and failed downloads share no base class
        raise InputError(f"timm cannot make {name} ({type(error).__name__}: {error})") from None
    encoder = encoder.to(device).eval()
    made = timm.data.resolve_model_data_config(encoder)
    mean, std = (torch.tensor(made[k], device=device).view(3, 1, 1) for k in ("mean", "std"))

    @torch.inference_mode()
    def encode(frames: np.ndarray) -> np.ndarray:
        size = made["input_size"][1:]
        pixels = interpolate(_pixels(frames, device) / 255, size, mode="bicubic", antialias=True)
        parts = ((pixels - mean) / std).split(CHUNK)
        tokens = torch.cat([encoder.forward_features(part) for part in parts])
        tokens = tokens[:, encoder.num_prefix_tokens :]
        return tokens.unflatten(1, encoder.patch_embed.grid_size).float().cpu().numpy()

    return encode


def pool_kept(patches: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Unit frame embeddings from the mean of the kept patches: (T, h, w, D) -> (T, D).

    With every patch kept this is the image embedding of a backbone that pools by averaging.
    """
    weights = kept[..., None].astype(patches.dtype)
    return unit((patches * weights).sum(axis=(1, 2)) / weights.sum(axis=(1, 2)))


def mask_frames(frames: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) with every patch painted grey that is not kept, (T, h, w) bool."""
    height, width = frames.shape[1:3]
    rows = np.arange(height) * kept.shape[1] // height
    columns = np.arange(width) * kept.shape[2] // width
    return np.where(kept[:, rows][:, :, columns][..., None], frames, np.uint8(127))


def unit(features: np.ndarray) -> np.ndarray:
    """Image embeddings (n, D) at unit length."""
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
    """The tokens of ``frames`` frames of a video, from the safetensors ``file`` or made and kept.

    ``see``: frames (T, H, W, 3) uint8 -> tokens (T, h, w, W) before the projector, kept as fp16.
    moved is the change since ``gap`` frames before, inf where there is none. ``encode``: whose
    patches are compared (VA-GPT: DINOv2); None: the tokens themselves.
    """
    try:
        kept = load_file(file)
    except (FileNotFoundError, SafetensorError):
        now, times = _chosen(path, cache, frames)
        before = np.maximum(now - gap, 0)
        needed = np.union1d(now, before)
        shown = np.asarray(cache.get(path, needed.tolist()))
        seen = see(shown)
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
