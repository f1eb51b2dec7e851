"""Tables and figures of notebook 11: the ledger, figures, times, versions and parameters."""

import platform
from html import escape
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Image
from nbformat import read

from companion import execution, latency, ledger, stage_runs, workflow
from companion.figures.catalogue import CATALOGUE
from companion.profiles import Params, from_flat
from companion.result_tables import digits
from detectors.benchmarks import load_benchmark
from detectors.training_protocol import DetectorParams, detector_settings
from media.files import read_json

SHOWN = ["row", "column", "unit", "paper", "ours", "low", "high", "n", "status"]
COUNTED = ("ucf_crime", "xd_violence", "shanghaitech", "ubnormal", "msad")
PACKAGES = ("alertclip", "torchvision", "peft", "transformers", "numpy", "scipy", "pandas",
            "scikit-learn", "torchmetrics", "matplotlib", "av", "snakemake")  # fmt: skip


def status_items(book: pd.DataFrame) -> pd.DataFrame:
    """Count of cells: columns class_name (status without reason), split (document), items."""
    status = book["status"].str.partition(": ")[0]
    counts = pd.crosstab(status, book["document"])[book["document"].unique()]
    counts = counts.reindex([name for name in ledger.STATUSES if name in counts.index])
    counts = counts.rename_axis("class_name")
    return counts.melt(ignore_index=False, var_name="split", value_name="items").reset_index()


def whole(table: pd.DataFrame) -> HTML:
    """A table with all rows and untruncated texts; nan is blank."""
    return HTML(table.to_html(index=False, na_rep="", float_format=digits))


def folded(book: pd.DataFrame) -> HTML:
    """The whole ledger, each of the papers' tables in a collapsed section."""
    folds = []
    for place, rows in book.groupby(["document", "table"], sort=False):
        summary = f"<summary>{escape(', '.join(place))}: {len(rows)} cells</summary>"
        folds.append(f"<details>{summary}{whole(rows[SHOWN]).data}</details>")
    return HTML("".join(folds))


def pictures(folder: Path) -> list[Image]:
    """Every PNG of the run, in reading order."""
    order = {name: i for i, name in enumerate(CATALOGUE)}
    paths = sorted(folder.glob("*.png"), key=lambda p: (order.get(p.stem, len(order)), p.stem))
    return [Image(filename=str(path)) for path in paths]


def notebook_times(P: Params) -> pd.DataFrame:
    """Columns name, seconds (of the last complete execution) and left_out, in running order.

    left_out: number of cells that the run leaves out, or "all", and what they need.
    """
    rows, lacking = [], execution.lacking_data(P)
    for book in workflow.NOTEBOOKS:
        path = P.run_dir / "timings" / f"{book.name}.json"
        seconds = sum(read_json(path)) if path.is_file() else None
        tags = [lacking.keys() & c.metadata.get("tags", ()) for c in read(book.path, 4).cells]
        needs = dict.fromkeys(lacking[tag] for tag in lacking if tag in set().union(*tags))
        left_out = f"{sum(map(bool, tags))} cells: {', '.join(needs)}" if needs else ""
        if book not in workflow.runnable(P):
            left_out = f"all: {lacking['needs-videos']}"
        rows.append((book.name, seconds, left_out))
    table = pd.DataFrame(rows, columns=["name", "seconds", "left_out"])
    table.loc[len(table)] = "all", table["seconds"].sum(), ""
    return table


def environment(P: Params) -> pd.DataFrame:
    """The machine and the versions of packages: columns name, value."""
    facts = latency.surroundings(stage_runs.resolve_device(P)) | {"system": platform.platform()}
    facts |= {name: version(name) for name in PACKAGES}
    return pd.DataFrame(facts.items(), columns=["name", "value"])


def parameters(P: Params) -> pd.DataFrame:
    """Columns name, value, default (the paper's value, or ours where the paper gives none)."""
    defaults = from_flat({"profile": P.profile}).flat()
    rows = [(name, value, defaults[name]) for name, value in P.flat().items()]
    return pd.DataFrame(rows, columns=["name", "value", "default"])


def settings_table(P: Params) -> pd.DataFrame:
    """Columns name, value: the run's parameters, the detectors' presets, the benchmarks' counts.

    Presets are the published ones of the run's variant (official code or paper), before the
    profile's changes. Counts are of the lists in use, "" where a list is missing.
    """
    values = {name: v for name, v in P.flat().items() if not isinstance(v, dict)}
    for stage in ("stage1", "stage2"):
        if steps := values[f"{stage}_steps"]:
            values[f"{stage}_epochs"] = f"{steps} steps"  # they override the epochs
    groups = {}
    for name in ("ucf", "xd"):
        published = DetectorParams(vadclip_preset=name, variant=P.detector.variant)
        preset = groups[f"vadclip.{name}"] = detector_settings("vadclip", published).model_dump()
        preset["context_tokens"] = preset["prefix"] + preset["postfix"]
    for name in ("ucf", "xd", "sht"):
        published = DetectorParams(anomalyclip_preset=name, variant=P.detector.variant)
        preset = detector_settings("anomalyclip", published).model_dump()
        groups[f"anomalyclip.{name}"] = preset
        preset["videos_per_batch"] = 2 * preset["batch_size"]
        preset["masked_per_cent"] = round(100 * (1 - preset["keep_probability"]), 6)
        preset["warmup_per_cent"] = 100 * preset["warmup_epochs"] / preset["epochs"]
    names = ("learning_rate", "batch_size", "hidden", "epochs")
    groups["temporal_classifier"] = {name: getattr(P.qa, name) for name in names} | {"seed": P.seed}
    for name in COUNTED:
        published, ours = load_benchmark(name).counts, ledger.counts_in_use(P, name)
        counts = benchmark_counts(name, ours) if ours.keys() == published.keys() else {}
        groups[name] = dict.fromkeys(benchmark_counts(name, published), "") | counts
    values |= {f"{group}.{k}": v for group, items in groups.items() for k, v in items.items()}
    return pd.DataFrame(values.items(), columns=["name", "value"])


def benchmark_counts(name: str, counts: ledger.Counts | None = None) -> dict[str, int]:
    """Number of videos by split and label, by split, and in all; number of abnormal classes.

    ``counts``: videos by split and label; None: the published ones.
    """
    benchmark = load_benchmark(name)
    counts = benchmark.counts if counts is None else counts
    numbers = {f"{split}.{k}": n for split, labels in counts.items() for k, n in labels.items()}
    videos = sum(numbers.values())
    numbers |= {split: sum(labels.values()) for split, labels in counts.items()}
    return numbers | {"videos": videos, "classes": len(benchmark.abnormal_classes)}
