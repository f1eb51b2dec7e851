"""Snippet features of whole videos: the input of the weakly supervised detectors.

One file per video and crop, ``<name>__<crop>.npy`` of (snippets, D) float32, laid out as VadCLIP's
authors publish theirs. The folder's name ends in a hash of backbone and rule, and features.json
spells both out, so that features of one backbone never pass for another's. How 16 frames became
one published feature is not disclosed; here it is the mean over evenly spaced frames of a snippet.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from alertclip.data.cache import FrameCache, parallel_probe
from alertclip.data.video import DecodeError, read_frames
from alertclip.errors import InputError
from alertclip.files import atomic_write, progress, read_json, sha256_json, write_json
from alertclip.model.alertclip import AlertCLIP
from alertclip.training.identity import weights_hash

CROPS = (1, 5, 10)  # whole frame; centre and corners; the same mirrored
PIECE = 2048  # frames decoded at once
MARGIN = 8 / 7  # crops are taken from frames resized to 256 for 224


@dataclass(frozen=True)
class SnippetRule:
    """How a video becomes features: frames per snippet, how many of them are embedded, crops."""

    length: int = 16
    frames: int = 16
    crops: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= self.length or self.crops not in CROPS:
            raise InputError(
                f"snippets of {self.length} frames, {self.frames} embedded, {self.crops} crops:"
                f" embed 1 to {self.length} frames, and take {CROPS} crops"
            )


def snippet_frames(n_frames: int, rule: SnippetRule) -> np.ndarray:
    """Native indices (n, rule.frames) of the whole snippets; a shorter video makes one snippet."""
    starts = np.arange(max(1, n_frames // rule.length)) * rule.length
    offsets = (np.arange(rule.frames) + 0.5) * rule.length / rule.frames
    return np.minimum(starts[:, None] + offsets.astype(int), n_frames - 1)


def take_crop(frames: np.ndarray, size: tuple[int, int], crop: int) -> np.ndarray:
    """Crop 0 centre, 1-4 corners, 5-9 the same mirrored: (F, H', W', 3) -> (F, *size, 3)."""
    height, width = (have - want for have, want in zip(frames.shape[1:3], size, strict=True))
    corners = [(0, 0), (0, width), (height, 0), (height, width)]
    top, left = [(height // 2, width // 2), *corners][crop % 5]
    part = frames[:, top : top + size[0], left : left + size[1]]
    return part[:, :, ::-1] if crop >= 5 else part


def video_features(
    model: AlertCLIP, path: Path, n_frames: int, rule: SnippetRule, size: tuple[int, int]
) -> np.ndarray:
    """Features (crops, n, D) of a video, decoded in pieces: an hour of frames fits no memory."""
    indices = snippet_frames(n_frames, rule)
    pieces = np.array_split(indices, -(-indices.size // PIECE))
    parts = [embed_crops(model, read_frames(path, p.ravel(), size), rule) for p in pieces if len(p)]
    return np.concatenate(parts, axis=1)


@torch.inference_mode()
def embed_crops(model: AlertCLIP, frames: np.ndarray, rule: SnippetRule) -> np.ndarray:
    """Features (crops, n, D) of snippet frames (n * rule.frames, H', W', 3) uint8."""
    crops = []
    for crop in range(rule.crops):
        part = take_crop(frames, model.image_size, crop).copy()  # what was decoded is read-only
        pixels = torch.from_numpy(part).permute(0, 3, 1, 2).to(model.mean.device)
        v = torch.cat([model.image_features(chunk) for chunk in pixels.split(64)])
        crops.append(v.unflatten(0, (-1, rule.frames)).mean(1).cpu().numpy())
    return np.stack(crops)


def extract_features(
    model: AlertCLIP,
    videos: Sequence[Path],
    rule: SnippetRule,
    root: Path,
    cache_root: Path,
    workers: int,
) -> Path:
    """Write the missing features of ``videos`` under ``root``; returns their folder.

    What cannot be decoded is left out and named, with its reason, in failures.json. Raises
    InputError if two videos share a name, which the layout cannot tell apart.
    """
    _refuse_equal_names(videos)
    made_by = {
        "backbone": weights_hash(model.clip.visual),
        "config": model.backbone.config,
        "pixels": [model.image_size, model.backbone.mean, model.backbone.std, MARGIN],
        **asdict(rule),
    }
    folder = root / f"features-{sha256_json(made_by)[:8]}"
    write_json(folder / "features.json", made_by)
    missing = [path for path in videos if not feature_file(folder, path, rule.crops - 1).exists()]
    size = tuple(round(s * MARGIN) if rule.crops > 1 else s for s in model.image_size)
    infos = parallel_probe(FrameCache(cache_root, size), missing, workers)
    failures = {}
    for path in progress(missing, len(missing), "snippet features"):
        try:
            if isinstance(infos[path], str):
                raise DecodeError(infos[path])
            features = video_features(model, path, infos[path].frames, rule, size)
        except DecodeError as error:
            failures[path.name] = str(error)
            continue
        for crop, part in enumerate(features):
            with atomic_write(feature_file(folder, path, crop)) as temporary:
                np.save(temporary, part, allow_pickle=False)
    _keep_failures(folder / "failures.json", videos, failures)
    return folder


def _keep_failures(path: Path, videos: Sequence[Path], failures: dict[str, str]) -> None:
    """Replace what is known of these videos; other splits share the folder."""
    known = read_json(path) if path.exists() else {}
    tried = {video.name for video in videos}
    write_json(path, {k: v for k, v in known.items() if k not in tried} | failures)


def feature_file(folder: Path, video: Path, crop: int) -> Path:
    """File of a video's features, in the official layout."""
    return folder / f"{video.stem}__{crop}.npy"


def read_features(path: Path) -> np.ndarray:
    """Features (n, D) float32 of a file of this layout, ours or published; InputError names it."""
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a feature file ({error}); extract it again") from None
    if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
        raise InputError(f"{path}: shape {features.shape} or values are not features (n, D)")
    return features.astype(np.float32)


def _refuse_equal_names(videos: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in videos:
        if seen.setdefault(path.stem, path) != path:
            raise InputError(f"{path} and {seen[path.stem]} share a name; rename one")
