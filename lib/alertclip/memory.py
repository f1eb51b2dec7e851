"""Freed memory is kept for the next use, on Linux.

glibc maps every large block anew and gives it back when it is freed, so that each training step
pays again for pages filled with zeros: a fifth to a quarter of a step of Stage I and II.
"""

import ctypes
import os
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
LIMIT = 2**31 - 1  # bytes free at the top that are kept: the largest int


def keep_freed_memory() -> bool:
    """Let malloc reuse large blocks from now on; whether it will.

    Nothing is done where malloc is not glibc's, or its environment variables already say how.
    """
    if {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        return False
    mallopt = _of_malloc("mallopt")
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, LIMIT))


def give_back_freed_memory() -> None:
    """Return to the system what was kept, such as before memory is measured."""
    if trim := _of_malloc("malloc_trim"):
        trim(0)


def _of_malloc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
