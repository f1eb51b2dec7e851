"""A cache of decoded frames, keyed by the content of videos, not by their names."""

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
Choose = Callable[[Path, VideoInfo], Sequence[np.ndarray]]  # lists of a video's frame numbers


class FrameCache:
    """uint8 frames (T, H, W, 3) under ``root``, keyed by video bytes, indices and size."""

    def __init__(self, root: Path, size: tuple[int, int]) -> None:
        self.root, self.size = root, size

    def info(
        self, path: Path, choose: Choose = lambda path, info: [], threads: str = "AUTO"
    ) -> VideoInfo:
        """Info of a video, counted once per content; that pass also caches what ``choose`` lists.

        ``choose`` gets the info that the packets promise. If decoding proves it wrong, or the
        frames are more than THROUGH, none is cached; ``get`` then decodes them.
        """
        cached: list[tuple[np.ndarray, np.ndarray]] = []

        def count(path: Path) -> VideoInfo:
            walk = Walk(path, self.size, threads)
            promised, lists = walk.info, choose(path, walk.info)
            wanted = {int(number) for indices in lists for number in indices}
            decoded = dict(walk.frames(wanted if len(wanted) <= THROUGH else ()))
            if decoded and walk.info == promised:
                cached.extend((chosen, np.stack([decoded[i] for i in chosen])) for chosen in lists)
            return walk.info

        info = probe(path, self.root / "surveys-2", count)
        for indices, frames in cached:
            _save(self.file(path, indices), frames)
        return info

    def file(self, path: Path, indices: Sequence[int]) -> Path:
        """Cache file of the frames ``indices`` of a video."""
        text = f"shown-2 {self.info(path).sha256} {self.size} {list(map(int, indices))}"
        return self.root / "frames" / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"

    def get(self, path: Path, indices: Sequence[int]) -> np.ndarray:
        """Frames (T, H, W, 3) uint8, memory-mapped; decoded first if they are not cached."""
        file = self.file(path, indices)
        if (frames := _load(file)) is None:
            _save(file, read_frames(path, indices, self.size, self.info(path)))
            frames = _load(file)
        return frames


def _save(file: Path, frames: np.ndarray) -> None:
    with atomic_write(file) as temporary:
        np.save(temporary, frames, allow_pickle=False)


def _load(file: Path) -> np.ndarray | None:
    """Frames of a cache file; None if it is missing or damaged."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None


def parallel_probe(
    cache: FrameCache, paths: Iterable[Path], workers: int, choose: Choose = lambda path, info: []
) -> dict[Path, VideoInfo | str]:
    """Probe videos in threads: path -> info or error message; ``choose`` as for ``info``."""
    videos = list(dict.fromkeys(paths))
    threads = decoder_threads(min(workers, len(videos)))
    read = partial(cache.info, choose=choose, threads=threads)
    return in_threads(read, videos, workers, "reading videos")


def parallel_fill(
    cache: FrameCache, requests: Sequence[tuple[Path, Sequence[int]]], workers: int
) -> dict[int, str]:
    """Decode missing frames in threads; index of each failed request -> error message."""

    def decode(number: int) -> None:
        cache.get(*requests[number])

    errors = in_threads(decode, range(len(requests)), workers, "decoding frames")
    return {number: reason for number, reason in errors.items() if reason}


def decoder_threads(workers: int) -> str:
    """FFmpeg's thread type for ``workers`` decoders: NONE if they fill all cores, else AUTO."""
    return "NONE" if workers >= (os.cpu_count() or 1) else "AUTO"


def in_threads(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int, label: str
) -> dict[Any, Any]:
    """Run ``work`` on ``workers`` items at a time: item -> result, or the text of a DecodeError.

    FFmpeg decodes outside Python's lock. Other errors, such as a full disk, stop everything.
    """

    def try_item(item: Any) -> Any:
        try:
            return work(item)
        except DecodeError as error:
            return str(error)

    with ThreadPoolExecutor(max(1, min(workers, len(items)))) as pool:
        results = pool.map(try_item, items)  # an error in the loop cancels items not yet begun
        return dict(zip(items, progress(results, len(items), label), strict=True))


def parts_ahead(
    read: Callable[[Any], Iterator[Part]], items: Sequence[Any], workers: int
) -> Iterator[Part]:
    """Yield all parts of all items, read from ``workers`` items at a time, each one part ahead.

    The parts of an item stay in order; those of other items come in between.
    """
    count, todo = max(1, min(workers, len(items))), iter(items)
    with ThreadPoolExecutor(count) as pool:
        pending = deque()
        for _ in range(count):
            parts = chain.from_iterable(map(read, todo))
            pending.append((parts, pool.submit(next, parts, None)))
        while pending:
            parts, future = pending.popleft()
            if (part := future.result()) is not None:
                pending.append((parts, pool.submit(next, parts, None)))
                yield part
