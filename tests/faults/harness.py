"""Bad inputs as cases, and processes that are killed while they write."""

import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from media.errors import InputError


class Case(NamedTuple):
    """A bad input, what is done about it, and a pattern of the message.

    ``run(folder)`` tries the input in an empty folder, asserts what is done, returns the message.
    """

    given: str
    done: str
    says: str
    run: Callable[[Path], str]


def refused(call: Callable, *args: Any, **options: Any) -> str:
    """Assert that a call raises InputError; returns its message."""
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    return str(caught.value)


class Bomb:
    """An object that makes a call when it is unpickled, as code in a checkpoint."""

    def __init__(self, call: Callable, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple:
        return self.call, self.arguments


def pickle_with_code(path: Path) -> Path:
    """Write a pickle that runs code to ``path``; returns the folder this code would create."""
    trace = path.with_name("code-was-run")
    path.write_bytes(pickle.dumps({"state_dict": Bomb(os.mkdir, str(trace))}))
    return trace


def no_trace(found: object) -> None:
    """Assert that the code of ``pickle_with_code`` has not run."""
    assert not (isinstance(found, Path) and found.exists()), "code in a file was run"


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small disk; the test is skipped without the right to mount."""
    folder.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(call, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def killed(folder: Path, module: object, name: str, write: Callable[[Path], object]) -> None:
    """Run ``write(folder)`` in a process that is killed when ``module.name`` has written half."""
    original = getattr(module, name)

    def half(*args: object, **options: object) -> None:
        original(*args, **options)
        path = next(Path(a) for a in args if isinstance(a, str | Path))
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        torch.set_num_threads(1)  # the fork has no threads of the pool, and would wait for them
        setattr(module, name, half)
        write(folder)

    child = get_context("fork").Process(target=work, daemon=True)  # has imported everything
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
