"""From annotated items to batches of frames, boxes and captions."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alertclip.records import LEFT_OUT, Finding, Item, boxes_at, region_span
from media.cache import FrameCache, parallel_fill, parallel_probe
from media.errors import InputError
from media.files import sha256_json
from media.survey import Spacing, VideoInfo, uniform_indices


@dataclass(frozen=True)
class Batch:
    """B clips of T frames with R regions in all; masks are True where the entry is real.

    frames (B, T, 3, H, W) uint8; mask (B, T); region_clip (R,) index of each region's clip;
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
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; a DataLoader calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


class ClipDataset(Dataset):
    """Items as samples; clips that cannot be decoded are left out and listed in ``failures``.

    A sample holds ``num_frames`` frames in time order, at the centres of equal bins of the clip
    (its segment, or the whole video); ``spacing``: equal in frames or in time. With ``cover``, the
    nearest frame moves into each region's span that has none. A shorter clip gives each frame once,
    padded with its last and masked False. Times are seconds from the start of the video. ``notes``
    lists segments and regions that end after their video.
    """

    def __init__(
        self,
        root: Path,
        items: Sequence[Item],
        num_frames: int,
        cache: FrameCache,
        workers: int = 2,
        cover: bool = False,
        spacing: Spacing = "index",
    ) -> None:
        self.root, self.num_frames, self.cache, self.cover = root, num_frames, cache, cover
        self.spacing = spacing
        self.failures: list[Finding] = []
        if repeated := [key for key, n in Counter(i.key for i in items).items() if n > 1]:
            raise InputError(f"{repeated[0]}: {len(repeated)} clips occur twice; give each once")
        by_path: dict[Path, list[Item]] = defaultdict(list)
        for item in items:
            by_path[root / item.video].append(item)

        def choose(path: Path, info: VideoInfo) -> list[np.ndarray]:
            return [self._sample(item, info) for item in by_path[path] if not _lost(item, info)]

        infos = parallel_probe(cache, by_path, workers, choose)
        self._infos = {item.key: infos[root / item.video] for item in items}
        readable = self._keep(items, {i.key: _lost(i, self._infos[i.key]) for i in items})
        self._indices = {i.key: self._sample(i, self._infos[i.key]) for i in readable}
        self.notes = [note for item in readable for note in _clipped(item, self._infos[item.key])]
        requests = [(root / item.video, self._indices[item.key]) for item in readable]
        failed = parallel_fill(cache, requests, workers)
        self.items = self._keep(readable, {readable[i].key: why for i, why in failed.items()})
        if not self.items:
            reasons = "; ".join(f.reason for f in self.failures[:3])
            raise InputError(f"none of {len(items)} clips under {root} can be read: {reasons}")
        if self.failures:
            left_out = f"{len(self.failures)} of {len(items)} clips are left out"
            warnings.warn(f"{left_out}; the first: {self.failures[0].reason}", stacklevel=2)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """A sample: frames (T, H, W, 3) uint8, mask, times (s), captions, regions, label, names."""
        item = self.items[number]
        indices = self._indices[item.key]
        frames = self.cache.get(self.root / item.video, indices)
        times = self._infos[item.key].clock[indices]
        order = np.minimum(np.arange(self.num_frames), len(frames) - 1)  # repeats the last frame
        mask = np.arange(self.num_frames) < len(frames)
        regions = []
        for region in item.regions:
            boxes, present = boxes_at(region, times)
            texts = region.caption, list(region.hard_negatives)
            regions.append((boxes[order], present[order] & mask, *texts))
        return {
            "frames": np.ascontiguousarray(frames[order]),
            "mask": mask,
            "times": times[order],
            "global_caption": item.global_caption,
            "regions": regions,
            "label": int(item.is_abnormal),
            "class_name": item.class_name,
            "key": item.key,
        }

    def digest(self) -> str:
        """SHA-256 of the videos' content and of the frame numbers sampled from each."""
        clips = {k: (self._infos[k].sha256, self._indices[k].tolist()) for k in self._indices}
        return sha256_json(clips)

    def _keep(self, items: Sequence[Item], lost: dict[str, str]) -> list[Item]:
        """Items without a reason in ``lost`` (key -> reason); the others go to ``failures``."""
        self.failures += [Finding(key, why, LEFT_OUT) for key, why in lost.items() if why]
        return [item for item in items if not lost.get(item.key)]

    def _sample(self, item: Item, info: VideoInfo) -> np.ndarray:
        start, end = item.timestamps or (0.0, info.duration)
        indices = uniform_indices(info, start, end, self.num_frames, self.spacing)
        return cover_spans(indices, _region_spans(item), info) if self.cover else indices


