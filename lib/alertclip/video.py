"""Videos: how many frames they truly hold, frames by index, and which indices to take."""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from alertclip import decoding
from alertclip.decoding import Facts
from alertclip.errors import InputError
from alertclip.files import read_json, sha256_file, sha256_json, write_json

THROUGH = 512  # frames kept at most while a video is counted: 80 MB at 224 x 224, each copy
TIME_LIMIT = 60.0  # seconds for one request, and
SECONDS_PER_MB = 5.0  # for each MB of the file; an hour of 320x240 video decodes in about 30 s


class DecodeError(InputError):
    """A video that cannot be decoded: the message names the file and the reason."""


class NoAnswer(DecodeError):
    """The decoder hung or died: another one may still read the file."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds: ``frames`` is the number that decodes, not what the container says."""

    frames: int
    fps: float
    width: int
    height: int
    sha256: str

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.fps


class DecodeWorker:
    """A process for decoders, killed and replaced when one hangs.

    decord can hang inside native code that holds the interpreter's lock, out of reach of signal
    handlers and threads; a ``ProcessPoolExecutor`` cannot kill one of its processes.
    """

    def __init__(self, threads: str = "AUTO", time_limit: float = TIME_LIMIT) -> None:
        """``threads`` of FFmpeg: AUTO, or NONE where other workers decode on every core.

        ``time_limit`` in s is for an empty file; it grows with the size.
        """
        self.threads, self.time_limit = threads, time_limit
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._lock, self._closed = threading.Lock(), False

    def run(self, path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(path, *arguments)``, run in the process.

        Raises DecodeError naming the file if it fails, NoAnswer if it dies or takes too long.
        """
        return self._ask(path, function, (str(path.absolute()), *arguments))

    def stream(self, path: Path, function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        """Items of a generator function, made one by one on demand; one stream at a time."""
        self.run(path, function, *arguments)
        while (item := self._ask(path, None, ())) is not None:
            yield item

    def limit(self, path: Path) -> float:
        """Seconds that a request about ``path`` may take."""
        return self.time_limit + SECONDS_PER_MB * existing(path).stat().st_size / 1e6

    def close(self) -> None:
        """End the process for good; a thread that waits for it gets NoAnswer."""
        self._closed = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _ask(self, path: Path, function: Callable[..., Any] | None, arguments: tuple) -> Any:
        limit = self.limit(path)
        with self._lock:
            try:
                connection = self._connected()
                if self._closed:
                    raise EOFError
                connection.send((limit, function, arguments))
                if not connection.poll(limit):
                    raise TimeoutError
                reason, result = connection.recv()
            except (OSError, EOFError) as error:
                self._kill()
                why = f"no answer in {limit:.0f} s" if type(error) is TimeoutError else "it crashed"
                raise NoAnswer(
                    f"{path}: the decoder failed ({why}); convert the file or leave it out"
                ) from None
            except BaseException:  # an interrupted exchange would leave its answer for the next
                self._kill()
                raise
        if reason:
            raise DecodeError(f"{path}: cannot be decoded ({reason}); convert or replace it")
        return result

    def _connected(self) -> Connection:
        if self._process is None or self._process.poll() is not None:
            self._connection, theirs = Pipe()
            code = f"from alertclip.decoding import serve; serve({theirs.fileno()})"
            # The process finds what this one does, installed or not.
            path = os.pathsep.join(filter(None, sys.path))
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )
            theirs.close()
        return self._connection


@cache
def _worker_of(process: int) -> DecodeWorker:
    worker = DecodeWorker()
    atexit.register(worker.close)
    return worker


def own_worker() -> DecodeWorker:
    """The worker of this process; a forked data loader gets one of its own."""
    return _worker_of(os.getpid())


_known: dict[tuple[str, int, int], VideoInfo] = {}


def probe(
    path: Path | str,
    store: Path | None = None,
    worker: DecodeWorker | None = None,
    counted: Callable[[Path, DecodeWorker], Facts] | None = None,
) -> VideoInfo:
    """Count the frames of a video that decode; remembered in ``store`` by its content.

    ``counted`` counts, by decoding, and may keep frames on the way.
    """
    path = existing(path)
    key = _file_key(path)
    if key not in _known:
        # Hashing a hundred gigabytes takes minutes: the file's size and time stand for its content.
        seen = store / f"seen-{sha256_json(key)[:32]}.json" if store else None
        facts = partial(counted or _count, path, worker or own_worker())
        _known[key] = _kept(seen, partial(_probe_content, path, store, facts))
    return _known[key]


def _probe_content(path: Path, store: Path | None, facts: Callable[[], Facts]) -> VideoInfo:
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise DecodeError(f"{path}: cannot be read ({error.strerror})") from None
    file = store / f"{digest}.json" if store else None
    return _kept(file, lambda: VideoInfo(**facts(), sha256=digest))


def _kept(file: Path | None, make: Callable[[], VideoInfo]) -> VideoInfo:
    """The info in ``file``, else a new one, which is written there."""
    with suppress(InputError, TypeError):  # missing, torn, or written by another version
        if file:
            return VideoInfo(**read_json(file))
    info = make()
    if file:
        write_json(file, asdict(info))
    return info


def _count(path: Path, worker: DecodeWorker) -> Facts:
    return worker.run(path, decoding.read_through, [], (1, 1), worker.threads)[1]


Choice = Callable[[VideoInfo], Sequence[Sequence[int]]]
"""Lists of frames to take from a video, once it is known what it holds."""


def count_and_read(
    path: Path, worker: DecodeWorker, choose: Choice, size: tuple[int, int]
) -> tuple[Facts, list[tuple[Sequence[int], np.ndarray]]]:
    """What a video holds, and the frames (T, H, W, 3) of each chosen list, in one pass.

    The lists are chosen by what the container promises. Where that proves wrong, or they hold more
    than THROUGH frames, none is returned: choose and read them again.
    """
    promised = worker.run(path, decoding.declared)
    lists = choose(VideoInfo(**promised, sha256="")) if min(promised.values()) > 0 else []
    wanted = sorted({int(i) for indices in lists for i in indices})
    if len(wanted) > THROUGH:
        return _count(path, worker), []
    frames, facts = worker.run(path, decoding.read_through, wanted, size, worker.threads)
    if facts["frames"] != promised["frames"] or facts["fps"] != promised["fps"]:
        return facts, []
    return facts, [(indices, frames[np.searchsorted(wanted, indices)]) for indices in lists]


_hanging: set[tuple[str, int, int]] = set()  # files on which decord does not return


def read_frames(
    path: Path | str,
    indices: Sequence[int],
    size: tuple[int, int],
    backend: str = "decord",
    worker: DecodeWorker | None = None,
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 by native index, squashed to ``size`` = (H, W) by the decoder.

    Order and repetitions are those of ``indices``. PyAV serves where decord is missing, fails or
    hangs. Raises DecodeError naming the file.
    """
    path, indices = existing(path), [int(i) for i in indices]
    key, worker = _file_key(path), worker or own_worker()
    if not indices or min(indices) < 0:
        raise DecodeError(f"{path}: frame indices must be at least 0 and not empty")
    if key in _known and max(indices) >= (held := _known[key].frames):
        raise DecodeError(f"{path}: frame {max(indices)} asked for, {held} decode")
    what = indices, tuple(int(side) for side in size)
    try:
        return worker.run(path, decoding.decode, *what, "pyav" if key in _hanging else backend)
    except NoAnswer:
        if backend != "decord" or key in _hanging:
            raise
        _hanging.add(key)
        return worker.run(path, decoding.decode, *what, "pyav")


def uniform_indices(start: float, end: float, fps: float, frames: int, count: int) -> np.ndarray:
    """Native indices at the centres of ``count`` equal bins of [start, end) s: at most (count,).

    A span with fewer frames than bins gives each of its frames once; the caller pads and masks.
    """
    # Clip before rounding: 1e308 s times a frame rate is infinite.
    first = round(min(max(0, start * fps), frames - 1))
    last = max(first + 1, round(min(end * fps, frames)))
    if last - first <= count:
        return np.arange(first, last)
    return (first + (np.arange(count) + 0.5) * (last - first) / count).astype(int)


def existing(path: Path | str) -> Path:
    """The path of a file that is there and not empty; DecodeError else."""
    path = Path(path)
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise DecodeError(f"{path}: cannot be opened ({error.strerror})") from None
    if size is None:
        raise DecodeError(f"{path}: no such file")
    if size == 0:
        raise DecodeError(f"{path}: the file is empty; fetch it again")
    return path


def _file_key(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns
