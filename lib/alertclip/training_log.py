"""log.jsonl: one JSON line per optimiser step and per validation."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alertclip.files import atomic_write, writing

LOG = "log.jsonl"


@dataclass
class History:
    """Rows for ``pandas.DataFrame``: ``steps`` one per optimiser step, ``validation`` one each."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)


def read_history(out: Path) -> History:
    """The history of the stage in ``out``; empty before its first step."""
    history = History()
    for row in _rows(out):
        rows = history.steps if row["split"] == "train" else history.validation
        rows.append(row)
    return history


def append_row(out: Path, row: dict[str, Any]) -> None:
    """Add one line to the log of the stage in ``out``."""
    with writing(out / LOG), open(out / LOG, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def trim_log(out: Path, step: int) -> None:
    """Keep the log's rows up to ``step``: those after it are about to be written again."""
    rows = [row for row in _rows(out) if row["step"] <= step]
    with atomic_write(out / LOG) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _rows(out: Path) -> Iterator[dict[str, Any]]:
    path = out / LOG
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # torn by a crash: nothing whole follows
            return
        if not isinstance(row, dict) or not {"split", "step"} <= row.keys():
            return
        yield row
