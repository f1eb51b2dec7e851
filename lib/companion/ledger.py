"""The ledger: every number and setting of the papers beside ours, and the tested claims."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from alertclip.checkpoint import RUN
from alertclip.hyperparameters import DataParams
from alertclip.records import LEFT_OUT
from companion.paper_numbers import Cell, cells, load, number, same_digits, value
from companion.profiles import FLAT, Params, from_flat
from companion.stage_runs import FOLDERS
from detectors.benchmarks import list_counts, load_benchmark
from media.errors import InputError
from media.files import read_json

INTERVAL, ROUNDING = "reproduced within the interval", "reproduced within rounding"
DIFFERS, DIRECTION = "differs", "direction only"
EQUAL, UNEQUAL = "computed, equal", "computed, differs"
SAME, OTHER = "set as printed", "set otherwise"
NOT_RUN = "not run: "
INCONSISTENT, BLANK = "inconsistent in the source", "no number in the source"
STATUSES = (INTERVAL, ROUNDING, DIFFERS, DIRECTION, EQUAL, UNEQUAL, SAME, OTHER, INCONSISTENT,
            "not run", BLANK)  # fmt: skip
COMPARED = {"computed": (UNEQUAL, EQUAL), "set": (OTHER, SAME)}
COLUMNS = ["document", "table", "row", "column", "unit", "paper", "ours", "low", "high", "n",
           "source", "status"]  # fmt: skip
WIDEST = {"%": 5.0, "difference of cosines": 0.05}  # largest width of an interval
METHOD = ("stage1", "stage2", "training", "model", "data", "detector", "evaluation", "rehearsal")
SPLITS = {"05_zero_shot": ("test",), "06_weakly_supervised": ("train", "test"),
          "07_ablations": ("train", "test")}  # fmt: skip
HOLDS, FAILS, OPEN, UNTESTED = "holds", "fails", "not decided", "not tested here"
Counts = dict[str, dict[str, int]]  # videos by split and label
Read = Callable[[str], Any]  # a benchmark or a CSV, by name


class Ours(NamedTuple):
    """Our number for a cell with its 95% interval (nan if there is none), or what is lacking."""

    value: str | float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: float = np.nan
    lacking: str = ""


def ledger(folder: Path, P: Params, inconsistent: Collection[str] = ()) -> pd.DataFrame:
    """One row (COLUMNS) per cell of the papers, with our number from the CSVs in ``folder``.

    ``source`` is the CSV of our number; ``inconsistent``: keys of cells that a check refutes.
    """
    read, counts = cache(partial(read_csv, folder)), cache(partial(counts_in_use, P))
    lost, rows = left_out(P), []
    for cell in cells().values():
        ours = _our_number(cell, P, read)
        status = INCONSISTENT if cell.key in inconsistent else _status(cell, ours, P, counts, lost)
        source = "" if ours.lacking or not cell.measure else f"{cell.measure.csv}.csv"
        rows.append((*cell[:6], *ours[:4], source, status))
    return pd.DataFrame(rows, columns=COLUMNS)


def _status(cell: Cell, ours: Ours, P: Params, counts: Read, lost: list[str]) -> str:
    """Status of our number against the printed one, which no check refutes.

    "reproduced" needs all that ``_shortfall`` checks, and the printed number in our 95% interval
    (or, without an interval, equal digits). A measurement with a shortfall shows the direction
    only, and the status names the shortfall.
    """
    if not cell.paper:
        return BLANK
    if ours.lacking or not cell.measure:
        return NOT_RUN + ours.lacking
    same = same_digits(cell.paper, str(ours.value))
    if cell.measure.kind != "measured":
        return COMPARED[cell.measure.kind][same]
    if lacking := _shortfall(cell, ours.high - ours.low, P, counts, lost):
        return f"{DIRECTION}: {lacking}"
    if np.isnan(ours.low):
        return ROUNDING if same else DIFFERS
    return INTERVAL if ours.low <= float(cell.paper) <= ours.high else DIFFERS


def _our_number(cell: Cell, P: Params, read: Read) -> Ours:
    """Our number for a cell, or what is lacking: it is not in this run, or on another data set."""
    if not cell.paper or cell.measure is None:
        return Ours(lacking=cell.otherwise or BLANK)
    measure, where, synthetic = cell.measure, cell.where, P.data.world == "miniworld"
    domain = load()["synthetic"].get(measure.on, "") if synthetic else measure.on
    on_benchmark = domain == P.benchmark.title
    if measure.on and not on_benchmark and "{domain}" not in "".join(where.values()):
        return Ours(lacking=f"needs a run on {measure.on}")
    allowed = load()["backbones"].get(cell.document, [])
    if measure.kind == "measured" and not synthetic and P.model.backbone not in allowed:
        return Ours(lacking=f"needs a run with {' or '.join(allowed)}")
    where = {name: text.replace("{domain}", domain) for name, text in where.items()}
    table = read(measure.csv)
    if table is None:
        return Ours(lacking=f"needs notebook {measure.notebook}")
    row = find_row(table, measure.csv, where)
    if row is None or not row[measure.value]:
        needs = f"needs {measure.on}" if measure.on and synthetic else "not in this run"
        return Ours(lacking=f"{needs} ({_words(where)})")
    texts = (row.get(name) or "" for name in (measure.value, "low", "high", "n", "seed_sd"))
    ours, low, high, n, spread = (np.nan if number(x) is None else float(x) for x in texts)
    if np.isnan(low) and not np.isnan(spread):  # mean +- 2 sd over seeds instead
        low, high = ours - 2 * spread, ours + 2 * spread
    return Ours(row[measure.value] if np.isnan(ours) else ours, low, high, n)


def _shortfall(cell: Cell, width: float, P: Params, counts: Read, lost: list[str]) -> str:
    """The first requirement of a reproduction that our number for the cell misses; "" if none.

    In this order: real data; the paper's backbone with OpenAI's weights; the published schedule and
    protocol; full lists (by the published counts) of which nothing is ``lost``; VAGTA's published
    annotations; an interval of a ``width`` (nan: none) of at most WIDEST for the unit, or 5% of
    the printed number.
    """
    if P.data.world == "miniworld":
        return "synthetic data"
    if P.model.backbone not in load()["backbones"][cell.document] or P.model.pretrained != "openai":
        return "needs the paper's backbone and OpenAI's weights"
    if changed := _changed_parameters(P):
        return f"needs the published protocol ({', '.join(changed)})"
    for split in SPLITS.get(cell.measure.notebook, ()):
        on = cell.measure.on.lower().replace("-", "_") or P.detector.benchmark
        ours, published = counts(on).get(split), load_benchmark(on).counts.get(split)
        if ours != published:
            count = "none" if ours is None else sum(ours.values())
            return f"needs the full {split} list, {sum(published.values())} videos, has {count}"
    if lost:
        return f"needs every clip and feature, {len(lost)} were left out, first {lost[0]}"
    if cell.document.startswith("Alert-CLIP") and not _published_annotations(P):
        names = DataParams().annotations_train, DataParams().hard_negatives_train
        return f"needs VAGTA's published annotations ({' and '.join(names)})"
    widest = WIDEST.get(cell.unit, abs(float(cell.paper)) / 20)
    return f"needs an interval of at most {widest:g}, has {width:.3g}" if width > widest else ""


def left_out(P: Params) -> list[str]:
    """Clips and feature files that this run, its ablations or its models' training left out.

    Read from videos/*.csv and, for trainings, from the clips that they started with.
    """
    lost: dict[str, None] = {}
    ablations = [*P.run_dir.glob("ablations/*"), *P.run_dir.glob("ablations/*/seed*")]
    for place in (P.run_dir, P.tuned_dir, *ablations):
        for file in sorted(place.glob("videos/*.csv")):
            table = read_csv(file.parent, file.stem)
            lost |= dict.fromkeys(table["item"][table["action"] == LEFT_OUT])
        runs = [place / stage / RUN for stage in FOLDERS.values()]
        for run in filter(Path.is_file, runs):
            started = place / "clips" / f"{read_json(run).get('data', '')[:16]}.json"
            lost |= dict.fromkeys(read_json(started)["unreadable"] if started.is_file() else [])
    return list(lost)


