"""Decoding with FFmpeg (PyAV): packets, frames, and frames as upright RGB arrays."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph

from alertclip.errors import InputError

TURNS = {
    (1, 0, 0, 1): [],
    (-1, 0, 0, 1): ["hflip"],
    (1, 0, 0, -1): ["vflip"],
    (-1, 0, 0, -1): ["hflip", "vflip"],
    (0, 1, 1, 0): ["transpose=0"],
    (0, 1, -1, 0): ["transpose=1"],
    (0, -1, 1, 0): ["transpose=2"],
    (0, -1, -1, 0): ["transpose=3"],
}
"""Filters that show a frame as a player does, by the signs of a b c d of its display matrix."""


class DecodeError(InputError):
    """A video that cannot be decoded: the message names the file and the reason."""


@contextmanager
def decoding_errors(path: Path) -> Iterator[None]:
    """Turn what FFmpeg raises into a DecodeError that names the file."""
    try:
        yield
    except (av.FFmpegError, ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DecodeError(f"{path}: cannot be decoded ({reason}); convert or replace it") from None


def existing(path: Path | str) -> Path:
    """The path of a file that may be read and is not empty; DecodeError else."""
    path = Path(path)
    try:
        if not path.is_file():  # a pipe would wait for its writer
            raise DecodeError(f"{path}: no such file")
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise DecodeError(f"{path}: cannot be opened ({error.strerror})") from None
    if size == 0:
        raise DecodeError(f"{path}: the file is empty; fetch it again")
    return path


def decord_reader(path: Path, size: tuple[int, int]) -> Any:
    """A decord reader that squashes frames to ``size`` = (H, W)."""
    import decord

    return decord.VideoReader(str(path), width=size[1], height=size[0], num_threads=1)


class Scaler:
    """Scales frames to upright RGB arrays.

    A stream that changes its format half-way gets new filters there.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size, self._form, self._graph = size, None, None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """A decoded frame as (H, W, 3) uint8, turned upright and squashed to the size."""
        form = (frame.width, frame.height, frame.format.name, display_matrix(frame))
        if form != self._form:
            self._form, self._graph = form, self._filters(frame)
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()

    def _filters(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        form = {"width": frame.width, "height": frame.height, "format": frame.format}
        nodes = [graph.add_buffer(**form, time_base=frame.time_base)]
        scale = f"scale={self.size[1]}:{self.size[0]}:flags=bilinear"
        for step in (*TURNS.get(display_matrix(frame), []), scale, "format=rgb24", "buffersink"):
            name, _, options = step.partition("=")
            nodes.append(graph.add(name, options or None))
        graph.link_nodes(*nodes).configure()
        return graph


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    """Signs of a b c d of the display matrix."""
    data = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(data)) if data else (1, 0, 0, 0, 1)
    return tuple(int(np.sign(x)) for x in (a, b, c, d))


@contextmanager
def opened(path: Path, stream: int, threads: str) -> Iterator[tuple[Any, Any]]:
    """A container and one of its streams, to be decoded in ``threads`` (FFmpeg's word)."""
    with av.open(str(path)) as container:
        video = container.streams[stream]
        video.thread_type = threads
        yield container, video


def all_packets(container: Any, streams: Any) -> Iterator[av.Packet]:
    """All packets up to a torn end; those without data make the decoder give its last frames."""
    with suppress(av.FFmpegError):
        yield from container.demux(streams)


def decoded(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Frames of all packets that can be decoded."""
    for packet in all_packets(container, stream):
        with suppress(av.FFmpegError):
            yield from packet.decode()
    with suppress(av.FFmpegError, EOFError):  # frames that were under way at a torn end
        yield from stream.decode(None)
