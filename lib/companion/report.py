"""A single-file HTML report of a run: ledger, claims, figures, times, machine, settings.

Every sentence about a result is computed from the tables.
"""

import base64
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.files import atomic_write, read_json
from companion import ledger, workflow
from companion.figures.catalogue import CATALOGUE
from companion.machine import surroundings
from companion.paper_numbers import PaperNumbers
from companion.profiles import Params, from_flat
from companion.stage_runs import resolve_device
from companion.tuned_models import provenance

TEMPLATE = Path(__file__).with_name("report.html.jinja")
PACKAGES = (
    *("alertclip", "torchvision", "peft", "transformers", "numpy", "scipy", "pandas"),
    *("scikit-learn", "torchmetrics", "matplotlib", "av", "snakemake"),
)
COLOURS = {
    ledger.INTERVAL: "good",
    ledger.ROUNDING: "good",
    ledger.DIFFERS: "bad",
    ledger.DIRECTION: "seen",
    ledger.EQUAL: "good",
    ledger.UNEQUAL: "bad",
    ledger.SAME: "set",
    ledger.OTHER: "other",
    ledger.INCONSISTENT: "wrong",
    ledger.BLANK: "blank",
    ledger.HOLDS: "good",
    ledger.FAILS: "bad",
    ledger.OPEN: "seen",
    "contradicted": "wrong",
    "doubtful": "seen",
}


def write_report(
    P: Params,
    numbers: PaperNumbers,
    book: pd.DataFrame,
    claims: pd.DataFrame,
    checks: pd.DataFrame,
) -> Path:
    """Write runs/<profile>/report.html from the ledger, the claims and the checks of a run."""
    path = P.run_dir / "report.html"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure"] = shown
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        P=P,
        source=provenance(P),
        synthetic=P.data.world == "miniworld",
        documents=numbers.documents,
        statuses=ledger.status_counts(book),
        tested=_records(claims),
        untested=claims.attrs["untested"],
        checks=_records(checks),
        tables=[table_view(numbers, book, t.document, t.table) for t in numbers.tables],
        figures=list(embedded_figures(P.run_dir / "figures")),
        times=list(notebook_times(P.run_dir)),
        machine=machine(P),
        versions={name: version(name) for name in PACKAGES},
        settings=settings(P),
        colours=COLOURS,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def table_view(
    numbers: PaperNumbers, book: pd.DataFrame, document: str, name: str
) -> dict[str, Any]:
    """A paper's table as the page shows it: its own rows and columns, ours inside the cells."""
    table = next(t for t in numbers.tables if (t.document, t.table) == (document, name))
    rows = _records(book[(book["document"] == document) & (book["table"] == name)])
    width = len(table.columns)
    missing = [r["status"] for r in rows if r["status"].startswith(ledger.NOT_RUN)]
    reasons = [status.partition(" (")[0] for status in missing]  # without the row of the CSV
    return {
        "table": table,
        "rows": [rows[i : i + width] for i in range(0, len(rows), width)],
        "reasons": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
        "measured": sum(bool(r["hash"]) for r in rows),
        "wrong": sum(r["status"] == ledger.INCONSISTENT for r in rows),
        "numbers": sum(bool(r["paper"]) for r in rows),
    }


def embedded_figures(folder: Path) -> Iterator[dict[str, str]]:
    """Name and data URI of every PNG of the run, in reading order; InputError if there is none."""
    order = {name: i for i, name in enumerate(CATALOGUE)}
    paths = sorted(folder.glob("*.png"), key=lambda p: (order.get(p.stem, len(order)), p.stem))
    if not paths:
        raise InputError(f"{folder}: no figures yet; run the other notebooks first")
    for path in paths:
        data = base64.b64encode(path.read_bytes()).decode()
        yield {"name": path.stem, "uri": f"data:image/png;base64,{data}"}


def notebook_times(run_dir: Path) -> Iterator[tuple[str, float]]:
    """Notebook and seconds of its last complete execution, in running order."""
    for book in workflow.NOTEBOOKS:
        path = run_dir / "timings" / f"{book.name}.json"
        if path.is_file():
            yield book.name, float(sum(read_json(path)))


def machine(P: Params) -> dict[str, object]:
    """The machine that wrote the page."""
    return surroundings(resolve_device(P)) | {"system": platform.platform()}


def settings(P: Params) -> list[tuple[str, object, object]]:
    """Every parameter: name, value, and the default (the paper's) where it differs."""
    defaults = from_flat({"profile": P.profile}).flat()
    return [(k, v, "" if v == defaults[k] else defaults[k]) for k, v in P.flat().items()]


def shown(value: Any) -> str:
    """A number in at most four digits, whole numbers in full; text as it is; nothing for nan."""
    if isinstance(value, str):
        return value
    if value is None or np.isnan(value):
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")
