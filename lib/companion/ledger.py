"""The papers' numbers beside ours, and which of their claims hold here."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.files import sha256_file
from companion.paper_numbers import Cell, PaperNumbers, PaperTable, Statement, number, same_digits
from companion.profiles import Params
from detectors import anomalyclip, vadclip
from detectors.benchmarks import load_benchmark

INTERVAL = "reproduced within the interval"
ROUNDING = "reproduced within rounding"
DIFFERS = "differs"
DIRECTION = "direction only (synthetic)"
EQUAL, UNEQUAL = "computed, equal", "computed, differs"
SAME, OTHER = "set as printed", "set otherwise"
INCONSISTENT = "inconsistent in the source"
NOT_RUN = "not run: "
BLANK = "no number in the source"
STATUSES = (INTERVAL, ROUNDING, DIFFERS, DIRECTION, EQUAL, UNEQUAL, SAME, OTHER, INCONSISTENT)
STATUSES += ("not run", BLANK)
HOLDS, FAILS, OPEN = "holds", "fails", "not decided"
BENCHMARKS = ("ucf_crime", "xd_violence", "shanghaitech", "ubnormal", "msad")
SPREADS = 2.0  # a table with the spread over seeds and no interval: value plus or minus two


class Ours(NamedTuple):
    """Our number for a cell, or ``missing``: what it needs. nan where there is none."""

    value: str | float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: float = np.nan
    seeds: float = np.nan
    hash: str = ""  # of the CSV
    missing: str = ""


def ledger(
    numbers: PaperNumbers, folder: Path, P: Params, inconsistent: Collection[str] = ()
) -> pd.DataFrame:
    """One row per number of the papers, joined with the CSVs in ``folder``.

    Columns document, table, row, column, unit, paper, ours, low, high, n, seeds, hash, profile,
    notebook, key, kind, status. ``inconsistent`` names cells that a check refutes.
    """
    reader, rows = _Reader(numbers, folder, P), []
    for cell in numbers.cells():
        ours, measure = reader.ours(cell), cell.measure
        refuted = cell.key in inconsistent
        place = f"{measure.csv}.csv: {_words(measure.selector(*cell[2:4]))}" if measure else ""
        rows.append(
            dict(zip(Cell._fields[:5], cell, strict=False))
            | {"paper": cell.paper or "", "ours": ours.value}
            | {name: getattr(ours, name) for name in Ours._fields[1:6]}
            | {"profile": "" if ours.missing else P.profile}
            | {"notebook": measure.notebook if measure else "", "key": place, "kind": _kind(cell)}
            | {"status": INCONSISTENT if refuted else status(cell, ours, reader.synthetic)}
        )
    return pd.DataFrame(rows)


def status(cell: Cell, ours: Ours, synthetic: bool) -> str:
    """The status of a number that no check refutes: the one place where the rule stands.

    On synthetic data the best is "direction only". On real data of the same data set a number is
    reproduced if it lies in our 95 % interval or, without an interval, equals ours as printed.
    """
    if cell.paper is None or ours.missing:
        return BLANK if cell.paper is None else NOT_RUN + ours.missing
    same = same_digits(cell.paper, str(ours.value))
    if _kind(cell) == "computed":
        return EQUAL if same else UNEQUAL
    if _kind(cell) == "set":
        return SAME if same else OTHER
    if synthetic:
        return DIRECTION
    paper = number(cell.paper)
    if paper is not None and not np.isnan(ours.low):
        return INTERVAL if ours.low <= float(paper) <= ours.high else DIFFERS
    return ROUNDING if same else DIFFERS


def status_counts(book: pd.DataFrame) -> pd.DataFrame:
    """Numbers by document (rows) and status (columns)."""
    found = book["status"].where(~book["status"].str.startswith(NOT_RUN), "not run")
    counts = pd.crosstab(book["document"], found)
    return counts.reindex(index=book["document"].unique(), columns=STATUSES, fill_value=0)


def status_items(book: pd.DataFrame) -> pd.DataFrame:
    """The same as a tidy table for its figure: columns class_name (status), split, items."""
    counts = status_counts(book).T.melt(ignore_index=False, var_name="split", value_name="items")
    counts = counts.rename_axis("class_name").reset_index()
    return counts[counts.groupby("class_name")["items"].transform("sum") > 0]


def _kind(cell: Cell) -> str:
    return cell.measure.kind if cell.measure else ""


class _Reader:
    """Finds our numbers in the CSVs of a run, each read once."""

    def __init__(self, numbers: PaperNumbers, folder: Path, P: Params) -> None:
        self.numbers, self.folder, self.seeds = numbers, folder, len(P.detector.seeds)
        self.synthetic = P.data.world == "miniworld"
        self.title = load_benchmark(P.detector.benchmark).title
        self.tables: dict[str, pd.DataFrame | None] = {}

    def ours(self, cell: Cell) -> Ours:
        """Our number for a cell; nothing is measured where the data set is another."""
        measure = cell.measure
        if cell.paper is None or measure is None:
            return Ours(missing=cell.otherwise or BLANK)
        where = measure.selector(cell.row, cell.column)
        domain = self.numbers.synthetic.get(measure.on, "") if self.synthetic else measure.on
        if measure.on and "{domain}" not in str(where) and domain != self.title:
            return Ours(missing=f"needs a run on {measure.on}")
        where = {name: text.replace("{domain}", domain) for name, text in where.items()}
        table = self._table(measure.csv)
        if table is None:
            return Ours(missing=f"needs notebook {measure.notebook}")
        row = find(table, measure.csv, where)
        if row is None or not row[measure.value]:
            needs = f"needs {measure.on}" if measure.on and self.synthetic else "not in this run"
            return Ours(missing=f"{needs} ({_words(where)})")
        return self._read(row, cell, table.attrs["hash"])

    def _table(self, name: str) -> pd.DataFrame | None:
        if name not in self.tables:
            path = self.folder / f"{name}.csv"
            self.tables[name] = _text(path) if path.is_file() else None
        return self.tables[name]

    def _read(self, row: "pd.Series", cell: Cell, digest: str) -> Ours:
        measure, text = cell.measure, row[cell.measure.value]
        value: str | float = text if number(text) is None else float(text)
        low, high, spread = (_float(row.get(name)) for name in ("low", "high", "seed_sd"))
        if np.isnan(low) and not np.isnan(spread):
            low, high = float(text) - SPREADS * spread, float(text) + SPREADS * spread
        seeds = _float(row.get("seeds", str(self.seeds if measure.over_seeds else 1)))
        seeds = seeds if measure.kind == "measured" else np.nan
        return Ours(value, low, high, _float(row.get("n")), seeds, digest)


def _text(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.attrs["hash"] = sha256_file(path)[:12]
    return table


def find(table: pd.DataFrame, name: str, where: dict[str, str]) -> "pd.Series | None":
    """The one row whose columns equal ``where``; None if there is none, InputError if several."""
    if missing := [column for column in where if column not in table]:
        raise InputError(f"{name}.csv has no column {', '.join(missing)}; run its notebook again")
    found = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    if len(found) > 1:
        raise InputError(f"{name}.csv has {len(found)} rows with {_words(where)}; expected one")
    return found.iloc[0] if len(found) else None


def _float(text: str | None) -> float:
    found = number(text or None)
    return np.nan if found is None else float(found)


def _words(where: dict[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in where.items())


class Span(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


def verdict(first: Span, second: Span, sign: float) -> str:
    """Whether first lies above (sign 1) or below (-1) second by intervals that do not touch."""
    if sign < 0:
        first, second = second, first
    if first.low > second.high:
        return HOLDS
    return FAILS if first.high < second.low else OPEN


def claims(numbers: PaperNumbers, book: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The orderings that the papers' numbers state and our runs can test, with the verdict.

    Columns document, table, claim, paper, ours (both differences), verdict, csv. ``attrs`` holds
    ``untested``, a table of the number of other orderings by document and table.
    """
    rows = book.set_index(["document", "table", "row", "column"])
    found = [claim for table in numbers.tables for claim in _orderings(table, rows)]
    found += [claim for statement in numbers.statements for claim in _statements(statement, folder)]
    columns = ["document", "table", "claim", "paper", "ours", "verdict", "csv"]
    table = pd.DataFrame(found, columns=columns)
    tested = table["verdict"].ne("")
    result = table[tested].reset_index(drop=True)
    sizes = table[~tested].groupby(["document", "table"], sort=False).size()
    result.attrs["untested"] = sizes.rename("claims").reset_index().to_dict("records")
    return result


