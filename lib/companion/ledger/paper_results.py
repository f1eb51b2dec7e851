"""What the papers report: every table of params/paper_results.yaml, cell by cell, checked."""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from alertclip.errors import InputError
from companion.profiles import PAPER_RESULTS

EMPTY = "~"
# Keeps every scalar as it is printed: 88.50 has two decimals. Ten times faster where libyaml is.
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Record(BaseModel):
    """A part of the file: unknown names are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Measure(Record):
    """Where cells of a table are measured here: the row of a CSV whose columns equal ``where``.

    ``rows`` and ``columns`` map the labels it covers to ours; None covers all, under their own
    names. ``on`` is the data set of the paper's number; ``over_seeds`` marks a mean over the
    detectors' seeds. ``kind``: measured on data, computed without any, or a setting.
    """

    notebook: str
    csv: str
    where: dict[str, str]
    rows: dict[str, str] | None = None
    columns: dict[str, str] | None = None
    value: str = "value"
    on: str = ""
    kind: Literal["measured", "computed", "set"] = "measured"
    over_seeds: bool = False

    def covers(self, row: str, column: str) -> bool:
        """Whether the cell is one of those measured."""
        rows, columns = self.rows, self.columns
        return (rows is None or row in rows) and (columns is None or column in columns)

    def selector(self, row: str, column: str) -> dict[str, str]:
        """``where`` with our names for the cell; {domain} stays until the run is known."""
        ours = {"row": (self.rows or {}).get(row, row)}
        ours["column"] = (self.columns or {}).get(column, column)
        return {k: v.format(domain="{domain}", **ours) for k, v in self.where.items()}


class Cell(NamedTuple):
    """One number of a paper as printed (None: the cell is empty), and what measures it."""

    document: str
    table: str
    row: str
    column: str
    unit: str
    paper: str | None
    measure: Measure | None
    otherwise: str

    @property
    def key(self) -> str:
        """Its name in the ledger."""
        return f"{self.document} | {self.table} | {self.row} | {self.column}"


class PaperTable(Record):
    """A table as printed: ``size`` is (rows, columns), ``empty`` the number of empty cells."""

    document: str
    table: str
    title: str
    note: str = ""
    unit: str = ""
    units: dict[str, str] = {}  # by row or column, where they differ
    size: tuple[int, int]
    empty: int = 0
    columns: list[str]
    rows: dict[str, list[str]]
    baseline: str = ""
    compare: list[tuple[str, str]] = []
    measured_by: list[Measure] = []
    otherwise: str = ""

    @model_validator(mode="after")
    def _check(self) -> "PaperTable":
        cells = [cell for row in self.rows.values() for cell in row]
        labels = [*self.rows, *self.columns]
        used = {name for pair in self.compare for name in pair} | set(self.units)
        used |= {self.baseline} - {""} if number(self.baseline) is None else set()
        for m in self.measured_by:
            used |= {*(m.rows or {}), *(m.columns or {})}
        rules = {
            f"has {len(self.rows)} rows": len(self.rows) == self.size[0],
            f"has {len(self.columns)} columns": len(self.columns) == self.size[1],
            "has a row that is too long or too short": all(
                len(row) == len(self.columns) for row in self.rows.values()
            ),
            f"has {cells.count(EMPTY)} empty cells": cells.count(EMPTY) == self.empty,
            "names a column twice": len(set(self.columns)) == len(self.columns),
            f"knows no {', '.join(sorted(used - {*labels}))}": used <= {*labels},
            "must say in otherwise what unmeasured cells need": bool(self.otherwise)
            or all(any(m.covers(r, c) for m in self.measured_by) for r, c in self._places()),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError(f"{self.document}, {self.table}: {'; '.join(broken)}")
        return self

    def _places(self) -> Iterator[tuple[str, str]]:
        return ((row, column) for row in self.rows for column in self.columns)

    def cells(self) -> Iterator[Cell]:
        """All cells in reading order."""
        for row, column in self._places():
            printed = self.rows[row][self.columns.index(column)]
            unit = self.units.get(row, self.units.get(column, self.unit))
            measure = next((m for m in self.measured_by if m.covers(row, column)), None)
            value = None if printed == EMPTY else printed
            yield Cell(self.document, self.table, row, column, unit, value, measure, self.otherwise)


class Statement(Record):
    """A claim without a number: in our CSV ``first`` is not below ``second``, for ``each``."""

    document: str
    claim: str
    notebook: str
    csv: str
    where: dict[str, str]
    first: dict[str, str]
    second: dict[str, str]
    each: list[str]


class PaperResults(Record):
    """The whole file."""

    documents: dict[str, str]
    synthetic: dict[str, str]
    headings: dict[str, dict[str, dict[str, str]]]
    statements: list[Statement]
    tables: list[PaperTable]

    @model_validator(mode="after")
    def _check(self) -> "PaperResults":
        keys = [cell.key for cell in self.cells()]
        used = {k for models in self.headings.values() for c in models.values() for k in c.values()}
        rules = {
            f"no such cell: {', '.join(sorted(used - {*keys}))}": used <= {*keys},
            "a table is there twice": len(set(keys)) == len(keys),
            "a table's document is not listed": {t.document for t in self.tables}
            <= {*self.documents},
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def cells(self) -> Iterator[Cell]:
        """All cells of all tables."""
        return (cell for table in self.tables for cell in table.cells())

    @cached_property
    def _printed(self) -> dict[str, str | None]:
        return {cell.key: cell.paper for cell in self.cells()}

    def printed(self, key: str) -> str:
        """A cell as printed, empty if it is; KeyError if there is no such cell."""
        return self._printed[key] or ""

    def value(self, key: str) -> float:
        """The number of a cell; KeyError if there is none, nan if it is empty."""
        return float(self.printed(key) or "nan")

    def marks(self, heading: str) -> dict[tuple[str, str], float]:
        """The numbers that stand beside ours under a heading: (model, name) -> value."""
        models = self.headings.get(heading, {})
        return {
            (m, name): self.value(k) for m, cells in models.items() for name, k in cells.items()
        }


def number(printed: str | None) -> Decimal | None:
    """A printed number with its digits, None for text and empty cells."""
    try:
        return Decimal(printed) if printed is not None else None
    except InvalidOperation:
        return None


@cache
def load_paper_results(path: Path = PAPER_RESULTS) -> PaperResults:
    """Read and check the file; InputError says which table and what is wrong."""
    try:
        raw: Any = yaml.load(path.read_text(encoding="utf-8"), LOADER)
        return PaperResults.model_validate(raw)
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot read the papers' results ({error})") from None
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors()
        )
        raise InputError(f"{path}: {found}") from None
