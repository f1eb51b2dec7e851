"""Frames of many videos, decoded ahead of the model that scores them."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from alertclip.errors import InputError
from alertclip.files import print_progress
from alertclip.streaming import FrameStream, Piece
from alertclip.video import DecodeWorker

LINE_EVERY_S = 5.0  # a progress line at most this often


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video: ``rate`` per second or, if given, every ``stride``-th; their size
    (H, W); how many make a piece."""

    rate: float
    stride: int | None
    size: tuple[int, int]
    count: int


@dataclass(frozen=True)
class Part:
    """A piece of one video, and how many it is about to have; or the error that ended it."""

    video: Path
    stride: int = 0
    expected: int = 0
    piece: Piece | None = None
    error: Exception | None = None

    @property
    def last(self) -> bool:
        """Does the video end here?"""
        return self.piece is None or self.piece.facts is not None


def read_ahead(videos: Sequence[Path], sampling: Sampling, decoders: int = 1) -> Iterator[Part]:
    """All pieces of all videos; ``decoders`` videos at a time, each a piece ahead of the caller.

    Pieces of a video come in order, those of others in between. What is held is bounded: a piece
    per decoding process, and what the caller has.
    """
    todo, active = iter(videos), deque()
    with ExitStack() as stack:
        count, left = max(1, min(decoders, len(videos))), Event()
        pool = stack.enter_context(ThreadPoolExecutor(count))
        workers = [DecodeWorker(threads="NONE" if count > 1 else "AUTO") for _ in range(count)]
        for worker in workers:
            stack.callback(worker.close)  # before the pool ends, which would wait for them
        stack.callback(left.set)

        def begin(worker: DecodeWorker) -> None:
            if (video := next(todo, None)) is not None:
                parts = _parts(video, sampling, worker, left)
                active.append((worker, parts, pool.submit(next, parts)))

        for worker in workers:
            begin(worker)
        while active:
            worker, parts, future = active.popleft()
            part: Part = future.result()
            if part.last:
                begin(worker)
            else:
                active.append((worker, parts, pool.submit(next, parts)))
            yield part


def _parts(video: Path, sampling: Sampling, worker: DecodeWorker, left: Event) -> Iterator[Part]:
    try:
        if not video.is_file():
            raise InputError(f"{video}: no such file")
        stream = FrameStream(video, sampling.size, worker)
        stride = sampling.stride or max(1, round(stream.promised["fps"] / sampling.rate))
        expected = -(-stream.promised["frames"] // (stride * sampling.count))
        pieces = stream.pieces(stride, sampling.count)
        while not left.is_set():  # a closed worker would begin anew
            yield Part(video, stride, expected, next(pieces))
    except Exception as error:  # whatever is wrong with one file must not stop the others
        yield Part(video, error=error)


def announced(parts: Iterator[Part]) -> Iterator[Part]:
    """The same parts; now and then a line that says how far a long video is."""
    begun: dict[Path, float] = {}
    done, last = Counter(), time.monotonic()
    for part in parts:
        begun.setdefault(part.video, time.monotonic())
        yield part
        done[part.video] += 1
        now, count = time.monotonic(), done[part.video]
        if now - last >= LINE_EVERY_S and count < part.expected and not part.last:
            last = now
            print_progress(part.video.name, count, part.expected, now - begun[part.video])
