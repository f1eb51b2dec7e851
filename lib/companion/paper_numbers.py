"""Every number that the five documents print, read from params/paper_results.yaml and checked."""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from alertclip.errors import InputError
from companion.profiles import PAPER_RESULTS

EMPTY = "~"
# The base loader keeps every scalar as printed: 88.50 has two decimals.
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Record(BaseModel):
    """A part of the file; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Measure(Record):
    """The row of one of our CSVs, with the columns ``where``, that measures cells of a table.

    ``rows`` and ``columns`` map the paper's labels to ours; None covers all of them. ``on``: the
    paper's data set. ``kind``: measured on data, computed without data, or a setting.
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
        """Whether this measures the cell."""
        return all(x is None or y in x for x, y in ((self.rows, row), (self.columns, column)))

    def selector(self, row: str, column: str) -> dict[str, str]:
        """``where`` with our labels of the cell; {domain} stays until the run is known."""
        ours = {"row": (self.rows or {}).get(row, row), "domain": "{domain}"}
        ours["column"] = (self.columns or {}).get(column, column)
        return {name: text.format(**ours) for name, text in self.where.items()}


class Cell(NamedTuple):
    """One number as printed (None where the cell is empty) and what measures it here."""

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
        return " | ".join(self[:4])


class PaperTable(Record):
    """A table as printed; ``size`` and ``empty`` are counted by hand, against typing errors."""

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
        labels = {*self.rows, *self.columns}
        used = {name for pair in self.compare for name in pair} | {*self.units}
        used |= {self.baseline} - {""} if number(self.baseline) is None else set()
        used |= {n for m in self.measured_by for n in (*(m.rows or ()), *(m.columns or ()))}
        places = [(row, column) for row in self.rows for column in self.columns]
        rules = {
            f"has {len(self.rows)} rows": len(self.rows) == self.size[0],
            f"has {len(self.columns)} columns": len(self.columns) == self.size[1],
            "has a row that is too long or too short": {len(r) for r in self.rows.values()}
            == {len(self.columns)},
            f"has {cells.count(EMPTY)} empty cells": cells.count(EMPTY) == self.empty,
            "names a column twice": len({*self.columns}) == len(self.columns),
            f"knows no {', '.join(sorted(used - labels))}": used <= labels,
            "must say in otherwise what unmeasured cells need": bool(self.otherwise)
            or all(any(m.covers(*place) for m in self.measured_by) for place in places),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError(f"{self.document}, {self.table}: {'; '.join(broken)}")
        return self

    def cells(self) -> Iterator[Cell]:
        """All cells in reading order."""
        for row, values in self.rows.items():
            for column, printed in zip(self.columns, values, strict=True):
                unit = self.units.get(row, self.units.get(column, self.unit))
                measure = next((m for m in self.measured_by if m.covers(row, column)), None)
                value = None if printed == EMPTY else printed
                place = self.document, self.table, row, column
                yield Cell(*place, unit, value, measure, self.otherwise)


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


class PaperNumbers(Record):
    """The whole file."""

    documents: dict[str, str]
    synthetic: dict[str, str]
    headings: dict[str, dict[str, dict[str, str]]]
    statements: list[Statement]
    tables: list[PaperTable]

    @model_validator(mode="after")
    def _check(self) -> "PaperNumbers":
        keys = [cell.key for cell in self.cells()]
        used = {k for models in self.headings.values() for c in models.values() for k in c.values()}
        if used - {*keys}:
            raise ValueError(f"no such cell: {', '.join(sorted(used - {*keys}))}")
        if len({*keys}) < len(keys):
            raise ValueError("a table is there twice")
        if unknown := {t.document for t in self.tables} - {*self.documents}:
            raise ValueError(f"not in documents: {', '.join(sorted(unknown))}")
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
        """The number in a cell; nan if the cell is empty."""
        return float(self.printed(key) or "nan")

    def beside(self, heading: str) -> dict[tuple[str, str], float]:
        """The numbers that stand beside ours in a table: (model, name) -> value."""
        models = self.headings.get(heading, {})
        return {(m, n): self.value(k) for m, cells in models.items() for n, k in cells.items()}


def number(printed: str | None) -> Decimal | None:
    """A printed number with its digits; None for text and empty cells."""
    try:
        return Decimal(printed) if printed is not None else None
    except InvalidOperation:
        return None


def same_digits(printed: str, ours: str) -> bool:
    """Whether ours, rounded to the printed digits, is what is printed; text must be equal."""
    stated, value = number(printed), number(ours)
    if stated is None or value is None:
        return printed == ours
    return abs(value - stated) <= Decimal(1).scaleb(int(stated.as_tuple().exponent)) / 2


@cache
def paper_numbers(path: Path = PAPER_RESULTS) -> PaperNumbers:
    """Read and check the file; InputError names the table and the fault."""
    try:
        return PaperNumbers.model_validate(yaml.load(path.read_text(encoding="utf-8"), LOADER))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except ValidationError as error:
        found = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors())
        raise InputError(f"{path}: {'; '.join(found)}") from None
