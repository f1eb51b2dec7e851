"""From annotated items to batches of frames, boxes and captions."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alertclip.data.boxes import boxes_at, region_span
from alertclip.data.cache import FrameCache, parallel_fill, parallel_probe
from alertclip.data.records import Finding, Item
from alertclip.data.video import VideoInfo, uniform_indices
from alertclip.errors import InputError


@dataclass(frozen=True)
class Batch:
    """B clips of T frames with R regions in all; masks are True where the entry is real.

    frames (B, T, 3, H, W) uint8; mask (B, T); region_clip (R,) which clip a region belongs to;
    boxes (R, T, 4) normalised x1 y1 x2 y2; region_mask (R, T); hard_negatives R lists of texts;
    labels (B,) 1 abnormal.
    """

    frames: Tensor
    mask: Tensor
    global_captions: list[str]
    region_clip: Tensor
    boxes: Tensor
    region_mask: Tensor
    region_captions: list[str]
    hard_negatives: list[list[str]]
    labels: Tensor
    keys: list[str]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on ``device``."""
        moved = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


class ClipDataset(Dataset):
    """Items as samples; what cannot be decoded is left out and named in ``failures``.

    A sample takes ``num_frames`` frames uniformly from the clip (its segment, or the whole video),
    moved so that each region has a frame inside its span; short clips are padded and masked.
    """

    def __init__(
        self,
        root: Path,
        items: Sequence[Item],
        num_frames: int,
        cache: FrameCache,
        workers: int = 2,
    ) -> None:
        self.root, self.num_frames, self.cache = root, num_frames, cache
        self.failures: list[Finding] = []
        paths = {item.key: _inside(root, item.video) for item in items}
        infos = parallel_probe(cache, paths.values(), workers)
        readable = self._keep(items, {k: infos[p] for k, p in paths.items()})
        self._infos = {item.key: infos[paths[item.key]] for item in readable}
        self._indices = {item.key: self._sample(item) for item in readable}
        requests = [(paths[item.key], self._indices[item.key]) for item in readable]
        failed = parallel_fill(cache, requests, workers)
        self.items = self._keep(readable, {readable[i].key: why for i, why in failed.items()})
        if not self.items:
            reasons = "; ".join(f.reason for f in self.failures[:3])
            raise InputError(f"none of {len(items)} clips under {root} can be read: {reasons}")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One sample: frames (T,H,W,3) uint8, mask, times (s), captions, regions, label, names."""
        item = self.items[number]
        indices, info = self._indices[item.key], self._infos[item.key]
        frames = self.cache.get(self.root / item.video, indices)
        real = len(frames)
        order = np.minimum(np.arange(self.num_frames), real - 1)  # padding repeats the last frame
        times = indices / info.fps
        mask = np.arange(self.num_frames) < real
        return {
            "frames": np.ascontiguousarray(frames[order]),
            "mask": mask,
            "times": times[order],
            "global_caption": item.global_caption,
            "regions": [_region_sample(region, times, order, mask) for region in item.regions],
            "label": int(item.is_abnormal),
            "class_name": item.class_name,
            "key": item.key,
        }

    def _keep(self, items: Sequence[Item], results: dict[str, VideoInfo | str]) -> list[Item]:
        for item in items:
            if isinstance(reason := results.get(item.key), str):
                self.failures.append(Finding(item.key, reason, "left out"))
        lost = {failure.item for failure in self.failures}
        return [item for item in items if item.key not in lost]

    def _sample(self, item: Item) -> np.ndarray:
        info = self._infos[item.key]
        start, end = item.timestamps or (0.0, info.duration)
        indices = uniform_indices(start, end, info.fps, info.frames, self.num_frames)
        spans = [span for region in item.regions if (span := region_span(region))]
        return cover_spans(indices, spans, info)


def cover_spans(
    indices: np.ndarray, spans: Sequence[tuple[float, float]], info: VideoInfo
) -> np.ndarray:
    """Move the nearest index into every span (s) that holds none; order and number stay."""
    moved = indices.copy()
    for start, end in spans:
        times = moved / info.fps
        if not ((times >= start) & (times <= end)).any():
            middle = min(round((start + end) / 2 * info.fps), info.frames - 1)
            if middle not in moved:
                moved[np.abs(moved - middle).argmin()] = middle
    return np.sort(moved)


def _region_sample(
    region: Any, times: np.ndarray, order: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str, list[str]]:
    boxes, present = boxes_at(region, times)
    return boxes[order], present[order] & mask, region.caption, list(region.hard_negatives)


def _inside(root: Path, video: str) -> Path:
    path = root / video
    if not path.resolve().is_relative_to(root.resolve()):
        # A link out of the data root is not followed: annotations are not trusted.
        return root / "refused: outside the data root" / video
    return path


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Samples of equal length to a Batch; regions of all clips stand in one list."""
    regions = [(b, region) for b, s in enumerate(samples) for region in s["regions"]]
    frames = torch.from_numpy(np.stack([s["frames"] for s in samples]))
    return Batch(
        frames=frames.permute(0, 1, 4, 2, 3).contiguous(),  # (B, T, 3, H, W)
        mask=torch.from_numpy(np.stack([s["mask"] for s in samples])),
        global_captions=[s["global_caption"] for s in samples],
        region_clip=torch.tensor([b for b, _ in regions], dtype=torch.long),
        boxes=torch.from_numpy(np.stack([r[0] for _, r in regions]).astype(np.float32)),
        region_mask=torch.from_numpy(np.stack([r[1] for _, r in regions])),
        region_captions=[r[2] for _, r in regions],
        hard_negatives=[r[3] for _, r in regions],
        labels=torch.tensor([s["label"] for s in samples]),
        keys=[s["key"] for s in samples],
    )


def split_validation(
    items: Sequence[Item], fraction: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Training and validation items: whole videos, the same share of each class, by ``seed``."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for item in items:
        by_class[item.class_name].append(item.video)
    held: set[str] = set()
    for name, all_videos in sorted(by_class.items()):
        videos = sorted(set(all_videos))
        count = min(max(1, round(fraction * len(videos))), len(videos) - 1)
        order = np.random.default_rng([seed, *name.encode()]).permutation(len(videos))
        held |= {videos[i] for i in order[:count]}
    train = [item for item in items if item.video not in held]
    return train, [item for item in items if item.video in held]