def _orderings(table: PaperTable, rows: pd.DataFrame) -> Iterator[tuple]:
    labels = table.columns if table.baseline in table.columns else table.rows
    pairs = [(name, table.baseline) for name in labels if table.baseline not in ("", name)]
    for first, second in [*pairs, *table.compare]:
        for other in table.columns if first in table.rows else table.rows:
            sides = [_side(table, rows, name, other) for name in (first, second)]
            stated = [number(printed) for printed, _, _ in sides]
            if None in stated or stated[0] == stated[1]:
                continue
            paper = float(stated[0]) - float(stated[1])
            text = f"{first} {'above' if paper > 0 else 'below'} {second}"
            text += f": {other}" if min(table.size) > 1 or len(table.rows) == 1 else ""
            (_, a, csv), (_, b, _) = sides
            decided = _decide(a, b, np.sign(paper), csv)
            yield table.document, table.table, text, paper, *decided


def _decide(a: Span | None, b: Span | None, sign: float, csv: str) -> tuple[float, str, str]:
    if a is None or b is None:
        return np.nan, "", ""
    return a.value - b.value, verdict(a, b, sign), csv


def _side(
    table: PaperTable, rows: pd.DataFrame, label: str, other: str
) -> tuple[str, Span | None, str]:
    """What the paper prints on one side of an ordering, ours, and the CSV of ours."""
    if label not in (*table.rows, *table.columns):  # a plain number
        return label, Span(*[float(label)] * 3), ""
    place = (label, other) if label in table.rows else (other, label)
    row = rows.loc[(table.document, table.table, *place)]
    if row["kind"] != "measured" or np.isnan(row["low"]):
        return row["paper"], None, ""
    span = Span(*(float(row[name]) for name in ("ours", "low", "high")))
    return row["paper"], span, row["key"].partition(":")[0]


