"""Decoders, run in a process of their own: ``python -m alertclip.decoding``.

decord can hang for ever inside native code where no signal and no thread reaches it, so it runs
where it can be killed. Requests are JSON lines on standard input; answers are a JSON line and, for
frames, raw bytes on standard output. Nothing is pickled.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np

SIDES = ("width", "height")
TURNS = {-90: ["transpose=1"], 90: ["transpose=2"], 180: ["hflip", "vflip"]}
"""Filters that turn a frame upright, by the rotation that PyAV reports, in degrees."""


class Scaler:
    """Frames as RGB arrays of one size, by decord's own filters: both give the same bits.

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
        scale = f"scale={self.size[1]}:{self.size[0]}:flags=bilinear"
        for step in (*_turn(frame), scale, "format=rgb24", "buffersink"):
            name, _, options = step.partition("=")
            nodes.append(graph.add(name, options or None))
        graph.link_nodes(*nodes).configure()
        return graph


def _turn(frame: Any) -> list[str]:
    angle = 180 if abs(frame.rotation) == 180 else frame.rotation
    return TURNS.get(angle, [])


@contextmanager
def _video(path: str) -> Iterator[tuple[Any, Any]]:
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        yield container, container.streams.video[0]


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def declare(path: str) -> dict[str, Any]:
    """What the container says, true or not, without decoding; 0 frames = it does not say."""
    with _video(path) as (_, stream):
        size = {"width": stream.width, "height": stream.height}
        return {"frames": stream.frames, "fps": _rate(stream), **size}


Walk = Generator[np.ndarray, None, dict[str, Any]]


def walk(
    path: str, wanted: Callable[[int], bool], size: tuple[int, int], threads: str = "AUTO"
) -> Walk:
    """Decode a video once: yields its ``wanted`` frames (H, W, 3), returns what it holds.

    That is the number of frames that really decode (containers over-report), rate and size.
    ``threads``: FFmpeg's own; AUTO, or NONE where other processes decode on every core.
    """
    frames, scale, shape = 0, Scaler(size), {}
    with _video(path) as (container, stream):
        stream.thread_type, fps = threads, _rate(stream)
        for frame in _until_torn(container.decode(stream)):
            if not frames:
                sides = ("height", "width") if abs(frame.rotation) == 90 else SIDES
                shape = dict(zip(sides, (frame.width, frame.height), strict=True))
            if wanted(frames):
                yield scale(frame)
            frames += 1
    if not frames or fps <= 0:
        raise ValueError("no decodable video frame")
    return {"frames": frames, "fps": fps, **shape}


def _until_torn(frames: Iterator[Any]) -> Iterator[Any]:
    """Decoded frames up to a torn end: what came before it is usable."""
    import av

    with suppress(av.FFmpegError):
        yield from frames


def take(frames: Walk, count: float = math.inf) -> tuple[list[np.ndarray], dict[str, Any] | None]:
    """The next ``count`` frames of a walk and, once it has ended, what the video holds."""
    taken: list[np.ndarray] = []
    while len(taken) < count:
        try:
            taken.append(next(frames))
        except StopIteration as end:
            return taken, end.value
    return taken, None


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


def decode(
    path: str, indices: Sequence[int], size: tuple[int, int], backend: str = "decord"
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8; PyAV serves where decord is missing or fails."""
    if backend == "decord":
        try:
            return decode_decord(path, indices, size)
        except Exception:  # DECORDError is no subclass of anything but Exception
            pass
    return decode_pyav(path, indices, size)


Request = dict[str, Any]
Answer = Callable[[Request], tuple[dict[str, Any], bytes]]
"""A request -> the head of its answer, and the bytes that follow it."""


class Decoder:
    """Answers to all requests about videos. One video at a time may be read in pieces."""

    def __init__(self) -> None:
        self._walk: Walk | None = None

    def __call__(self, request: Request) -> tuple[dict[str, Any], bytes]:
        """declare: what the container says; read: frames by index; through: count, with frames by
        index on the way; stream: every ``stride``-th frame, the first ``count``; more: the next.
        """
        what, path, size = request["what"], request["path"], tuple(request.get("size", ()))
        if what == "declare":
            return declare(path), b""
        if what == "read":
            frames = decode(path, request["indices"], size, request["backend"])
            return _packed(frames)
        if what == "through":
            wanted = set(request["indices"])
            return _packed(*take(walk(path, wanted.__contains__, size, request["threads"])), size)
        if what == "stream":
            stride = request["stride"]
            self._walk = walk(path, lambda number: number % stride == 0, size, request["threads"])
        return _packed(*take(self._walk, request["count"]), size)


def _packed(
    frames: Sequence[np.ndarray], facts: dict[str, Any] | None = None, size: Sequence[int] = ()
) -> tuple[dict[str, Any], bytes]:
    block = np.ascontiguousarray(frames, np.uint8) if len(frames) else np.empty((0, *size, 3))
    return {"shape": block.shape, "facts": facts}, block.tobytes()


def serve(requests: BinaryIO, answers: BinaryIO, answer: Answer) -> None:
    """Answer requests until the input ends; a failed one answers with its reason."""
    for line in requests:
        request = json.loads(line)
        _limit(request["limit"])
        try:
            head, body = answer(request)
        except Exception as error:  # every decoder has its own errors: all go to the caller
            head, body = {"error": f"{type(error).__name__}: {error}"}, b""
        answers.write(json.dumps(head).encode() + b"\n" + body)
        answers.flush()
        _limit(None)


def _limit(seconds: float | None) -> None:
    # The caller kills a late worker. Should the caller be gone by then, the kernel ends it: an
    # unhandled alarm needs no Python to run. Windows has no alarm and does without.
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else seconds + 1)


def main(answer: Answer) -> None:
    """Serve standard input. Decoders print to descriptor 1: the answers keep a copy of it."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, channel, answer)


if __name__ == "__main__":
    main(Decoder())
