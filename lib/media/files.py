"""Find, write atomically, lock and hash files; shards of a list of work; progress bars."""

import errno
import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from tqdm import tqdm

from media.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Item = TypeVar("Item")
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
UNWRITABLE |= {errno.ENOTDIR, errno.EEXIST}  # a file in place of a folder
UMASK = os.umask(0)
os.umask(UMASK)  # the only way to read it is to set it
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".wmv", ".flv", ".ts", ".mpg", ".mpeg",
                  ".m4v", ".gif", ".3gp")  # fmt: skip


def is_video(path: Path) -> bool:
    """Whether a file's suffix, in any case, is one of VIDEO_SUFFIXES."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Files below ``folder`` in order of name; follows links, except to a parent (``above``)."""
    real_path = os.path.realpath(folder)
    try:
        paths = sorted(folder.iterdir()) if real_path not in above else []
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    for path in paths:
        if os.path.isdir(path):
            yield from files_below(path, (*above, real_path))
        else:
            yield path


def find_files(given: Sequence[Path], out: Path) -> tuple[list[Path], list[Path]]:
    """The videos among ``given`` and below its folders, each once, and these folders' other files.

    A file given itself counts as a video whatever its suffix. Results below ``out`` are skipped.
    """
    found: dict[Path, None] = {}
    sources = dict.fromkeys(Path(os.path.abspath(path)) for path in given)  # links keep their names
    out = Path(os.path.abspath(out))
    for path in sources:
        below = files_below(path) if path.is_dir() else [path]
        results = out if path in out.parents else None  # --out may hold the videos themselves
        found |= dict.fromkeys(file for file in below if results not in file.parents)
    others = {file for file in found if not is_video(file) and file not in sources}
    return [file for file in found if file not in others], [f for f in found if f in others]


def printable(text: Path | str) -> str:
    """A path, or a message with one, as printable text: undecodable bytes become \\xff."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def share(folder: Path) -> None:
    """Give files that other libraries wrote below ``folder`` the permissions of the umask."""
    for file in filter(Path.is_file, folder.rglob("*")):
        file.chmod(0o666 & ~UMASK)  # safetensors lets only the owner read


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn a full disk or an unwritable path, inside the block, into an InputError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        # safetensors gives the error number, and numpy the missing bytes, in the message only.
        if match := re.search(r"os error (\d+)", str(error)):
            code = int(match[1])
        elif re.search(r"\d+ requested and \d+ written", str(error)):
            code = errno.ENOSPC
        if code not in UNWRITABLE:
            raise
        reason = f"{path}: cannot be written ({os.strerror(code)}); make room or make it writable"
        raise InputError(f"{reason}, then start again: what is finished is kept") from error


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` if the block succeeds; see ``writing``."""
    path = Path(path)
    # Writers choose the format by the suffix; a name of 255 bytes would become too long.
    temporary = path.with_name(f".{os.getpid()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.chmod(0o666 & ~UMASK)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[int]:
    """Hold the lock file ``path`` inside the block; without ``wait``, InputError if it is taken."""
    import fcntl  # POSIX only

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(f"{path.parent}: another run is at work there; wait for it") from None
        yield stream.fileno()


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")


def write_table(table: "pd.DataFrame", path: Path) -> None:
    """Write a CSV atomically, with the same bytes on every system."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def read_json(path: Path | str) -> Any:
    """Read JSON; a missing or malformed file is an InputError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid UTF-8 JSON ({error}); fetch it again") from None


def half_the_cores() -> int:
    """Default number of workers, 2 to 6: one that loads clips holds a gigabyte of frames."""
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return min(6, max(2, len(usable) // 2))


def progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield ``items`` with a progress bar on stderr, shown only after two seconds."""
    yield from tqdm(items, label, total, file=sys.stderr, mininterval=0.5, delay=2)


WHOLE = slice(0, None, 1)  # a shard is every n-th item of a list, which spreads long ones


def parse_shard(text: str) -> slice:
    """``"2/8"`` -> the second of eight shares, slice(1, None, 8); InputError on anything else."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"shard {text}: write i/n with i from 1 to n, such as 2/8")
    return slice(int(number) - 1, None, int(count))
