"""A results file that survives a kill: one JSON line per unit, on disk before the next is asked."""

import json
import os
from pathlib import Path
from typing import Any

from alertclip.errors import InputError


class Results:
    """Rows by digest, appended to a JSONL file; the last row of a digest counts.

    A last line without its line end was being written when the process died: it is cut off.
    Raises InputError naming any other line that is no row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            row = _row(line, f"{path}, line {number}")
            self.rows[row["digest"]] = row
        if len(whole) < len(content):
            os.truncate(path, len(whole))

    def add(self, row: dict[str, Any]) -> None:
        """Append a row and wait until it is on disk."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with open(self.path, "ab") as stream:
            stream.write(line.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        self.rows[row["digest"]] = row


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("digest"), str):
        raise InputError(f"{where}: not a result row; mend or remove the line")
    return row
