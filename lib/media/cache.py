"""A frame cache keyed by content: decode once, whatever the file is called."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from media.files import atomic_write, progress
from media.survey import DecodeError, VideoInfo
from media.video import THROUGH, Walk, probe, read_frames

Part = TypeVar("Part")
Choose = Callable[[Path, VideoInfo], Sequence[np.ndarray]]  # lists of frames of a video


class FrameCache:
    """uint8 frames (T, H, W, 3) under ``root``, keyed by video bytes, indices and size."""

    def __init__(self, root: Path, size: tuple[int, int]) -> None:
        self.root, self.size = root, size

    def info(
        self, path: Path, choose: Choose = lambda path, info: [], threads: str = "AUTO"
    ) -> VideoInfo:
        """What a video holds, counted once per content; the frames that ``choose`` lists are kept.

        They are chosen by what the packets promise. Where that proves wrong, or they are more than
        THROUGH, none is kept: ``get`` decodes them.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = []

        def count(path: Path) -> VideoInfo:
            walk = Walk(path, self.size, threads)
            promised, lists = walk.info, choose(path, walk.info)
            wanted = {int(number) for indices in lists for number in indices}
            taken = dict(walk.frames(wanted if len(wanted) <= THROUGH else ()))
            if taken and walk.info == promised:
                found.extend((chosen, np.stack([taken[i] for i in chosen])) for chosen in lists)
            return walk.info

        info = probe(path, self.root / "surveys-2", count)
        for indices, frames in found:
            _keep(self.file(path, indices), frames)
        return info

    def file(self, path: Path, indices: Sequence[int]) -> Path:
        """Where the frames of a request are kept."""
        text = f"shown-2 {self.info(path).sha256} {self.size} {list(map(int, indices))}"
        return self.root / "frames" / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"

    def get(self, path: Path, indices: Sequence[int]) -> np.ndarray:
        """Frames (T, H, W, 3) uint8, memory-mapped; decoded now if they are not there yet."""
        file = self.file(path, indices)
        if (frames := _kept(file)) is None:
            _keep(file, read_frames(path, indices, self.size, self.info(path)))
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
    cache: FrameCache, paths: Iterable[Path], workers: int, choose: Choose = lambda path, info: []
) -> dict[Path, VideoInfo | str]:
    """Probe videos in threads: path -> info, or why it has none; ``choose`` as for ``info``."""
    videos = list(dict.fromkeys(paths))
    threads = decoder_threads(min(workers, len(videos)))
    one = partial(cache.info, choose=choose, threads=threads)
    return in_threads(one, videos, workers, "reading videos")


def parallel_fill(
    cache: FrameCache, requests: Sequence[tuple[Path, Sequence[int]]], workers: int
) -> dict[int, str]:
    """Decode what is missing, in threads: request number -> reason, for the failed."""

    def one(number: int) -> None:
        cache.get(*requests[number])

    done = in_threads(one, range(len(requests)), workers, "decoding frames")
    return {number: reason for number, reason in done.items() if reason}


def decoder_threads(workers: int) -> str:
    """FFmpeg's own threads for each of ``workers`` decoders: AUTO unless they fill all cores."""
    return "NONE" if workers >= (os.cpu_count() or 1) else "AUTO"


def in_threads(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int, label: str
) -> dict[Any, Any]:
    """``work(item)`` of every item, or a DecodeError's text, ``workers`` at a time.

    FFmpeg decodes outside Python's lock. Other errors, such as a full disk, stop everything.
    """

    def one(item: Any) -> Any:
        try:
            return work(item)
        except DecodeError as error:
            return str(error)

    with ThreadPoolExecutor(max(1, min(workers, len(items)))) as pool:
        done = pool.map(one, items)  # cancels what has not begun when an error ends the loop
        return dict(zip(items, progress(done, len(items), label), strict=True))


def parts_ahead(
    read: Callable[[Any], Iterator[Part]], items: Sequence[Any], workers: int
) -> Iterator[Part]:
    """All parts of all items; ``workers`` items at a time, each a part ahead of the caller.

    Parts of an item come in order, those of others in between.
    """
    count, todo = max(1, min(workers, len(items))), iter(items)
    with ThreadPoolExecutor(count) as pool:
        waiting = deque()
        for _ in range(count):
            parts = chain.from_iterable(map(read, todo))
            waiting.append((parts, pool.submit(next, parts, None)))
        while waiting:
            parts, future = waiting.popleft()
            if (part := future.result()) is not None:
                waiting.append((parts, pool.submit(next, parts, None)))
                yield part
