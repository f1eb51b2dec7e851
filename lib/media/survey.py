"""Read from a video's packets which frames it shows, when, and where one can seek."""

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
REORDERED = 64  # most frames between a packet's place in decoding and presentation order


@contextmanager
def decoding_errors(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors inside the block into a DecodeError that names the file."""
    try:
        yield
    except (av.FFmpegError, ValueError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DecodeError(f"{path}: cannot be decoded ({reason}); convert or replace it") from None


def existing(path: Path | str) -> Path:
    """The path of a readable file that is not empty; otherwise DecodeError."""
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
    """What a video holds: ``frames`` counts from its first to the last that decodes.

    ``times``: at a variable rate, presentation times (s, from the first frame) and the end; empty
    if frame i is shown at i / fps.
    """

    frames: int
    fps: float  # mean rate, 1/s
    width: int  # of the upright picture
    height: int
    sha256: str = ""
    stream: int = 0
    start: float | None = None  # presentation time of frame 0 in the stream (s), if usable
    times: tuple[float, ...] = ()
    keyframes: tuple[int, ...] = ()  # for exact seeking; empty: decode from the start
    lost: tuple[int, ...] = ()  # numbers of frames that do not decode
    promised: int = 0  # frames by the packets or the header
    decord: bool = False  # decord's random access is exact too

    @property
    def duration(self) -> float:
        """Length in s."""
        return self.times[-1] if self.times else self.frames / self.fps

    @property
    def decoded(self) -> int:
        """Number of frames that decode."""
        return self.frames - len(self.lost)

    @property
    def report(self) -> str:
        """How many of the promised frames decode; empty if all do."""
        text = f"decoded {self.decoded:,} of {self.promised:,} frames"
        return text if self.decoded < self.promised else ""

    @cached_property
    def clock(self) -> np.ndarray:
        """Presentation times of all frames (frames,) in s."""
        return np.array(self.times[:-1]) if self.times else np.arange(self.frames) / self.fps

    def position(self, seconds: Any) -> Any:
        """Fractional frame numbers at ``seconds``."""
        if not self.times:
            return np.minimum(seconds, 1e12) * self.fps  # 1e308 s would overflow
        return np.interp(seconds, self.times, np.arange(len(self.times)))

    def frame_at(self, seconds: float) -> int:
        """Number of the frame shown nearest to ``seconds``."""
        return round(min(max(0.0, self.position(seconds)), self.frames - 1))

    def shown(self, numbers: Sequence[int]) -> list[int]:
        """``numbers``, with a lost frame replaced by the last before it that decodes."""
        decoded = np.setdiff1d(np.arange(self.frames), self.lost)
        return decoded[np.maximum(np.searchsorted(decoded, numbers, "right") - 1, 0)].tolist()


def uniform_indices(
    info: VideoInfo, start: float, end: float, count: int, by: Spacing = "index"
) -> np.ndarray:
    """Frames at the centres of ``count`` equal bins of [start, end) s: at most (count,).

    The bins are equal in frames (``by`` index, the papers' rule) or in time. A span with fewer
    frames than bins gives each of its frames once; the caller pads and masks.
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
    """Signs of a, b, c, d in the display matrix, which rotates and flips the frame."""
    data = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(data)) if data else (1, 0, 0, 0, 1)
    return tuple(int(np.sign(x)) for x in (a, b, c, d))


@contextmanager
def opened(path: Path, stream: int, threads: str) -> Iterator[tuple[Any, Any]]:
    """Open a file: its container and one stream, with FFmpeg's thread type ``threads``."""
    with av.open(str(path)) as container:
        video = container.streams[stream]
        video.thread_type = threads
        yield container, video


def all_packets(container: Any, streams: Any) -> Iterator[av.Packet]:
    """All packets up to a torn end; empty ones make the decoder return its last frames."""
    with suppress(av.FFmpegError):
        yield from container.demux(streams)


def decoded(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Frames of all packets that can be decoded."""
    for packet in all_packets(container, stream):
        with suppress(av.FFmpegError):
            yield from packet.decode()
    with suppress(av.FFmpegError, EOFError):  # the decoder's last frames after a torn end
        yield from stream.decode(None)


class _Packet(NamedTuple):
    pts: int | None
    is_keyframe: bool
    is_discard: bool


def survey(path: Path) -> VideoInfo:
    """What the packets of a file's best video stream promise; decodes only its first frame.

    The best stream has the most packets, then the most pixels; attached pictures do not count.
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
                fields = _Packet(packet.pts, packet.is_keyframe, packet.is_discard)
                packets[packet.stream.index].append(fields)
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
    if not display_matrix(first)[0]:  # rotated by a quarter turn
        width, height = height, width
    shown = [packet for packet in packets if not packet.is_discard]
    # AVI has no presentation times, and these codecs may reorder frames.
    untimed = "avi" in container.format.name and stream.codec_context.name in ("h264", "hevc")
    pts = None if untimed else _presentation(shown)
    if pts is None or first.pts is None:
        promised = max(len(shown), stream.frames)
        return VideoInfo(len(shown), fps, width, height, stream=stream.index, promised=promised)
    # A stream cut from a longer one shows nothing before its first key frame. A file with an index
    # is not cut like this: if its first frames do not decode, its first key frame is damaged.
    indexed = bool(SEEKABLE & set(container.format.name.split(",")))
    opening = next((packet.pts for packet in shown if packet.is_keyframe), pts[0])
    cut_open = first.pts <= opening and not indexed
    open_frames = int(np.searchsorted(pts, first.pts)) if cut_open else 0
    promised = max(len(shown), stream.frames - (len(packets) - len(shown))) - open_frames
    tick, pts = float(stream.time_base), pts[open_frames:]
    end = float(pts[-1] * tick) + 1 / fps
    if (missing := _stated_end(container, stream) - end) > 1:  # s
        promised = len(pts) + round(missing * fps)
    keyframes = _keyframes(packets) if indexed and len(pts) == len(packets) else ()
    fields = {"times": _times(pts, tick, fps), "keyframes": keyframes, "promised": promised}
    start = float(pts[0] * tick)
    return VideoInfo(len(pts), fps, width, height, stream=stream.index, start=start, **fields)


def _times(pts: np.ndarray, tick: float, fps: float) -> tuple[float, ...]:
    """Frame times (s) from the first, and the end of the last; empty if frame i is at i / fps."""
    times = (pts - pts[0]) * tick
    if np.abs(times - np.arange(len(pts)) / fps).max() <= min(2 * tick, 0.25 / fps):
        return ()
    return tuple(np.append(times, 2 * times[-1] - times[-2]).round(6).tolist())


def _presentation(packets: Sequence[_Packet]) -> np.ndarray | None:
    """Sorted presentation times; None if they are missing, repeated or restart."""
    if not packets or any(packet.pts is None for packet in packets):
        return None
    pts = np.array([packet.pts for packet in packets])
    order = np.argsort(pts, kind="stable")
    moved = np.abs(order - np.arange(len(pts))).max()
    return pts[order] if moved <= REORDERED and (np.diff(pts[order]) > 0).all() else None


def _keyframes(packets: Sequence[_Packet]) -> tuple[int, ...]:
    """Numbers of the key frames; empty unless each separates the frames before and after it."""
    pts = np.array([packet.pts for packet in packets])
    numbers = np.flatnonzero([packet.is_keyframe for packet in packets])
    before, after = np.maximum.accumulate(pts), np.minimum.accumulate(pts[::-1])[::-1]
    closed = (after[numbers] == pts[numbers]) & (before[numbers] == pts[numbers])
    return tuple(numbers.tolist()) if packets[0].is_keyframe and closed.all() else ()


def _stated_end(container: Any, stream: Any) -> float:
    """End (s) of the video that Matroska states instead of a frame count; else 0."""
    if "matroska" not in container.format.name:
        return 0.0
    with suppress(KeyError, ValueError):  # the tag is free text
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    video_only = container.duration and not container.streams.audio
    return container.duration / av.time_base if video_only else 0.0
