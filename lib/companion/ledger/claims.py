"""What the papers claim by their own numbers, and whether ours agree: computed, never written.

A claim is an ordering of two cells of a table. It holds if our intervals (95%) lie apart in the
paper's order, fails if they lie apart in the other, and is not decided where they overlap.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from companion.ledger.join import NOT_RUN, find
from companion.ledger.paper_results import PaperResults, PaperTable, Statement, number

HOLDS, FAILS, OPEN = "holds", "fails", "not decided"
UNTESTED = "cannot be tested here"


class Span(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


def claims(results: PaperResults, book: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Every claim with its verdict, from the ledger ``book`` and the CSVs in ``folder``.

    Columns document, table, claim, paper, ours (both differences), verdict, reason (the CSV that
    decides, or what is lacking).
    """
    rows = book.set_index(["document", "table", "row", "column"])
    found = [row for table in results.tables for row in _table_claims(table, rows)]
    found += [row for statement in results.statements for row in _statement(statement, folder)]
    columns = ["document", "table", "claim", "paper", "ours", "verdict", "reason"]
    return pd.DataFrame(found, columns=columns)


def verdict(first: Span, second: Span, sign: float) -> str:
    """Whether first lies above (sign 1) or below (-1) second by intervals that do not touch."""
    if sign < 0:
        first, second = second, first
    if first.low > second.high:
        return HOLDS
    return FAILS if first.high < second.low else OPEN


class _Side(NamedTuple):
    """One side of a claim: what the paper prints, ours or what is lacking, and the CSV of ours."""

    printed: str
    ours: Span | None
    lacking: str = ""
    csv: str = ""


def _table_claims(table: PaperTable, rows: pd.DataFrame) -> Iterator[tuple]:
    for first, second in _pairs(table):
        for other in table.columns if first in table.rows else table.rows:
            sides = [_side(table, rows, name, other) for name in (first, second)]
            stated = [number(side.printed) for side in sides]
            if None in stated or stated[0] == stated[1]:
                continue
            paper = float(stated[0]) - float(stated[1])
            text = f"{first} {'above' if paper > 0 else 'below'} {second}"
            text += f": {other}" if min(table.size) > 1 or len(table.rows) == 1 else ""
            yield table.document, table.table, text, paper, *_decided(*sides, np.sign(paper))


def _pairs(table: PaperTable) -> list[tuple[str, str]]:
    if not table.baseline:
        return table.compare
    labels = table.columns if table.baseline in table.columns else table.rows
    return [(name, table.baseline) for name in labels if name != table.baseline] + table.compare


def _side(table: PaperTable, rows: pd.DataFrame, label: str, other: str) -> _Side:
    if label not in (*table.rows, *table.columns):  # a number
        return _Side(label, Span(*[float(label)] * len(Span._fields)))
    place = (label, other) if label in table.rows else (other, label)
    row = rows.loc[(table.document, table.table, *place)]
    if row["kind"] != "measured" or np.isnan(row["low"]):
        return _Side(row["paper"], None, row["status"].removeprefix(NOT_RUN))
    span = Span(*(float(row[name]) for name in ("ours", "low", "high")))
    return _Side(row["paper"], span, csv=row["key"].partition(":")[0])


def _decided(first: _Side, second: _Side, sign: float) -> tuple[float, str, str]:
    """Our difference, the verdict and its reason."""
    if first.ours is None or second.ours is None:
        return np.nan, UNTESTED, first.lacking or second.lacking
    found = verdict(first.ours, second.ours, sign)
    return first.ours.value - second.ours.value, found, first.csv


def _statement(statement: Statement, folder: Path) -> Iterator[tuple]:
    path = folder / f"{statement.csv}.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else None
    for each in statement.each:
        text = statement.claim.format(each=each)
        where = {k: v.format(each=each) for k, v in statement.where.items()}
        sides = [where | statement.first, where | statement.second]
        rows = [] if table is None else [find(table, statement.csv, side) for side in sides]
        if not rows or any(row is None for row in rows):
            reason = f"needs notebook {statement.notebook}"
            yield statement.document, "", text, np.nan, np.nan, UNTESTED, reason
            continue
        first, second = (Span(*(float(row[k]) for k in Span._fields)) for row in rows)
        difference = first.value - second.value
        found = verdict(first, second, 1.0)
        yield statement.document, "", text, np.nan, difference, found, f"{statement.csv}.csv"
