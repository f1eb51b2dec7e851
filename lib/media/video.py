"""Decode videos: which frames they hold, and frames by number as upright RGB arrays.

Frames are numbered from 0 in presentation order, by presentation time: one that does not decode
leaves a gap and shifts no other.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph

from media import survey
from media.errors import DecodeError, InputError
from media.files import read_json, sha256_file, sha256_json, write_json
from media.survey import VideoInfo, existing, opened

JUMP = 32  # to a key frame this near (frames), decoding on is faster than seeking
PROOF = (32, 32)  # size of the frames on which decord is checked
THROUGH = 512  # most frames held at once: 80 MB per copy at 224 x 224

Numbered = Iterator[tuple[int, av.VideoFrame]]
_known: dict[tuple[str, int, int], VideoInfo] = {}


class Walk:
    """One pass over a video from its start, with FFmpeg's thread type ``threads``, AUTO or NONE.

    ``info`` is what the packets promise and, after all ``frames``, what the video holds.
    """

    def __init__(self, path: Path, size: tuple[int, int], threads: str = "AUTO") -> None:
        self.path, self.size, self.threads = existing(path), size, threads
        with survey.decoding_errors(path):
            self.info = survey.survey(path)

    def frames(self, wanted: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode all frames; yield the ``wanted`` ones as (number, (H, W, 3) uint8)."""
        decoded, scale = [], Scaler(self.size)
        with survey.decoding_errors(self.path):
            for number, frame in _all(self.path, self.info, self.threads):
                decoded.append(number)
                if number in wanted:
                    yield number, scale(frame)
        frames, info = decoded[-1] + 1, self.info
        lost = tuple(np.setdiff1d(np.arange(frames), decoded).tolist())
        keyframes = () if lost else info.keyframes  # after damage, decoders differ
        counted = {"frames": frames, "times": info.times[: frames + 1], "keyframes": keyframes}
        self.info = replace(info, **counted, lost=lost, promised=max(info.promised, frames))


def count_frames(path: Path) -> VideoInfo:
    """Info of a video, by decoding it once."""
    walk = Walk(path, (1, 1))
    list(walk.frames(()))
    return walk.info


def probe(
    path: Path | str, store: Path | None = None, count: Callable[[Path], VideoInfo] = count_frames
) -> VideoInfo:
    """Info of a video, made by ``count`` once per content and kept in ``store``."""
    path = existing(path)
    status = path.stat()
    key = str(path.absolute()), status.st_size, status.st_mtime_ns
    if key not in _known:
        # Hashing 100 GB takes minutes: an unchanged path, size and time is not hashed again.
        file = store / f"seen-{sha256_json(key)[:32]}.json" if store else None
        _known[key] = _load_or_make(file, partial(_probe_content, path, store, count))
    return _known[key]


def _probe_content(path: Path, store: Path | None, count: Callable[[Path], VideoInfo]) -> VideoInfo:
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise DecodeError(f"{path}: cannot be read ({error.strerror})") from None
    file = store / f"{digest}.json" if store else None
    return _load_or_make(file, lambda: replace(_with_decord(path, count(path)), sha256=digest))


def _load_or_make(file: Path | None, make: Callable[[], VideoInfo]) -> VideoInfo:
    """Load the info in ``file``; otherwise make it and write it there."""
    if not file:
        return make()
    with suppress(InputError, TypeError, AttributeError):  # missing, torn, or of another version
        fields = read_json(file).items()
        return VideoInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields})
    info = make()
    write_json(file, asdict(info))
    return info


