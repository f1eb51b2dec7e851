"""One error type for everything that a user can fix."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message names the file or parameter, the item, and what to do."""


class DecodeError(InputError):
    """A video that cannot be decoded: the message names the file and the reason."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint with the known name most like ``name``; empty if none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""
