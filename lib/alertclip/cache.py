"""A frame cache keyed by content: decode once, whatever the file is called."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from alertclip.files import atomic_write, progress
from alertclip.video import (
    Choice,
    DecodeError,
    DecodeWorker,
    Facts,
    VideoInfo,
    count_and_read,
    probe,
    read_frames,
)

Request = tuple[Path, Sequence[int]]


class FrameCache:
    """uint8 frames (T, H, W, 3) under ``root``, keyed by video bytes, indices and size."""

    def __init__(self, root: Path, size: tuple[int, int], backend: str = "decord") -> None:
        self.root, self.size, self.backend = root, size, backend

    def info(
        self, path: Path, worker: DecodeWorker | None = None, choose: Choice | None = None
    ) -> VideoInfo:
        """Frame count and rate, counted once per content; ``choose``'s frames are kept on the way.

        Of a whole file they are the bits that decord gives. Where the container does not state
        its frames, or wrongly, none is kept: ``get`` decodes them.
        """
        found: list[tuple[Sequence[int], np.ndarray]] = []

        def counted(path: Path, worker: DecodeWorker) -> Facts:
            facts, frames = count_and_read(path, worker, choose, self.size)
            found.extend(frames)
            return facts

        given = {"worker": worker} if worker else {}
        given |= {"counted": counted} if choose else {}
        info = probe(path, self.root / "videos", **given)
        for indices, frames in found:
            self._keep(self.file(path, indices), frames)
        return info

    def key(self, info: VideoInfo, indices: Sequence[int]) -> str:
        """Name of a video's frames: a hash of its content, of their numbers and size."""
        text = f"{info.sha256} {self.size} {self.backend} {list(map(int, indices))}"
        return hashlib.sha256(text.encode()).hexdigest()

    def file(self, path: Path, indices: Sequence[int]) -> Path:
        """Where the frames of a request are kept."""
        return self.root / "frames" / f"{self.key(self.info(path), indices)}.npy"

    def get(
        self, path: Path, indices: Sequence[int], worker: DecodeWorker | None = None
    ) -> np.ndarray:
        """Frames (T, H, W, 3) uint8, memory-mapped; decoded now if they are not there yet."""
        file = self.file(path, indices)
        if (frames := _stored(file)) is None:
            given = {"worker": worker} if worker else {}
            self._keep(file, read_frames(path, indices, self.size, self.backend, **given))
            frames = _stored(file)
        return frames

    def _keep(self, file: Path, frames: np.ndarray) -> None:
        with atomic_write(file) as temporary:
            np.save(temporary, frames, allow_pickle=False)


def _stored(file: Path) -> np.ndarray | None:
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

    A video seen for the first time is decoded once, if its container states its frames rightly:
    what ``choose`` names is kept on the way.
    """

    def one(path: Path, worker: DecodeWorker) -> VideoInfo:
        return cache.info(path, worker, partial(choose, path) if choose else None)

    return _each(one, list(dict.fromkeys(paths)), workers, "reading videos")


def parallel_fill(cache: FrameCache, requests: Sequence[Request], workers: int) -> dict[int, str]:
    """Decode what is missing, in worker processes: request number -> reason, for the failed."""

    def one(number: int, worker: DecodeWorker) -> None:
        cache.get(*requests[number], worker)

    done = _each(one, list(range(len(requests))), workers, "decoding frames")
    return {number: reason for number, reason in done.items() if isinstance(reason, str)}


def ahead(
    work: Callable[[Any, DecodeWorker], Any], items: Iterable[Any], workers: int
) -> Iterator[Any]:
    """``work(item, worker)`` of every item, in order, decoded a few items ahead of the caller.

    A DecodeError becomes its text. What is held is bounded: one item per worker process, and one.
    """
    with _workers(max(1, workers)) as (threads, one):
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(threads.submit(one, work, item))
            if len(waiting) > max(1, workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _each(
    work: Callable[[Any, DecodeWorker], Any], items: Sequence[Any], workers: int, label: str
) -> dict[Any, Any]:
    """Run ``work(item, worker)`` for every item; a DecodeError becomes its text.

    Other errors, such as a full disk, stop everything: they are not a fault of the video.
    """
    with _workers(max(1, min(workers, len(items)))) as (threads, one):
        futures = {threads.submit(one, work, item): item for item in items}
        done = progress(as_completed(futures), len(items), label)
        return {futures[future]: future.result() for future in done}


@contextmanager
def _workers(count: int) -> Iterator[tuple[ThreadPoolExecutor, Callable[..., Any]]]:
    """Threads with as many decoding processes, and the call that lends a process to some work."""
    threads = "NONE" if count >= (os.cpu_count() or 1) else "AUTO"
    pool = [DecodeWorker(threads=threads) for _ in range(count)]
    free: SimpleQueue[DecodeWorker] = SimpleQueue()
    for worker in pool:
        free.put(worker)

    def one(work: Callable[[Any, DecodeWorker], Any], item: Any) -> Any:
        worker = free.get()
        try:
            return work(item, worker)
        except DecodeError as error:
            return str(error)
        finally:
            free.put(worker)

    try:
        with ThreadPoolExecutor(count) as threads:
            try:
                yield threads, one
            finally:  # after an error the rest would only fail in the same way, one by one
                threads.shutdown(cancel_futures=True)
    finally:
        for worker in pool:
            worker.close()