def _with_decord(path: Path, info: VideoInfo) -> VideoInfo:
    """The info, marked if decord agrees with PyAV on times and first, middle and last frame."""
    if not info.keyframes or info.frames <= THROUGH:  # decord may hang on a transport stream
        return info
    with suppress(Exception):  # decord may be missing or fail, with no narrower class of errors
        reader = _decord_reader(path, PROOF)
        times = reader.get_frame_timestamp(np.arange(info.frames))[:, 0]
        same_times = np.abs(times - times[0] - info.clock).max() < 0.25 / info.fps
        numbers = [0, info.frames // 2, info.frames - 1]
        frames = reader.get_batch(numbers).asnumpy()
        equal = np.array_equal(frames, read_frames(path, numbers, PROOF, info))
        return replace(info, decord=bool(len(reader) == info.frames and same_times and equal))
    return info


def _decord_reader(path: Path, size: tuple[int, int]) -> Any:
    import decord

    return decord.VideoReader(str(path), width=size[1], height=size[0], num_threads=1)


def read_frames(
    path: Path | str, indices: Sequence[int], size: tuple[int, int], info: VideoInfo | None = None
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 by number, squashed to ``size`` = (H, W) by the decoder.

    Order and repetitions are those of ``indices``; a frame that does not decode is replaced by the
    last before it that does. ``info``: of the file, if known. Raises DecodeError naming the file.
    """
    path, indices = existing(path), [int(i) for i in indices]
    if not indices or min(indices) < 0:
        raise DecodeError(f"{path}: frame indices must be at least 0 and not empty")
    info = info or probe(path)
    if max(indices) >= info.frames:
        raise DecodeError(f"{path}: frame {max(indices)} asked for, only {info.frames} decode")
    order = np.argsort(indices, kind="stable")
    frames = np.empty((len(indices), *size, 3), np.uint8)
    ordered = read_in_order(path, np.take(indices, order), size, info)
    for position, frame in zip(order, ordered, strict=True):
        frames[position] = frame
    return frames


def read_in_order(
    path: Path, indices: Sequence[int], size: tuple[int, int], info: VideoInfo
) -> Iterator[np.ndarray]:
    """Yield frames (H, W, 3) as in ``read_frames`` one by one; ``indices`` must not decrease."""
    shown = info.shown(indices)
    with survey.decoding_errors(path):
        frames = _picked(path, info, sorted(set(shown)), size)
        last, frame = -1, None
        for number in shown:
            if number > last:
                last, frame = next(frames, (math.inf, None))
            if last != number:
                raise ValueError(f"frame {number} is missing: the file has changed")
            yield frame


def _picked(
    path: Path, info: VideoInfo, wanted: Sequence[int], size: tuple[int, int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the ``wanted`` frames (increasing numbers) as (number, (H, W, 3)) of ``size``."""
    if info.decord and len(wanted) <= THROUGH:
        with suppress(Exception):  # decord fails on some widths that are no multiple of 32
            batch = _decord_reader(path, size).get_batch(wanted).asnumpy()
            yield from zip(wanted, batch, strict=True)
            return
    scale = Scaler(size)
    for frames, run in _runs(path, info, wanted):
        targets = set(run)
        for number, frame in frames:
            if number in targets:
                yield number, scale(frame)
            if number >= run[-1]:
                break


def _runs(
    path: Path, info: VideoInfo, wanted: Sequence[int]
) -> Iterator[tuple[Numbered, Sequence[int]]]:
    """Split ``wanted`` where seeking saves decoding: each run after an iterator that reaches it."""
    if not info.keyframes:
        yield _all(path, info, "NONE" if info.lost else "AUTO"), wanted
        return
    keys = np.array(info.keyframes)
    before = keys[np.searchsorted(keys, wanted, "right") - 1]
    jumps = np.flatnonzero(before[1:] > np.add(wanted[:-1], JUMP)) + 1
    with opened(path, info.stream, "NONE") as (container, stream):
        for key, run in zip(before[[0, *jumps]], np.split(wanted, jumps), strict=True):
            container.seek(round((info.start + info.clock[key]) / stream.time_base), stream=stream)
            frames = _numbered(container, stream, info)
            first = next(frames, None)
            exact = first and first[0] <= run[0]
            yield chain([first], frames) if exact else _all(path, info, "NONE"), run


def _all(path: Path, info: VideoInfo, threads: str) -> Numbered:
    """Every frame that decodes, with its number, whatever ``threads``."""
    last = -1  # a bad packet also loses other threads' frames: at a gap, restart with one thread
    for mode in (threads, "NONE"):
        with opened(path, info.stream, mode) as (container, stream):
            for number, frame in _numbered(container, stream, info):
                if mode != "NONE" and number > last + 1:
                    break
                if number > last:
                    last = number
                    yield number, frame
        if last + 1 == info.frames:
            return


def _numbered(container: Any, stream: Any, info: VideoInfo) -> Numbered:
    last = -1
    for frame in survey.decoded(container, stream):
        number = last + 1
        if info.start is not None and frame.pts is not None:
            number = _number(info, float(frame.pts * stream.time_base) - info.start)
        if number > last:
            last = number
            yield number, frame


def _number(info: VideoInfo, seconds: float) -> int:
    if not info.times:
        return round(seconds * info.fps)
    after = bisect_right(info.times, seconds)
    candidates = range(max(0, after - 1), min(after + 1, len(info.times)))
    return min(candidates, key=lambda number: abs(info.times[number] - seconds))


class Scaler:
    """Turns frames into upright RGB arrays; makes new filters when a stream changes its format."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size, self._format, self._graph = size, None, None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """A decoded frame as (H, W, 3) uint8, turned upright and squashed to the size."""
        frame_format = (frame.width, frame.height, frame.format.name, survey.display_matrix(frame))
        if frame_format != self._format:
            self._format, self._graph = frame_format, self._filters(frame)
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()

    def _filters(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        source = {"width": frame.width, "height": frame.height, "format": frame.format}
        nodes = [graph.add_buffer(**source, time_base=frame.time_base)]
        a, b, c, d = survey.display_matrix(frame)
        rotation = [f"transpose={2 * (b < 0) + (c < 0)}"] if a == d == 0 else []
        flips = [name for name, sign in (("hflip", a), ("vflip", d)) if sign < 0]
        scale = f"scale={self.size[1]}:{self.size[0]}:flags=bilinear"
        for step in (*rotation, *flips, scale, "format=rgb24", "buffersink"):
            name, _, options = step.partition("=")
            nodes.append(graph.add(name, options or None))
        graph.link_nodes(*nodes).configure()
        return graph
