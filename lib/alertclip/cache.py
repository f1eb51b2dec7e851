"""A frame cache keyed by content: decode once, whatever the file is called."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from alertclip import video
from alertclip.files import atomic_write, progress
from alertclip.video import Choice, DecodeError, DecodeWorker, Facts, VideoInfo

Request = tuple[Path, Sequence[int]]


class FrameCache:
    """uint8 frames (T, H, W, 3) under ``root``, keyed by video bytes, indices and size."""

    def __init__(self, root: Path, size: tuple[int, int]) -> None:
        self.root, self.size = root, size

    def info(
        self, path: Path, worker: DecodeWorker | None = None, choose: Choice | None = None
    ) -> VideoInfo:
        """Frame count and rate, counted once per content; ``choose``'s frames are kept on the way.

        Of a whole file they are the bits that decord gives. Where the container states its frames
        wrongly or not at all, none is kept: ``get`` decodes them.
        """
        found: list[tuple[Sequence[int], np.ndarray]] = []

        def counted(path: Path, worker: DecodeWorker) -> Facts:
            facts, frames = video.count_and_read(path, worker, choose, self.size)
            found.extend(frames)
            return facts

        info = video.probe(path, self.root / "videos", worker, counted if choose else None)
        for indices, frames in found:
            _keep(self.file(path, indices), frames)
        return info

    def file(self, path: Path, indices: Sequence[int]) -> Path:
        """Where the frames of a request are kept."""
        text = f"{self.info(path).sha256} {self.size} {list(map(int, indices))}"
        return self.root / "frames" / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"

    def get(
        self, path: Path, indices: Sequence[int], worker: DecodeWorker | None = None
    ) -> np.ndarray:
        """Frames (T, H, W, 3) uint8, memory-mapped; decoded now if they are not there yet."""
        file = self.file(path, indices)
        if (frames := _kept(file)) is None:
            _keep(file, video.read_frames(path, indices, self.size, worker=worker))
            frames = _kept(file)
        return frames


def _keep(file: Path, frames: np.ndarray) -> None:
    with atomic_write(file) as temporary:
        np.save(temporary, frames, allow_pickle=False)


def _kept(file: Path) -> np.ndarray | None:
    """Frames of a cache file; None if it is missing or damaged."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None


def parallel_probe(
    cache: FrameCache,
    paths: Iterable[Path],
    workers: int,
    choose: Callable[[Path, VideoInfo], Sequence[Sequence[int]]] | None = None,
) -> dict[Path, VideoInfo | str]:
    """Probe many videos in worker processes: path -> info, or the reason why it has none.

    A video seen for the first time is decoded once, and what ``choose`` names is kept on the way.
    """

    def one(path: Path, worker: DecodeWorker) -> VideoInfo:
        return cache.info(path, worker, partial(choose, path) if choose else None)

    return _all(one, list(dict.fromkeys(paths)), workers, "reading videos")


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
