"""One self-contained HTML page of a run, to be mailed: ledger, claims, figures, machine, settings.

Every sentence about a result is computed from the tables. The page needs no other file and no
network.
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
from companion import workflow
from companion.efficiency.machine import surroundings
from companion.figures.catalogue import CATALOGUE
from companion.ledger import claims as verdicts
from companion.ledger import join
from companion.ledger.paper_results import PaperResults
from companion.profiles import Params, from_flat
from companion.stage_runs import resolve_device
from companion.tuned_models import provenance

TEMPLATE = Path(__file__).with_name("report.html.jinja")
PACKAGES = (
    *("alertclip", "torchvision", "peft", "transformers", "numpy", "scipy", "pandas"),
    *("scikit-learn", "torchmetrics", "matplotlib", "av", "snakemake"),
)
COLOURS = {
    join.INTERVAL: "good",
    join.ROUNDING: "good",
    join.DIFFERS: "bad",
    join.DIRECTION: "seen",
    join.EQUAL: "good",
    join.UNEQUAL: "bad",
    join.SAME: "set",
    join.OTHER: "other",
    join.INCONSISTENT: "wrong",
    join.BLANK: "blank",
    verdicts.HOLDS: "good",
    verdicts.FAILS: "bad",
    verdicts.OPEN: "seen",
    "contradicted": "wrong",
    "doubtful": "seen",
}


def write_report(
    P: Params,
    results: PaperResults,
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
        documents=results.documents,
        statuses=status_counts(book),
        tested=_records(claims[claims["verdict"] != verdicts.UNTESTED]),
        untested=untested(claims),
        checks=_records(checks),
        tables=[table_view(results, book, t.document, t.table) for t in results.tables],
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


def status_counts(book: pd.DataFrame) -> pd.DataFrame:
    """Numbers by document and status, "not run" in one: rows documents, columns statuses."""
    status = book["status"].where(~book["status"].str.startswith(join.NOT_RUN), "not run")
    counts = pd.crosstab(book["document"], status)
    return counts.reindex(index=book["document"].unique(), columns=join.STATUSES, fill_value=0)


def status_items(book: pd.DataFrame) -> pd.DataFrame:
    """The same as a tidy table for its figure: columns class_name (status), split, items."""
    counts = status_counts(book).T.melt(ignore_index=False, var_name="split", value_name="items")
    counts = counts.rename_axis("class_name").reset_index()
    return counts[counts.groupby("class_name")["items"].transform("sum") > 0]


def untested(claims: pd.DataFrame) -> list[dict[str, Any]]:
    """Claims that cannot be tested here, counted by table and reason."""
    rows = claims[claims["verdict"] == verdicts.UNTESTED]
    keys = ["document", "table", "reason"]
    return _records(rows.groupby(keys, sort=False).size().rename("claims").reset_index())


def table_view(
    results: PaperResults, book: pd.DataFrame, document: str, name: str
) -> dict[str, Any]:
    """A paper's table as the page shows it: its own rows and columns, ours inside the cells."""
    table = next(t for t in results.tables if (t.document, t.table) == (document, name))
    rows = _records(book[(book["document"] == document) & (book["table"] == name)])
    width = len(table.columns)
    missing = [r["status"] for r in rows if r["status"].startswith(join.NOT_RUN)]
    reasons = [status.partition(" (")[0] for status in missing]  # without the row of the CSV
    return {
        "table": table,
        "rows": [rows[i : i + width] for i in range(0, len(rows), width)],
        "reasons": {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)},
        "measured": sum(bool(r["hash"]) for r in rows),
        "wrong": sum(r["status"] == join.INCONSISTENT for r in rows),
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