def _changed_parameters(P: Params) -> list[str]:
    """Parameters of method and protocol whose values are not the published ones."""
    published, ours, free = from_flat({}).flat(), P.flat(), load()["free_parameters"]
    nested = {name for changes in P.nested().values() for name in changes}
    method = [name for name, (group, _) in FLAT.items() if group in METHOD]
    changed = [name for name in method if ours[name] != published[name]]
    return [name for name in (*changed, *sorted(nested)) if name not in free]


def counts_in_use(P: Params, name: str) -> Counts:
    """Videos by split and label in this run's lists; splits without a list are absent."""
    benchmark, counts = load_benchmark(name), {}
    for split in benchmark.counts:
        with suppress(InputError):  # missing or unreadable
            counts[split] = list_counts(benchmark, P.data_dir, split)
    return counts


def _published_annotations(P: Params) -> bool:
    """Whether VAGTA's training files are present, with as many items as the paper counts."""
    try:
        items = len(read_json(P.data_dir / P.data.hard_negatives_train)["items"])
    except (InputError, KeyError, TypeError):
        return False
    published = value("Alert-CLIP | VAGTA | training clips | count")
    return items == published and (P.data_dir / P.data.annotations_train).is_file()


def read_csv(folder: Path, name: str) -> pd.DataFrame | None:
    """A CSV of the run as text; None if the run has not written it."""
    path = folder / f"{name}.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else None


