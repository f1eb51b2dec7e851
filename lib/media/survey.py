"""A video file opened, and what its packets tell: which frames it shows, when, where to seek."""

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.stream import Disposition

from media.errors import DecodeError

SEEKABLE = {"mov", "matroska"}  # containers with an index of key frames by time
Spacing = Literal["index", "time"]
REORDERED = 64  # frames by which decoding order and presentation order differ at most


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
            if not file.read(1):
                raise DecodeError(f"{path}: the file is empty; fetch it again")
    except OSError as error:
        raise DecodeError(f"{path}: cannot be opened ({error.strerror})") from None
    return path


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds: ``frames`` from its first to the last that decodes.

    ``times``: presentation times (s, from the first frame) and the end, at a variable rate; empty
    where frame i is shown at i / fps.
    """

    frames: int
    fps: float  # mean rate, 1/s
    width: int  # of the upright picture
    height: int
    sha256: str = ""
    stream: int = 0
    start: float | None = None  # the stream's own time of frame 0 (s), if it has usable times
    times: tuple[float, ...] = ()
    keyframes: tuple[int, ...] = ()  # where random access is exact; empty: decode from the start
    lost: tuple[int, ...] = ()  # frames that do not decode, of the promised
    promised: int = 0
    decord: bool = False  # its random access was found exact too

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.times[-1] if self.times else self.frames / self.fps

    @property
    def decoded(self) -> int:
        """How many frames decode."""
        return self.frames - len(self.lost)

    @property
    def report(self) -> str:
        """How many frames decode of those promised; empty if all do."""
        told = f"decoded {self.decoded:,} of {self.promised:,} frames"
        return told if self.decoded < self.promised else ""

    @cached_property
    def clock(self) -> np.ndarray:
        """Presentation times of all frames (frames,) in s."""
        return np.array(self.times[:-1]) if self.times else np.arange(self.frames) / self.fps

    def position(self, seconds: Any) -> Any:
        """Frame numbers of ``seconds``, with fractions between two frames."""
        if not self.times:
            return np.minimum(seconds, 1e12) * self.fps  # 1e308 s would overflow
        return np.interp(seconds, self.times, np.arange(len(self.times)))

    def frame_at(self, seconds: float) -> int:
        """The frame shown nearest to a time."""
        return round(min(max(0.0, self.position(seconds)), self.frames - 1))

    def shown(self, numbers: Sequence[int]) -> list[int]:
        """``numbers`` with each lost frame replaced by the last one before it that decodes."""
        kept = np.setdiff1d(np.arange(self.frames), self.lost)
        return kept[np.maximum(np.searchsorted(kept, numbers, "right") - 1, 0)].tolist()


def uniform_indices(
    info: VideoInfo, start: float, end: float, count: int, by: Spacing = "index"
) -> np.ndarray:
    """Frames at the centres of ``count`` equal bins of [start, end) s: at most (count,).

    The bins are equal in number of frames (``by`` index, the papers' rule) or in time. A span with
    fewer frames than bins gives each of its frames once; the caller pads and masks.
    """
    first = info.frame_at(start)
    last = max(first + 1, round(min(info.position(end), info.frames)))
    if by == "time":
        edges = np.linspace(max(start, 0.0), min(end, info.duration), count + 1)
        seconds = (edges[:-1] + edges[1:]) / 2
        return np.unique(np.clip(info.position(seconds).astype(int), first, last - 1))
    if last - first <= count:
        return np.arange(first, last)
    return (first + (np.arange(count) + 0.5) * (last - first) / count).astype(int)


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


class _Packet(NamedTuple):
    pts: int | None
    is_keyframe: bool
    is_discard: bool


def survey(path: Path) -> VideoInfo:
    """What the packets of a file's best video stream promise; only its first frame is decoded.

    The best has the most packets, then the most pixels; an attached picture is no video.
    """
    with av.open(str(path)) as container:
        picture = Disposition.attached_pic
        videos = [s for s in container.streams.video if not s.disposition & picture]
        if not videos:
            audio = ", audio only" if container.streams.audio else ""
            raise ValueError(f"no video stream{audio}")
        packets: dict[int, list[_Packet]] = defaultdict(list)
        for packet in all_packets(container, videos):
            if packet.size:
                found = _Packet(packet.pts, packet.is_keyframe, packet.is_discard)
                packets[packet.stream.index].append(found)
        best = max(videos, key=lambda s: (len(packets[s.index]), s.width * s.height))
        with opened(path, best.index, "NONE") as again:
            first = next(decoded(*again), None)
        if first is None:
            raise ValueError("no decodable video frame")
        return _promise(container, best, packets[best.index], first)


def _promise(
    container: Any, stream: Any, packets: Sequence[_Packet], first: av.VideoFrame
) -> VideoInfo:
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    if fps <= 0:
        raise ValueError("no frame rate")
    width, height = first.width, first.height
    if not display_matrix(first)[0]:  # turned by a quarter
        width, height = height, width
    shown = [packet for packet in packets if not packet.is_discard]
    # AVI states the order of decoding, which is another one in streams that reorder frames.
    coded = "avi" in container.format.name and stream.codec_context.name in ("h264", "hevc")
    pts = None if coded else _presentation(shown)
    if pts is None or first.pts is None:
        promised = max(len(shown), stream.frames)
        return VideoInfo(len(shown), fps, width, height, stream=stream.index, promised=promised)
    # A stream that was cut open shows nothing until its first key frame. A file with an index does
    # not begin so: there the first key frame is damaged.
    indexed = bool(SEEKABLE & set(container.format.name.split(",")))
    opening = next((packet.pts for packet in shown if packet.is_keyframe), pts[0])
    cut_open = first.pts <= opening and not indexed
    open_frames = int(np.searchsorted(pts, first.pts)) if cut_open else 0
    promised = max(len(shown), stream.frames - (len(packets) - len(shown))) - open_frames
    tick, pts = float(stream.time_base), pts[open_frames:]
    end = float(pts[-1] * tick) + 1 / fps
    if (lacking := _stated_end(container, stream) - end) > 1:
        promised = len(pts) + round(lacking * fps)
    keyframes = _keyframes(packets) if indexed and len(pts) == len(packets) else ()
    known = {"times": _times(pts, tick, fps), "keyframes": keyframes, "promised": promised}
    start = float(pts[0] * tick)
    return VideoInfo(len(pts), fps, width, height, stream=stream.index, start=start, **known)


def _times(pts: np.ndarray, tick: float, fps: float) -> tuple[float, ...]:
    """Times (s) from the first to the end of the last frame; empty if frame i is at i / fps."""
    times = (pts - pts[0]) * tick
    if np.abs(times - np.arange(len(pts)) / fps).max() <= min(2 * tick, 0.25 / fps):
        return ()
    return tuple(np.append(times, 2 * times[-1] - times[-2]).round(6).tolist())


def _presentation(packets: Sequence[_Packet]) -> np.ndarray | None:
    """Presentation times in their order; None if they are missing, repeated or begin anew."""
    if not packets or any(packet.pts is None for packet in packets):
        return None
    pts = np.array([packet.pts for packet in packets])
    order = np.argsort(pts, kind="stable")
    moved = np.abs(order - np.arange(len(pts))).max()
    return pts[order] if moved <= REORDERED and (np.diff(pts[order]) > 0).all() else None


def _keyframes(packets: Sequence[_Packet]) -> tuple[int, ...]:
    """Key frames that part what is shown before from what is after; empty if one does not."""
    given = np.array([packet.pts for packet in packets])
    numbers = np.flatnonzero([packet.is_keyframe for packet in packets])
    before, after = np.maximum.accumulate(given), np.minimum.accumulate(given[::-1])[::-1]
    closed = (after[numbers] == given[numbers]) & (before[numbers] == given[numbers])
    return tuple(numbers.tolist()) if packets[0].is_keyframe and closed.all() else ()


def _stated_end(container: Any, stream: Any) -> float:
    """End (s) of the video as Matroska states it, which has no number of frames; else 0."""
    if "matroska" not in container.format.name:
        return 0.0
    with suppress(KeyError, ValueError):  # the tag is free text
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    alone = container.duration and not container.streams.audio
    return container.duration / av.time_base if alone else 0.0
