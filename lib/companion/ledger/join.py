"""Each number of the papers beside ours: value, interval, where it comes from, and its status."""

from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.files import sha256_file
from companion.ledger.paper_results import Cell, Measure, PaperResults, number
from companion.profiles import Params
from detectors.benchmarks import load_benchmark

INTERVAL = "reproduced within the interval"
ROUNDING = "reproduced within rounding"
DIFFERS = "differs"
EQUAL, UNEQUAL = "computed, equal", "computed, differs"
SAME, OTHER = "set as printed", "set otherwise"
DIRECTION = "direction only (synthetic)"
NOT_RUN = "not run: "
INCONSISTENT = "inconsistent in the source"
BLANK = "no number in the source"
STATUSES = (
    *(INTERVAL, ROUNDING, DIFFERS, DIRECTION, EQUAL, UNEQUAL, SAME, OTHER),
    *(INCONSISTENT, NOT_RUN.rstrip(": "), BLANK),
)
SPREADS = 2.0  # a table with the spread over seeds and no interval: value plus or minus two


class Ours(NamedTuple):
    """Our number for a cell, or ``missing``: what it would need. nan where there is none."""

    value: str | float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: float = np.nan
    seeds: float = np.nan
    digest: str = ""  # of the CSV it was read from
    missing: str = ""


def ledger(
    results: PaperResults, folder: Path, P: Params, inconsistent: Collection[str] = ()
) -> pd.DataFrame:
    """One row per number of the papers, in their order, joined with the CSVs in ``folder``.

    Columns document, table, row, column, unit, paper, ours, low, high, n, seeds, profile, hash
    (of the CSV), notebook, key, kind, status. ``inconsistent`` names cells that a check has
    refuted. Status, the first that applies:

    - "no number in the source": the cell is empty there;
    - "inconsistent in the source": a check of ours proves the paper's number wrong;
    - "not run: needs ...": nothing here measures it, or this run has not;
    - "computed, equal" or "computed, differs": arithmetic, against the printed digits;
    - "set as printed" or "set otherwise": a setting of this run or a count of a benchmark's lists;
    - "direction only (synthetic)": measured on synthetic data, which reproduces nothing;
    - "reproduced within the interval": real data of that data set, and the paper's number lies in
      our 95% interval (without one, within two spreads over seeds);
    - "reproduced within rounding": the same without any interval, equal to the printed digits;
    - "differs".
    """
    reader = _Reader(results, folder, P)
    rows = []
    for cell in results.cells():
        ours = reader.ours(cell)
        status = (
            INCONSISTENT if cell.key in inconsistent else status_of(cell, ours, reader.synthetic)
        )
        rows.append(_row(cell, ours, status, P.profile))
    return pd.DataFrame(rows)


def status_of(cell: Cell, ours: Ours, synthetic: bool) -> str:
    """The status of a cell whose number no check refutes; see ``ledger``."""
    if cell.paper is None:
        return BLANK
    if ours.missing:
        return NOT_RUN + ours.missing
    same, kind = same_digits(cell.paper, str(ours.value)), _kind(cell)
    if kind == "computed":
        return EQUAL if same else UNEQUAL
    if kind == "set":
        return SAME if same else OTHER
    if synthetic:
        return DIRECTION
    paper = number(cell.paper)
    if paper is not None and not np.isnan(ours.low):
        return INTERVAL if ours.low <= float(paper) <= ours.high else DIFFERS
    return ROUNDING if same else DIFFERS


def _kind(cell: Cell) -> str:
    return cell.measure.kind if cell.measure else ""


def same_digits(printed: str, ours: str) -> bool:
    """Whether ours, rounded to the printed digits, is what is printed; text must be equal."""
    stated, value = number(printed), number(ours)
    if stated is None or value is None:
        return printed == ours
    last = Decimal(1).scaleb(int(stated.as_tuple().exponent))
    return abs(value - stated) <= last / 2


