"""What notebook 11 shows of the whole run: the ledger, figures, times, versions, parameters."""

import platform
from html import escape
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Image

from alertclip.errors import InputError
from alertclip.files import read_json
from companion import workflow
from companion.figures.catalogue import CATALOGUE
from companion.ledger import STATUSES
from companion.machine import surroundings
from companion.profiles import Params, from_flat
from companion.stage_runs import resolve_device

SHOWN = ["row", "column", "unit", "paper", "ours", "low", "high", "n", "status"]
PACKAGES = ("alertclip", "torchvision", "peft", "transformers", "numpy", "scipy", "pandas",
            "scikit-learn", "torchmetrics", "matplotlib", "av", "snakemake")  # fmt: skip


def status_items(book: pd.DataFrame) -> pd.DataFrame:
    """Numbers by status without its reason and document: columns class_name (status), split, items.

    In the order of ``STATUSES``, with every document in each status that occurs.
    """
    status = book["status"].str.partition(": ")[0]
    counts = pd.crosstab(status, book["document"])[book["document"].unique()]
    counts = counts.reindex([name for name in STATUSES if name in counts.index])
    counts = counts.rename_axis("class_name")
    return counts.melt(ignore_index=False, var_name="split", value_name="items").reset_index()


def whole(table: pd.DataFrame) -> HTML:
    """A table with all of its rows: whole numbers in full, others in four digits, no nan."""

    def digits(x: float) -> str:
        return f"{x:,.0f}" if x.is_integer() else f"{x:.4g}"

    return HTML(table.to_html(index=False, na_rep="", float_format=digits))


def folded(book: pd.DataFrame) -> HTML:
    """The whole ledger, each table of the papers in a fold of its own."""
    folds = []
    for place, rows in book.groupby(["document", "table"], sort=False):
        summary = f"<summary>{escape(', '.join(place))}: {len(rows)} cells</summary>"
        folds.append(f"<details>{summary}{whole(rows[SHOWN]).data}</details>")
    return HTML("".join(folds))


def pictures(folder: Path) -> list[Image]:
    """Every PNG of the run, in reading order; InputError if there is none."""
    order = {name: i for i, name in enumerate(CATALOGUE)}
    paths = sorted(folder.glob("*.png"), key=lambda p: (order.get(p.stem, len(order)), p.stem))
    if not paths:
        raise InputError(f"{folder}: no figures yet; run the other notebooks first")
    return [Image(filename=str(path)) for path in paths]


def notebook_times(run_dir: Path) -> pd.DataFrame:
    """Notebook and seconds of its last complete execution, in running order."""
    files = {book.name: run_dir / "timings" / f"{book.name}.json" for book in workflow.NOTEBOOKS}
    found = {name: sum(read_json(path)) for name, path in files.items() if path.is_file()}
    return pd.DataFrame((found | {"all": sum(found.values())}).items(), columns=["name", "seconds"])


def environment(P: Params) -> pd.DataFrame:
    """The machine and the versions of packages: columns name, value."""
    found = surroundings(resolve_device(P)) | {"system": platform.platform()}
    found |= {name: version(name) for name in PACKAGES}
    return pd.DataFrame(found.items(), columns=["name", "value"])


def parameters(P: Params) -> pd.DataFrame:
    """Columns name, value, default: the paper's value, or ours where the paper gives none."""
    defaults = from_flat({"profile": P.profile}).flat()
    rows = [(name, value, defaults[name]) for name, value in P.flat().items()]
    return pd.DataFrame(rows, columns=["name", "value", "default"])
