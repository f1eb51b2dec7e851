"""A single-file HTML report of a run: ledger, claims, checks, figures, times, parameters."""

import base64
import platform
from importlib.metadata import version
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.files import atomic_write, read_json
from companion import workflow
from companion.figures.catalogue import CATALOGUE
from companion.ledger import NOT_RUN, STATUSES
from companion.machine import surroundings
from companion.paper_numbers import load
from companion.profiles import Params, from_flat
from companion.stage_runs import resolve_device
from companion.tuned_models import provenance

TEMPLATE = Path(__file__).with_name("report.html.jinja")
PACKAGES = ("alertclip", "torchvision", "peft", "transformers", "numpy", "scipy", "pandas",
            "scikit-learn", "torchmetrics", "matplotlib", "av", "snakemake")  # fmt: skip


def write_report(P: Params, book: pd.DataFrame, claims: pd.DataFrame, checks: pd.DataFrame) -> Path:
    """Write runs/<profile>/report.html; needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["table"] = html_table
    shown = book[["row", "column", "unit", "paper", "ours", "low", "high", "n", "status"]]
    places = book.groupby(["document", "table"], sort=False).groups
    defaults = from_flat({"profile": P.profile}).flat()
    machine = surroundings(resolve_device(P)) | {"system": platform.platform()}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        profile=P.profile,
        synthetic=P.data.world == "miniworld",
        source=provenance(P),
        documents=load()["documents"],
        statuses=status_counts(book).T.reset_index(),
        claims=claims,
        checks=checks.drop(columns="refutes"),
        tables=[(*place, shown.loc[rows]) for place, rows in places.items()],
        figures=embedded_figures(P.run_dir / "figures"),
        times=notebook_times(P.run_dir),
        machine=as_table(machine | {name: version(name) for name in PACKAGES}),
        settings=as_table(P.flat()).assign(default=[defaults[name] for name in P.flat()]),
    )
    path = P.run_dir / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def status_counts(book: pd.DataFrame) -> pd.DataFrame:
    """Numbers by document (rows) and status (columns), "not run" in one."""
    status = book["status"].where(~book["status"].str.startswith(NOT_RUN), "not run")
    counts = pd.crosstab(book["document"], status)
    return counts.reindex(index=book["document"].unique(), columns=STATUSES, fill_value=0)


def status_items(book: pd.DataFrame) -> pd.DataFrame:
    """The same as a tidy table for its figure: columns class_name (status), split, items."""
    counts = status_counts(book).T.rename_axis("class_name")
    counts = counts[counts.sum(axis=1) > 0]
    return counts.melt(ignore_index=False, var_name="split", value_name="items").reset_index()


def embedded_figures(folder: Path) -> list[tuple[str, str]]:
    """Name and data URI of every PNG of the run, in reading order; InputError if there is none."""
    order = {name: i for i, name in enumerate(CATALOGUE)}
    paths = sorted(folder.glob("*.png"), key=lambda p: (order.get(p.stem, len(order)), p.stem))
    if not paths:
        raise InputError(f"{folder}: no figures yet; run the other notebooks first")
    encoded = (base64.b64encode(path.read_bytes()).decode() for path in paths)
    return [(p.stem, f"data:image/png;base64,{c}") for p, c in zip(paths, encoded, strict=True)]


def notebook_times(run_dir: Path) -> pd.DataFrame:
    """Notebook and seconds of its last complete execution, in running order."""
    files = {book.name: run_dir / "timings" / f"{book.name}.json" for book in workflow.NOTEBOOKS}
    found = {name: sum(read_json(path)) for name, path in files.items() if path.is_file()}
    return as_table(found | {"all": sum(found.values())}, "seconds")


def as_table(values: dict, column: str = "value") -> pd.DataFrame:
    """Columns name and value."""
    return pd.DataFrame(values.items(), columns=["name", column])


def html_table(table: pd.DataFrame) -> str:
    """A table as escaped HTML: numbers in at most four digits, nothing for nan."""
    return table.map(shown).to_html(index=False, border=0)


def shown(value: object) -> object:
    """A number in at most four digits, whole numbers in full; text as it is; nothing for nan."""
    if not isinstance(value, float | int | np.number) or isinstance(value, bool):
        return value
    if np.isnan(value):
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