def _statements(statement: Statement, folder: Path) -> Iterator[tuple]:
    path = folder / f"{statement.csv}.csv"
    table = _text(path) if path.is_file() else None
    for each in statement.each:
        where = {name: text.format(each=each) for name, text in statement.where.items()}
        sides = (statement.first, statement.second)
        rows = [] if table is None else [find(table, statement.csv, where | s) for s in sides]
        spans = [None if r is None else Span(*(float(r[k]) for k in Span._fields)) for r in rows]
        decided = _decide(*(spans or (None, None)), 1.0, path.name)
        yield statement.document, "", statement.claim.format(each=each), np.nan, *decided


def settings_table(P: Params) -> pd.DataFrame:
    """Columns name, value: parameters of the run, presets of the detectors, benchmarks' counts.

    Presets are the published ones, before the profile's changes: ``vadclip.ucf.window``; counts:
    ``ucf_crime.train.normal``.
    """
    values = {name: v for name, v in P.flat().items() if not isinstance(v, dict)}
    for stage in ("stage1", "stage2"):
        if steps := values[f"{stage}_steps"]:
            values[f"{stage}_epochs"] = f"{steps} steps"  # they override the epochs
    rows = [*values.items(), *_presets(P.detector.variant)]
    fields = ("learning_rate", "batch_size", "hidden", "epochs")
    rows += [(f"temporal_classifier.{name}", getattr(P.qa, name)) for name in fields]
    for name in BENCHMARKS:
        benchmark = load_benchmark(name)
        splits = {split: sum(counts.values()) for split, counts in benchmark.counts.items()}
        for split, counts in benchmark.counts.items():
            rows += [(f"{name}.{split}.{label}", n) for label, n in counts.items()]
            rows.append((f"{name}.{split}", splits[split]))
        rows.append((f"{name}.videos", sum(splits.values())))
        rows.append((f"{name}.classes", len(benchmark.abnormal_classes)))
    return pd.DataFrame(rows, columns=["name", "value"])


def _presets(variant: str) -> Iterator[tuple[str, Any]]:
    for name in ("ucf", "xd"):
        values = dict(vars(vadclip.preset(name, variant)))
        values["context_tokens"] = values["prefix"] + values["postfix"]
        yield from ((f"vadclip.{name}.{key}", value) for key, value in values.items())
    for name in ("ucf", "xd", "sht"):
        values = dict(vars(anomalyclip.preset(name, variant=variant)))
        values["videos_per_batch"] = 2 * values["batch_size"]
        values["masked_per_cent"] = round(100 * (1 - values["keep_probability"]), 6)
        values["warmup_per_cent"] = 100 * values["warmup_epochs"] / values["epochs"]
        yield from ((f"anomalyclip.{name}.{key}", value) for key, value in values.items())
