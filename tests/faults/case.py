"""One bad input, and the helpers with which the cases are written."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alertclip.errors import InputError


@dataclass(frozen=True)
class Case:
    """An input, what is done about it, a part of what is said, and how to try it.

    ``run(folder)`` meets the input in an empty folder and returns what the user is told; it fails
    if something else is done.
    """

    given: str
    done: str
    says: str
    run: Callable[[Path], str]


def refused(call: Callable, *args: Any, **options: Any) -> str:
    """The message with which a call refuses its input."""
    try:
        call(*args, **options)
    except InputError as error:
        return str(error)
    raise AssertionError("nothing was refused")


class Bomb:
    """An object that leaves a file when it is unpickled: code in a checkpoint."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def pickle_with_code(path: Path) -> Path:
    """Write a pickle that runs code to ``path``; the trace it would leave."""
    trace = path.with_name("code-was-run")
    path.write_bytes(pickle.dumps({"state_dict": Bomb(trace)}))
    return trace
