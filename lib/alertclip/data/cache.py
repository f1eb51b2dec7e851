"""A frame cache keyed by content: decode once, whatever the file is called."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from alertclip.data.video import DecodeError, DecodeWorker, VideoInfo, probe, read_frames
from alertclip.files import atomic_write, progress

Request = tuple[Path, Sequence[int]]


class FrameCache:
    """uint8 frames (T, H, W, 3) under ``root``, keyed by video bytes, indices and size."""

    def __init__(self, root: Path, size: tuple[int, int], backend: str = "decord") -> None:
        self.root, self.size, self.backend = root, size, backend

    def info(self, path: Path, worker: DecodeWorker | None = None) -> VideoInfo:
        """Frame count and rate, counted once per content."""
        return probe(path, self.root / "videos", **({"worker": worker} if worker else {}))

    def file(self, path: Path, indices: Sequence[int]) -> Path:
        """Where the frames of a request are kept."""
        key = f"{self.info(path).sha256} {self.size} {self.backend} {list(map(int, indices))}"
        return self.root / "frames" / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"

    def get(
        self, path: Path, indices: Sequence[int], worker: DecodeWorker | None = None
    ) -> np.ndarray:
        """Frames (T, H, W, 3) uint8, memory-mapped; decoded now if they are not there yet."""
        file = self.file(path, indices)
        if not file.exists():
            given = {"worker": worker} if worker else {}
            frames = read_frames(path, indices, self.size, self.backend, **given)
            with atomic_write(file) as temporary:
                np.save(temporary, frames, allow_pickle=False)
        return np.load(file, mmap_mode="r", allow_pickle=False)


def parallel_probe(
    cache: FrameCache, paths: Iterable[Path], workers: int
) -> dict[Path, VideoInfo | str]:
    """Probe many videos in worker processes: path -> info, or the reason why it has none."""

    def one(path: Path, worker: DecodeWorker) -> VideoInfo:
        return cache.info(path, worker)

    return _each(one, list(dict.fromkeys(paths)), workers, "counting frames")


def parallel_fill(cache: FrameCache, requests: Sequence[Request], workers: int) -> dict[int, str]:
    """Decode what is missing, in worker processes: request number -> reason, for the failed."""

    def one(number: int, worker: DecodeWorker) -> None:
        path, indices = requests[number]
        if not cache.file(path, indices).exists():
            cache.get(path, indices, worker)

    done = _each(one, list(range(len(requests))), workers, "decoding frames")
    return {number: reason for number, reason in done.items() if isinstance(reason, str)}


def _each(work, items: list, workers: int, label: str) -> dict:
    """Run ``work(item, worker)`` for every item; a DecodeError becomes its text."""
    pool = [DecodeWorker() for _ in range(max(1, workers))]
    shares = [items[i :: len(pool)] for i in range(len(pool))]

    def safely(item, worker: DecodeWorker):
        try:
            return item, work(item, worker)
        except DecodeError as error:
            return item, str(error)

    def run(share: list, worker: DecodeWorker) -> list:
        every = progress(share, len(share), label)
        return [safely(item, worker) for item in every]

    try:
        with ThreadPoolExecutor(len(pool)) as threads:
            results = threads.map(run, shares, pool)
            return {item: result for part in results for item, result in part}
    finally:
        for worker in pool:
            worker.close()
