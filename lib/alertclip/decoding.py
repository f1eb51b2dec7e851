"""Decoders, and the loop of the process in which they run (see ``video.DecodeWorker``)."""

import math
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import isgenerator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

TURNS = {-90: ["transpose=1"], 90: ["transpose=2"], 180: ["hflip", "vflip"]}
"""Filters that turn a frame upright, by the rotation that PyAV reports, in degrees."""

Facts = dict[str, Any]
"""What a video holds: frames, fps, width, height."""


class Scaler:
    """Scales frames to RGB arrays with the filters that decord uses: both give the same bits.

    A stream that changes its format half-way gets new filters there.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size, self._form, self._graph = size, None, None

    def __call__(self, frame: Any) -> np.ndarray:
        """A decoded frame as (H, W, 3) uint8, turned upright and squashed to the size."""
        form = (frame.width, frame.height, frame.format.name, frame.rotation)
        if form != self._form:
            self._form, self._graph = form, self._filters(frame)
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()

    def _filters(self, frame: Any) -> Any:
        from av.filter import Graph

        graph = Graph()
        form = {"width": frame.width, "height": frame.height, "format": frame.format}
        nodes = [graph.add_buffer(**form, time_base=frame.time_base)]
        turn = TURNS.get(180 if abs(frame.rotation) == 180 else frame.rotation, [])
        scale = f"scale={self.size[1]}:{self.size[0]}:flags=bilinear"
        for step in (*turn, scale, "format=rgb24", "buffersink"):
            name, _, options = step.partition("=")
            nodes.append(graph.add(name, options or None))
        graph.link_nodes(*nodes).configure()
        return graph


@contextmanager
def _video(path: str) -> Iterator[tuple[Any, Any]]:
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        yield container, container.streams.video[0]


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def declared(path: str) -> Facts:
    """What the container says, true or not, without decoding; 0 frames: it does not say."""
    with _video(path) as (_, stream):
        size = {"width": stream.width, "height": stream.height}
        return {"frames": stream.frames, "fps": _rate(stream), **size}


Walk = Generator[np.ndarray, None, Facts]


def walk(
    path: str, wanted: Callable[[int], bool], size: tuple[int, int], threads: str = "AUTO"
) -> Walk:
    """Decode a video once with PyAV: yields its ``wanted`` frames, returns what it holds.

    The facts count the frames that decode (containers over-report). ``threads`` are FFmpeg's: AUTO,
    or NONE where other processes decode on every core.
    """
    count, scale, shape = 0, Scaler(size), (0, 0)
    with _video(path) as (container, stream):
        stream.thread_type, fps = threads, _rate(stream)
        for frame in _until_torn(container.decode(stream)):
            if not count:
                turned = abs(frame.rotation) == 90
                shape = (frame.width, frame.height)[:: -1 if turned else 1]
            if wanted(count):
                yield scale(frame)
            count += 1
    if not count or fps <= 0:
        raise ValueError("no decodable video frame")
    return {"frames": count, "fps": fps, "width": shape[0], "height": shape[1]}


def _until_torn(frames: Iterator[Any]) -> Iterator[Any]:
    import av

    with suppress(av.FFmpegError):  # what came before a torn end is usable
        yield from frames


def _take(
    frames: Walk, size: tuple[int, int], count: float = math.inf
) -> tuple[np.ndarray, Facts | None]:
    """The next ``count`` frames of a walk (F, H, W, 3) and, once it has ended, its facts."""
    taken, facts = [], None
    while facts is None and len(taken) < count:
        try:
            taken.append(next(frames))
        except StopIteration as end:
            facts = end.value
    return np.stack(taken) if taken else np.empty((0, *size, 3), np.uint8), facts


def read_through(
    path: str, indices: Sequence[int], size: tuple[int, int], threads: str
) -> tuple[np.ndarray, Facts]:
    """Frames by increasing index (T, H, W, 3), and what the whole video holds, in one pass."""
    return _take(walk(path, set(indices).__contains__, size, threads), size)


def pieces(
    path: str, size: tuple[int, int], stride: int, count: int, threads: str
) -> Iterator[tuple[np.ndarray, Facts | None]]:
    """Frames 0, ``stride``, 2 ``stride``, ... in pieces of ``count``.

    The facts come with the last piece, which may hold no frame.
    """
    frames, facts = walk(path, lambda number: number % stride == 0, size, threads), None
    while facts is None:
        piece, facts = _take(frames, size, count)
        yield piece, facts


def decode_decord(path: str, indices: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Frames by native index with decord, resized inside the decoder: (T, H, W, 3) uint8."""
    import decord

    reader = decord.VideoReader(path, width=size[1], height=size[0], num_threads=1)
    if max(indices) >= len(reader):
        raise IndexError(f"frame {max(indices)} of {len(reader)}")
    return reader.get_batch(list(indices)).asnumpy()


def decode_pyav(path: str, indices: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The same with PyAV, decoding from the start up to the last index."""
    wanted = sorted(set(indices))
    found = dict(zip(wanted, walk(path, set(wanted).__contains__, size), strict=False))
    if len(found) < len(wanted):
        raise IndexError(f"frame {min(set(wanted) - found.keys())} does not decode")
    return np.stack([found[i] for i in indices])


def decode(path: str, indices: Sequence[int], size: tuple[int, int], backend: str) -> np.ndarray:
    """Frames (T, H, W, 3) uint8; PyAV serves where decord is missing or fails."""
    if backend == "decord":
        with suppress(Exception):  # DECORDError has no narrower base class
            return decode_decord(path, indices, size)
    return decode_pyav(path, indices, size)


def serve(descriptor: int) -> None:
    """Answer the caller's (time limit, function, arguments) until it is gone.

    An answer is (reason of a failure or None, result). A generator is read with function None, one
    item per request, until an item is None.
    """
    connection, stream = Connection(descriptor), iter(())
    with suppress(EOFError, OSError):  # the caller is gone
        while True:
            limit, function, arguments = connection.recv()
            _alarm(limit + 1)
            try:
                result = next(stream, None) if function is None else function(*arguments)
                if isgenerator(result):
                    stream, result = result, None
                answer = None, result
            except Exception as error:  # every decoder has its own errors: all go to the caller
                answer = f"{type(error).__name__}: {error}", None
            connection.send(answer)
            _alarm(0)


def _alarm(seconds: float) -> None:
    # The caller kills a late worker. Should the caller be gone by then, the kernel ends it: an
    # unhandled alarm needs no Python to run.
    signal.setitimer(signal.ITIMER_REAL, seconds)
