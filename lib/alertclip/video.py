"""Videos: what they truly hold, frames by number, and which frames to take.

Frames are numbered from 0 in the order in which they are shown. A frame gets its number from its
presentation time, so one that does not decode leaves a gap and moves no other.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from alertclip.decoding import (
    DecodeError,
    Scaler,
    decoded,
    decoding_errors,
    decord_reader,
    existing,
    opened,
)
from alertclip.errors import InputError
from alertclip.files import read_json, sha256_file, sha256_json, write_json
from alertclip.survey import VideoInfo, survey

JUMP = 32  # a key frame within this many frames is reached sooner by decoding on
PROOF = (32, 32)  # size of the frames by which decord is compared
THROUGH = 512  # frames kept at most at once: 80 MB at 224 x 224, each copy


Choice = Callable[[VideoInfo], Sequence[Sequence[int]]]
"""Lists of frames to take from a video, once it is known what it holds."""

_known: dict[tuple[str, int, int], VideoInfo] = {}


def probe(
    path: Path | str,
    store: Path | None = None,
    count: Callable[[Path], VideoInfo] | None = None,
) -> VideoInfo:
    """What a video holds, found by decoding it once; remembered in ``store`` by its content.

    ``count`` decodes, and may keep frames on the way. Raises DecodeError naming the file.
    """
    path = existing(path)
    status = path.stat()
    key = str(path.absolute()), status.st_size, status.st_mtime_ns
    if key not in _known:
        # Hashing a hundred gigabytes takes minutes: the file's size and time stand for its content.
        seen = store / f"seen-{sha256_json(key)[:32]}.json" if store else None
        _known[key] = _kept(seen, partial(_probe_content, path, store, count or _count))
    return _known[key]


def _count(path: Path) -> VideoInfo:
    return count_and_read(path, lambda info: [], (1, 1))[0]


def _probe_content(path: Path, store: Path | None, count: Callable[[Path], VideoInfo]) -> VideoInfo:
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise DecodeError(f"{path}: cannot be read ({error.strerror})") from None
    file = store / f"{digest}.json" if store else None
    return _kept(file, lambda: replace(_with_decord(path, count(path)), sha256=digest))


def _with_decord(path: Path, info: VideoInfo) -> VideoInfo:
    """The info, marked where decord gives the times and the first, middle and last frame of PyAV.

    It is asked only where random access can be exact: on a transport stream it may never return.
    """
    numbers, same = sorted({0, info.frames // 2, info.frames - 1}), False
    with suppress(Exception):  # decord may be missing or fail, with no narrower class of errors
        long = info.keyframes and info.frames > THROUGH  # a short one is decoded in no time
        reader = decord_reader(path, PROOF) if long else ()
        if len(reader) == info.frames:
            times = reader.get_frame_timestamp(np.arange(info.frames))[:, 0]
            found = reader.get_batch(numbers).asnumpy()
            near = np.abs(times - times[0] - info.clock).max() < 0.25 / info.fps
            same = near and np.array_equal(found, read_frames(path, numbers, PROOF, info))
    return replace(info, decord=bool(same))


def _kept(file: Path | None, make: Callable[[], VideoInfo]) -> VideoInfo:
    """The info in ``file``, else a new one, which is written there."""
    # Missing, torn, or written by another version.
    with suppress(InputError, TypeError, AttributeError):
        if file:
            known = read_json(file).items()
            return VideoInfo(**{k: tuple(v) if isinstance(v, list) else v for k, v in known})
    info = make()
    if file:
        write_json(file, asdict(info))
    return info


def count_and_read(
    path: Path, choose: Choice, size: tuple[int, int], threads: str = "AUTO"
) -> tuple[VideoInfo, list[tuple[Sequence[int], np.ndarray]]]:
    """What a video holds, and the frames (T, H, W, 3) of each chosen list, in one pass.

    The lists are chosen by what the packets promise. Where that proves wrong, or they hold more
    than THROUGH frames, none is returned: choose and read them again.
    """
    lists: list[Sequence[int]] = []

    def wanted(promised: VideoInfo) -> set[int]:
        lists.extend(choose(promised))
        numbers = {int(i) for indices in lists for i in indices}
        return numbers if len(numbers) <= THROUGH else set()

    walk = Walk(path, wanted, size, threads)
    taken = dict(walk)
    if walk.info != walk.promised or not taken:
        return walk.info, []
    return walk.info, [(indices, np.stack([taken[int(i)] for i in indices])) for indices in lists]


class Walk:
    """A video decoded once from its start: its ``wanted`` frames as (number, (H, W, 3) uint8).

    ``wanted`` chooses by what the packets promise. ``info`` is what the video holds, once it has
    been decoded to its end. ``threads`` are FFmpeg's: AUTO, or NONE where other threads decode on
    every core. Raises DecodeError naming the file.
    """

    def __init__(
        self, path: Path, wanted: Callable, size: tuple[int, int], threads: str = "AUTO"
    ) -> None:
        self.path, self.size, self.threads = existing(path), size, threads
        with decoding_errors(path):
            self.info = self.promised = survey(path)
        self.wanted = set(wanted(self.promised))

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        seen, scale = [], Scaler(self.size)
        with decoding_errors(self.path):
            for number, frame in _all(self.path, self.promised, self.threads):
                seen.append(number)
                if number in self.wanted:
                    yield number, scale(frame)
        self.info = _verified(self.promised, seen)


def _verified(promised: VideoInfo, numbers: Sequence[int]) -> VideoInfo:
    """The info of a video of which the frames ``numbers`` decode, in increasing order."""
    frames = numbers[-1] + 1
    lost = tuple(np.setdiff1d(np.arange(frames), numbers).tolist())
    return replace(
        promised,
        frames=frames,
        times=promised.times[: frames + 1],
        keyframes=() if lost else promised.keyframes,  # behind damage decoders differ
        lost=lost,
        promised=max(promised.promised, frames),
    )


def read_frames(
    path: Path | str, indices: Sequence[int], size: tuple[int, int], info: VideoInfo | None = None
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 by number, squashed to ``size`` = (H, W) by the decoder.

    Order and repetitions are those of ``indices``; a frame that does not decode is the last one
    before it that does. ``info``: what the file holds, if known. Raises DecodeError naming it.
    """
    path, indices = existing(path), [int(i) for i in indices]
    if not indices or min(indices) < 0:
        raise DecodeError(f"{path}: frame indices must be at least 0 and not empty")
    info = info or probe(path)
    if max(indices) >= info.frames:
        raise DecodeError(f"{path}: frame {max(indices)} asked for, {info.frames} decode")
    order = np.argsort(indices, kind="stable")
    frames = np.empty((len(indices), *size, 3), np.uint8)
    found = read_in_order(path, np.take(indices, order), size, info)
    for place, frame in zip(order, found, strict=True):
        frames[place] = frame
    return frames