def _row(cell: Cell, ours: Ours, status: str, profile: str) -> dict[str, Any]:
    measure = cell.measure
    row: dict[str, Any] = {name: getattr(cell, name) for name in Cell._fields[:5]}
    row["paper"] = cell.paper or ""
    row["ours"] = ours.value
    row |= {name: getattr(ours, name) for name in ("low", "high", "n", "seeds")}
    key = f"{measure.csv}.csv: {_words(measure.selector(cell.row, cell.column))}" if measure else ""
    return row | {
        "profile": "" if ours.missing else profile,
        "hash": ours.digest,
        "notebook": measure.notebook if measure else "",
        "key": key,
        "kind": _kind(cell),
        "status": status,
    }


class _Reader:
    """Finds our numbers in the CSVs of a run, each read once."""

    def __init__(self, results: PaperResults, folder: Path, P: Params) -> None:
        self.results, self.folder = results, folder
        self.synthetic = P.data.world == "miniworld"
        self.seeds = len(P.detector.seeds)
        self.title = load_benchmark(P.detector.benchmark).title
        self.tables: dict[str, tuple[pd.DataFrame, str] | None] = {}

    def ours(self, cell: Cell) -> Ours:
        """Our number for a cell; nothing is measured where the data set is another."""
        if cell.paper is None:
            return Ours(missing=BLANK)
        if cell.measure is None:
            return Ours(missing=cell.otherwise)
        measure, where = cell.measure, cell.measure.selector(cell.row, cell.column)
        domain = self.results.synthetic.get(measure.on, "") if self.synthetic else measure.on
        in_domain = any("{domain}" in value for value in where.values())
        if measure.on and not in_domain and domain != self.title:
            return Ours(missing=f"needs a run on {measure.on}")
        return self._read(measure, {k: v.replace("{domain}", domain) for k, v in where.items()})

    def _read(self, measure: Measure, where: dict[str, str]) -> Ours:
        loaded = self.load(measure.csv)
        if loaded is None:
            return Ours(missing=f"needs notebook {measure.notebook}")
        row = find(loaded[0], measure.csv, where)
        if row is None or not row[measure.value]:
            needs = f"needs {measure.on}" if measure.on and self.synthetic else "not in this run"
            return Ours(missing=f"{needs} ({_words(where)})")
        return _ours(row, measure, loaded[1], self.seeds)

    def load(self, name: str) -> tuple[pd.DataFrame, str] | None:
        """A CSV as text with its digest; None if the run has not written it."""
        if name not in self.tables:
            path = self.folder / f"{name}.csv"
            self.tables[name] = (
                (pd.read_csv(path, dtype=str, keep_default_na=False), sha256_file(path)[:12])
                if path.is_file()
                else None
            )
        return self.tables[name]


def find(table: pd.DataFrame, name: str, where: dict[str, str]) -> "pd.Series | None":
    """The one row whose columns equal ``where``; None if there is none, InputError if several."""
    if missing := [column for column in where if column not in table]:
        raise InputError(f"{name}.csv has no column {', '.join(missing)}; run its notebook again")
    found = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    if len(found) > 1:
        raise InputError(f"{name}.csv has {len(found)} rows with {_words(where)}; expected one")
    return found.iloc[0] if len(found) else None


def _ours(row: "pd.Series", measure: Measure, digest: str, seeds: int) -> Ours:
    text = row[measure.value]
    value: str | float = text if number(text) is None else float(text)
    low, high = _float(row.get("low")), _float(row.get("high"))
    spread = _float(row.get("seed_sd"))
    if np.isnan(low) and not np.isnan(spread):
        low, high = float(text) - SPREADS * spread, float(text) + SPREADS * spread
    of = _float(row.get("seeds", str(seeds if measure.over_seeds else 1)))
    of = of if measure.kind == "measured" else np.nan
    return Ours(value, low, high, _float(row.get("n")), of, digest)


def _float(text: str | None) -> float:
    found = number(text or None)
    return np.nan if found is None else float(found)


def _words(where: dict[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in where.items())
