"""Videos: how many frames they truly hold, frames by index, and which indices to take."""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alertclip.errors import InputError
from alertclip.files import read_json, sha256_file, sha256_json, write_json

THROUGH = 512  # frames kept at most while a video is read through: 80 MB at 224 x 224, each copy
TIME_LIMIT = 300.0  # seconds for one request; an hour of 320x240 video decodes in about 30


class DecodeError(InputError):
    """A video that cannot be decoded: the message names the file and the reason."""


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


class NoAnswer(DecodeError):
    """The decoder hung or died: another one may still read the file."""


class DecodeWorker:
    """One decoding process with a wall-clock limit per request; killed and replaced when late."""

    def __init__(
        self,
        time_limit: float = TIME_LIMIT,
        module: str = "alertclip.decoding",
        threads: str = "AUTO",
    ) -> None:
        """``threads`` of FFmpeg: AUTO, or NONE where other workers decode on every core."""
        self.time_limit, self.module, self.threads = time_limit, module, threads
        self._process: subprocess.Popen | None = None
        self._lock, self._owner = threading.Lock(), os.getpid()

    def ask(self, path: Path, **request: Any) -> tuple[dict[str, Any], bytes]:
        """Send a request about ``path``; DecodeError if it fails, dies or takes too long."""
        self._leave_to_parent()
        with self._lock:
            process, late = self._running(), threading.Event()
            timer = threading.Timer(self.time_limit, _kill, (process, late))
            timer.start()
            try:
                content = {"path": str(path.absolute()), "limit": self.time_limit, **request}
                head, body = _exchange(process, content)
            except (OSError, ValueError):
                self.close()
                reason = f"no answer in {self.time_limit:g} s" if late.is_set() else "it crashed"
                raise NoAnswer(
                    f"{path}: the decoder failed ({reason}); convert the file or leave it out"
                ) from None
            except BaseException:  # an interrupted exchange would leave its answer for the next
                self.close()
                raise
            finally:
                timer.cancel()
        if "error" in head:
            raise DecodeError(f"{path}: cannot be decoded ({head['error']}); convert or replace it")
        return head, body

    def close(self) -> None:
        """End the process."""
        self._leave_to_parent()
        process, self._process = self._process, None  # two threads may want to end it
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError, ValueError):  # the other has closed its pipes
                process.communicate()

    def _leave_to_parent(self) -> None:
        # After a fork (data loaders) the pipes are the parent's: take a process of our own.
        if self._owner != os.getpid():
            self._lock, self._owner, self._process = threading.Lock(), os.getpid(), None

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        return self._process


def _kill(process: subprocess.Popen, late: threading.Event) -> None:
    late.set()
    process.kill()


def _environment() -> dict[str, str]:
    # The worker must find this very package, installed or not.
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def _exchange(process: subprocess.Popen, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    head = json.loads(process.stdout.readline())
    size = int(np.prod(head["shape"])) if "shape" in head else 0
    body = process.stdout.read(size)
    if len(body) != size:
        raise ValueError("answer cut short")
    return head, body


_worker = DecodeWorker()
atexit.register(_worker.close)
_known: dict[tuple[str, int, int], VideoInfo] = {}


Facts = dict[str, Any]
"""Fields of a VideoInfo, less the hash."""


def count(path: Path, worker: DecodeWorker) -> Facts:
    """What a video holds, by decoding all of it."""
    request = {"indices": [], "size": (1, 1), "threads": worker.threads}
    return worker.ask(path, what="through", **request)[0]["facts"]


def probe(
    path: Path | str,
    store: Path | None = None,
    worker: DecodeWorker = _worker,
    counted: Callable[[Path, DecodeWorker], Facts] = count,
) -> VideoInfo:
    """Count the decodable frames of a video once; remembered in ``store`` by content hash."""
    path = existing(path)
    key = _file_key(path)
    if key not in _known:
        _known[key] = _probe(path, store, key, partial(counted, path, worker))
    return _known[key]


def _probe(path: Path, store: Path | None, key: tuple, counted: Callable[[], Facts]) -> VideoInfo:
    # Hashing a hundred gigabytes takes minutes: the file's size and time stand for its content.
    seen = store / f"seen-{sha256_json(key)[:32]}.json" if store else None
    if info := _remembered(seen):
        return info
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise DecodeError(f"{path}: cannot be read ({error.strerror})") from None
    sidecar = store / f"{digest}.json" if store else None
    info = _remembered(sidecar)
    if info is None:
        info = VideoInfo(sha256=digest, **counted())
    for file in filter(None, (seen, sidecar)):
        write_json(file, asdict(info))
    return info


def _remembered(sidecar: Path | None) -> VideoInfo | None:
    try:
        return VideoInfo(**read_json(sidecar)) if sidecar and sidecar.exists() else None
    except (InputError, TypeError):  # written by another version: count again
        return None


Choice = Callable[[VideoInfo], Sequence[Sequence[int]]]
"""Lists of frames to take from a video, once it is known what it holds."""


def count_and_read(
    path: Path, worker: DecodeWorker, choose: Choice, size: tuple[int, int]
) -> tuple[Facts, list[tuple[Sequence[int], np.ndarray]]]:
    """What a video holds, and the frames (T, H, W, 3) of each chosen list: it is decoded once.

    The lists are chosen by what the container promises. Where it proves wrong, or they hold more
    than THROUGH frames, none is read: they are to be chosen and read again.
    """
    promised, _ = worker.ask(path, what="declare")
    lists = choose(VideoInfo(**promised, sha256="")) if min(promised.values()) > 0 else []
    wanted = sorted({int(i) for indices in lists for i in indices})
    if len(wanted) > THROUGH:
        return count(path, worker), []
    request = {"indices": wanted, "size": size, "threads": worker.threads}
    head, body = worker.ask(path, what="through", **request)
    facts = head["facts"]
    if facts["frames"] != promised["frames"] or facts["fps"] != promised["fps"]:
        return facts, []
    frames = np.frombuffer(body, np.uint8).reshape(head["shape"])
    return facts, [(indices, frames[np.searchsorted(wanted, indices)]) for indices in lists]


def read_frames(
    path: Path | str,
    indices: Sequence[int],
    size: tuple[int, int],
    backend: str = "decord",
    worker: DecodeWorker = _worker,
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 by native index, squashed to ``size`` = (H, W) by the decoder.

    Order and repetitions are those of ``indices``. PyAV serves where decord is missing, fails or
    hangs. Raises DecodeError naming the file; no call lasts longer than twice the time limit.
    """
    path = existing(path)
    indices = [int(i) for i in indices]
    if not indices or min(indices) < 0:
        raise DecodeError(f"{path}: frame indices must be at least 0 and not empty")
    known = _known.get(_file_key(path))
    if known and max(indices) >= known.frames:
        raise DecodeError(f"{path}: frame {max(indices)} asked for, {known.frames} decode")
    request = {"what": "read", "indices": indices, "size": [int(side) for side in size]}
    try:
        head, body = worker.ask(path, backend=backend, **request)
    except NoAnswer:
        if backend != "decord":
            raise
        head, body = worker.ask(path, backend="pyav", **request)
    return np.frombuffer(body, np.uint8).reshape(head["shape"])


def uniform_indices(start: float, end: float, fps: float, frames: int, count: int) -> np.ndarray:
    """Native indices at the centres of ``count`` equal bins of [start, end) s: at most (count,).

    A span with fewer frames than bins gives each of its frames once; the caller pads and masks.
    """
    # Cut before rounding: 1e308 s times a frame rate is no number.
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