def _region_spans(item: Item) -> list[tuple[float, float]]:
    return [span for region in item.regions if (span := region_span(region))]


def _lost(item: Item, info: VideoInfo | str) -> str:
    """Reason why the item has no frame in its video; empty if it has one."""
    if isinstance(info, str):
        return info
    start = item.timestamps[0] if item.timestamps else 0.0
    late = f"segment begins at {start:.2f} s, the video ends at {info.duration:.2f} s"
    return f"{item.video}: {late}" if start >= info.duration else ""


def _clipped(item: Item, info: VideoInfo) -> Iterator[Finding]:
    """Findings for a segment and regions that end after their video."""
    spans = [("segment", item.timestamps)] if item.timestamps else []
    spans += [("region", span) for span in _region_spans(item)]
    for name, (_, end) in spans:
        if end > info.duration + 1 / info.fps:
            reason = f"{name} ends at {end:.2f} s, its video at {info.duration:.2f} s"
            yield Finding(item.key, reason, "clipped")


def cover_spans(
    indices: np.ndarray, spans: Sequence[tuple[float, float]], info: VideoInfo
) -> np.ndarray:
    """Move the nearest index into each span (s) that holds none; sorted, as many as before.

    The only index of another span does not move if any other can.
    """
    moved = indices.copy()
    for span in spans:
        middle = info.frame_at(sum(span) / 2)
        if _holds(span, moved, info) or middle in moved:
            continue
        covered = [other for other in spans if _holds(other, moved, info)]
        nearest = np.argsort(np.abs(moved - middle), kind="stable")
        free = (i for i in nearest if all(_holds(s, np.delete(moved, i), info) for s in covered))
        moved[next(free, nearest[0])] = middle
    return np.sort(moved)


def _holds(span: tuple[float, float], indices: np.ndarray, info: VideoInfo) -> bool:
    times = info.clock[indices]
    return bool(((times >= span[0]) & (times <= span[1])).any())


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Join samples of equal length in a Batch, with the regions of all clips in one list.

    A region that no frame shows is left out.
    """
    regions = [(b, r) for b, s in enumerate(samples) for r in s["regions"] if r[1].any()]
    boxes = np.array([r[0] for _, r in regions], np.float32)
    present = np.array([r[1] for _, r in regions], bool)
    frames = torch.from_numpy(np.stack([s["frames"] for s in samples]))
    return Batch(
        frames=frames.permute(0, 1, 4, 2, 3).contiguous(),  # (B, T, 3, H, W)
        mask=torch.from_numpy(np.stack([s["mask"] for s in samples])),
        global_captions=[s["global_caption"] for s in samples],
        region_clip=torch.tensor([b for b, _ in regions], dtype=torch.long),
        boxes=torch.from_numpy(boxes.reshape(-1, frames.shape[1], 4)),
        region_mask=torch.from_numpy(present.reshape(-1, frames.shape[1])),
        region_captions=[r[2] for _, r in regions],
        hard_negatives=[r[3] for _, r in regions],
        labels=torch.tensor([s["label"] for s in samples]),
        keys=[s["key"] for s in samples],
    )