def read_in_order(
    path: Path, indices: Sequence[int], size: tuple[int, int], info: VideoInfo
) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) as in ``read_frames`` one by one; ``indices`` never decrease."""
    shown = info.shown(indices)
    with decoding_errors(path):
        found = _picked(path, info, sorted(set(shown)), size)
        last, frame = -1, None
        for number in shown:
            if number > last:
                last, frame = next(found, (math.inf, None))
            if last != number:
                raise ValueError(f"frame {number} is not there: the file was changed meanwhile")
            yield frame


def _all(path: Path, info: VideoInfo, threads: str) -> Iterator[tuple[int, av.VideoFrame]]:
    """Every numbered frame that decodes, the same for any ``threads``.

    A bad packet takes along frames that other threads have under way: at a gap, decode alone.
    """
    last = -1
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


def _numbered(container: Any, stream: Any, info: VideoInfo) -> Iterator[tuple[int, av.VideoFrame]]:
    last = -1
    for frame in decoded(container, stream):
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
    near = range(max(0, after - 1), min(after + 1, len(info.times)))
    return min(near, key=lambda number: abs(info.times[number] - seconds))


def _picked(
    path: Path, info: VideoInfo, wanted: Sequence[int], size: tuple[int, int]
) -> Iterator[tuple[int, np.ndarray]]:
    """The ``wanted`` frames (increasing numbers), as (number, (H, W, 3)), squashed to ``size``."""
    if info.decord and len(wanted) <= THROUGH:
        with suppress(Exception):  # such as some widths that are no multiple of 32
            found = decord_reader(path, size).get_batch(wanted).asnumpy()
            yield from zip(wanted, found, strict=True)
            return
    scale = Scaler(size)
    if not info.keyframes:
        left = set(wanted)
        for number, frame in _all(path, info, "NONE" if info.lost else "AUTO"):
            if number in left:
                yield number, scale(frame)
            if number >= wanted[-1]:
                return
        return
    with opened(path, info.stream, "NONE") as (container, stream):
        for run in _runs(wanted, info.keyframes):
            left = set(run)
            for number, frame in _from(path, container, stream, info, run[0]):
                if number in left:
                    yield number, scale(frame)
                if number >= run[-1]:
                    break


def _from(
    path: Path, container: Any, stream: Any, info: VideoInfo, first: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Numbered frames from the last key frame up to ``first``.

    Where the container's index misleads: from the start, in a container opened anew.
    """
    key = info.keyframes[bisect_right(info.keyframes, first) - 1]
    container.seek(round((info.start + info.clock[key]) / stream.time_base), stream=stream)
    frames = _numbered(container, stream, info)
    begin = next(frames, None)
    if begin and begin[0] <= first:
        yield begin
        yield from frames
    else:
        yield from _all(path, info, "NONE")


def _runs(wanted: Sequence[int], keyframes: Sequence[int]) -> Iterator[list[int]]:
    """Parts of ``wanted`` between which a jump to a key frame saves decoding."""
    run: list[int] = []
    for number in wanted:
        place = bisect_right(keyframes, number)
        if run and place and keyframes[place - 1] > run[-1] + JUMP:
            yield run
            run = []
        run.append(number)
    if run:
        yield run
