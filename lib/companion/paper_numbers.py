"""The papers' numbers as printed: every cell of the tables in params/paper_results.yaml."""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, NamedTuple

import yaml

from companion.profiles import PROFILES
from media.errors import InputError

PAPER_RESULTS = PROFILES / "paper_results.yaml"
EMPTY = "~"  # a cell that the paper leaves empty
# Keeps numbers as printed: 88.50 has two decimals. Ten times faster with libyaml.
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Measure(NamedTuple):
    """Where to find our numbers for some cells of a table: rows of a CSV that a notebook writes.

    ``rows`` and ``columns`` map the paper's labels to ours (None: all, under the same names).
    ``on`` is the data set of the paper's numbers. ``kind``: measured, computed or set.
    """

    notebook: str
    csv: str
    where: dict[str, str]
    rows: dict[str, str] | None = None
    columns: dict[str, str] | None = None
    value: str = "value"
    on: str = ""
    kind: str = "measured"


class Cell(NamedTuple):
    """One cell of a paper's table: the number as printed ("" if none), and how it is measured here.

    ``otherwise`` says what a cell without a measure needs.
    """

    document: str
    table: str
    row: str
    column: str
    unit: str
    paper: str
    measure: Measure | None
    otherwise: str

    @property
    def key(self) -> str:
        """The name of the cell: "document | table | row | column"."""
        return " | ".join(self[:4])

    @property
    def where(self) -> dict[str, str]:
        """Columns and values that select our row in the CSV; the ledger fills in {domain}."""
        assert self.measure is not None
        row = (self.measure.rows or {}).get(self.row, self.row)
        column = (self.measure.columns or {}).get(self.column, self.column)
        names = {"row": row, "column": column, "domain": "{domain}"}
        return {name: text.format(**names) for name, text in self.measure.where.items()}


@cache
def load() -> dict[str, Any]:
    """Contents of params/paper_results.yaml, with numbers as printed text."""
    return yaml.load(PAPER_RESULTS.read_text(encoding="utf-8"), LOADER)


@cache
def cells() -> dict[str, Cell]:
    """Every cell of every table by its key, in reading order."""
    return {cell.key: cell for table in load()["tables"] for cell in table_cells(table)}


def table_cells(table: dict[str, Any]) -> Iterator[Cell]:
    """The cells of one table; InputError for a row of the wrong length."""
    place, units = (table["document"], table["table"]), table.get("units", {})
    measures = [Measure(**measure) for measure in table.get("measured_by", [])]
    for row, numbers in table["rows"].items():
        if len(numbers) != len(table["columns"]):
            raise InputError(f"{PAPER_RESULTS}: {', '.join(place)}: row {row} has the wrong length")
        for column, printed in zip(table["columns"], numbers, strict=True):
            unit = units.get(row, units.get(column, table.get("unit", "")))
            of_row = [m for m in measures if row in (m.rows or [row])]
            measure = next((m for m in of_row if column in (m.columns or [column])), None)
            paper, otherwise = printed if printed != EMPTY else "", table.get("otherwise", "")
            yield Cell(*place, row, column, unit, paper, measure, otherwise)


def printed(key: str) -> str:
    """A cell as printed, "" if it is empty; KeyError if there is no such cell."""
    return cells()[key].paper


def value(key: str) -> float:
    """The number in a cell, nan if it is empty; KeyError if there is no such cell."""
    return float(printed(key) or "nan")


def beside(heading: str) -> dict[tuple[str, str], float]:
    """The papers' numbers to show beside ours, by (model, name of the row)."""
    models = load()["headings"].get(heading, {})
    return {(m, name): value(key) for m, names in models.items() for name, key in names.items()}


def number(text: str) -> Decimal | None:
    """A printed number with its digits, None for text."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def same_digits(printed: str, ours: str) -> bool:
    """Whether ours agrees with a printed number to its last digit; text must be equal."""
    stated, measured = number(printed), number(ours)
    if stated is None or measured is None:
        return printed == ours
    last_digit = Decimal(1).scaleb(int(stated.as_tuple().exponent))
    return abs(measured - stated) <= last_digit / 2