def find_row(table: pd.DataFrame, name: str, where: dict[str, str]) -> "pd.Series | None":
    """The one row whose columns equal ``where``; None if there is none, InputError if several."""
    if missing := [column for column in where if column not in table]:
        raise InputError(f"{name}.csv has no column {', '.join(missing)}; run its notebook again")
    rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    if len(rows) > 1:
        raise InputError(f"{name}.csv has {len(rows)} rows with {_words(where)}; expected one")
    return rows.iloc[0] if len(rows) else None


def _words(where: dict[str, str]) -> str:
    return ", ".join(f"{name} = {text}" for name, text in where.items())


def claims(book: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The claims of the papers' numbers, each an ordering of two of them, tested by our runs.

    A claim holds if our intervals are disjoint in the paper's order, fails if they are disjoint in
    the other, and is not decided if they overlap. One row per table counts the untested claims.
    Columns document, table, claim, paper, ours (both differences), verdict, source.
    """
    by_key = {tuple(row[k] for k in COLUMNS[:4]): row for row in book.to_dict("records")}
    rows = []
    for table in load()["tables"]:
        place, untested = (table["document"], table["table"]), 0
        for text, sides in _orderings(table):
            # A side that is not a cell is a number: it stands in every column.
            first, second = (by_key.get(side, dict.fromkeys(COLUMNS, side[0])) for side in sides)
            stated = [number(side["paper"]) for side in (first, second)]
            if None in stated or stated[0] == stated[1]:
                continue
            if pd.isna(first["low"]) or pd.isna(second["low"]):
                untested += 1
                continue
            upper, lower = (first, second) if stated[0] > stated[1] else (second, first)
            claim = text.format("above" if upper is first else "below")
            rows.append((*place, claim, float(stated[0] - stated[1]), _change(first, second),
                         _verdict(upper, lower), first["source"]))  # fmt: skip
        if untested:
            rows.append((*place, f"{untested} orderings", np.nan, np.nan, UNTESTED, ""))
    rows += _kept_knowledge(folder)
    columns = ["document", "table", "claim", "paper", "ours", "verdict", "source"]
    return pd.DataFrame(rows, columns=columns)


def _change(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    return float(first["ours"]) - float(second["ours"])


def _verdict(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Whether first is above second: by disjoint intervals, else not decided."""
    if float(first["low"]) > float(second["high"]):
        return HOLDS
    return FAILS if float(first["high"]) < float(second["low"]) else OPEN


def _orderings(table: dict[str, Any]) -> Iterator[tuple[str, list[tuple]]]:
    """Text and two sides (keys of cells, or a number) of every comparison in a table."""
    rows, columns = table["rows"], table["columns"]
    baseline, place = table.get("baseline", ""), (table["document"], table["table"])
    labels = columns if baseline in columns else rows
    pairs = [(name, baseline) for name in labels if baseline and name != baseline]
    for first, second in pairs + list(table.get("compare", [])):
        for other in columns if first in rows else rows:
            sides = [(*place, *((label, other) if label in rows else (other, label)))
                     if label in rows or label in columns else (label,)
                     for label in (first, second)]  # fmt: skip
            yield f"{first} {{}} {second}: {other}", sides


def _kept_knowledge(folder: Path) -> Iterator[tuple]:
    """Claim per task of retention.csv: Full is not below CLIP (stated for ImageNet and COCO)."""
    table = read_csv(folder, "retention")
    measured = [] if table is None else table[table["value"] != ""].groupby("setting", sort=False)
    for setting, part in measured:
        models = part.replace("", np.nan).rename(columns={"value": "ours"}).set_index("model")
        if {"Full", "CLIP"} <= {*models.index}:
            full, clip = models.loc["Full"], models.loc["CLIP"]
            claim = "Alert-CLIP", "", f"general knowledge is kept: {setting}"
            yield *claim, np.nan, _change(full, clip), _verdict(full, clip), "retention.csv"
