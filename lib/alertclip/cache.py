"""A frame cache keyed by content: decode once, whatever the file is called."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from alertclip import video
from alertclip.files import atomic_write, progress
from alertclip.video import DecodeError, DecodeWorker, VideoInfo

Request = tuple[Path, Sequence[int]]


class FrameCache:
    """uint8 frames (T, H, W, 3) under ``root``, keyed by video bytes, indices and size."""

    def __init__(self, root: Path, size: tuple[int, int]) -> None:
        self.root, self.size = root, size

    def info(self, path: Path, worker: DecodeWorker | None = None) -> VideoInfo:
        """Frame count and rate, counted once per content."""
        return video.probe(path, self.root / "videos", worker)

    def file(self, path: Path, indices: Sequence[int]) -> Path:
        """Where the frames of a request are kept."""
        text = f"{self.info(path).sha256} {self.size} {list(map(int, indices))}"
        return self.root / "frames" / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"

    def get(
        self, path: Path, indices: Sequence[int], worker: DecodeWorker | None = None
    ) -> np.ndarray:
        """Frames (T, H, W, 3) uint8, memory-mapped; decoded now if they are not there yet."""
        file = self.file(path, indices)
        with suppress(FileNotFoundError, ValueError, EOFError):  # missing or damaged
            return np.load(file, mmap_mode="r", allow_pickle=False)
        with atomic_write(file) as temporary:
            np.save(temporary, video.read_frames(path, indices, self.size, worker=worker))
        return np.load(file, mmap_mode="r", allow_pickle=False)


def parallel_probe(
    cache: FrameCache, paths: Iterable[Path], workers: int
) -> dict[Path, VideoInfo | str]:
    """Probe many videos in worker processes: path -> info, or the reason why it has none."""
    return _all(cache.info, list(dict.fromkeys(paths)), workers, "reading videos")


def parallel_fill(cache: FrameCache, requests: Sequence[Request], workers: int) -> dict[int, str]:
    """Decode what is missing, in worker processes: request number -> reason, for the failed."""

    def one(number: int, worker: DecodeWorker) -> None:
        cache.get(*requests[number], worker)

    done = _all(one, range(len(requests)), workers, "decoding frames")
    return {number: reason for number, reason in done.items() if isinstance(reason, str)}


def _all(work: Callable, items: Sequence[Any], workers: int, label: str) -> dict[Any, Any]:
    done = ahead(work, items, min(workers, len(items)), held=len(items))
    return dict(zip(items, progress(done, len(items), label), strict=True))


def ahead(
    work: Callable[[Any, DecodeWorker], Any], items: Iterable[Any], workers: int, held: int = 0
) -> Iterator[Any]:
    """``work(item, worker)`` of every item, in order, ``workers`` processes ahead of the caller.

    A DecodeError becomes its text. Other errors, such as a full disk, stop everything: they are no
    fault of the video. At most ``held`` results wait for the caller (default: one per process).
    """
    count = max(1, workers)
    threads = "NONE" if count >= (os.cpu_count() or 1) else "AUTO"
    free: SimpleQueue[DecodeWorker] = SimpleQueue()
    pool = [DecodeWorker(threads) for _ in range(count)]
    for worker in pool:
        free.put(worker)

    def one(item: Any) -> Any:
        worker = free.get()
        try:
            return work(item, worker)
        except DecodeError as error:
            return str(error)
        finally:
            free.put(worker)

    executor, waiting = ThreadPoolExecutor(count), deque[Future]()
    try:
        for item in items:
            waiting.append(executor.submit(one, item))
            if len(waiting) > max(count, held):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after an error the rest would only fail in the same way, one by one
        executor.shutdown(cancel_futures=True)
        for worker in pool:
            worker.close()
