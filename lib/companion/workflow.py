"""The notebooks as a table: what each one reads. The Snakefile makes a rule of every row.

A rule's outputs are the executed notebook and its HTML page. Worlds, caches, features and
checkpoints are not outputs: Snakemake deletes outputs before it runs a rule, and these are reused
by content.
"""

from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from alertclip.hyperparameters import Group
from companion.profiles import ABLATIONS, BENCHMARKS, FIGURES, PAPER_RESULTS, PROFILES, ROOT, Params
from detectors.benchmarks import load_benchmark

FOLDER = ROOT / "notebooks"
WEIGHTS = ROOT / "lib/miniworld/weights"
BASE = ("seed", "device", "data", "world", "model", "rehearsal",
        "evaluation.batch_size", "evaluation.bootstrap_samples", "evaluation.prompts")  # fmt: skip
TRAINING = (*BASE, "training", "stage1")
DETECTION = (*BASE, "features", "detector", "evaluation.precision")
ON_FEATURES = ("05_zero_shot", "06_weakly_supervised")
DOMAINS = ("evaluation.transfer", "evaluation.open_vocabulary_changes",
           "evaluation.retention_imagenet", "evaluation.retention_coco")  # fmt: skip
CORE = ("alertclip", "companion", "detectors", "miniworld")


@dataclass(frozen=True)
class Notebook:
    """A notebook and what decides its result."""

    name: str
    needs: tuple[str, ...] = ()  # notebooks whose results it reads
    params: tuple[str, ...] = BASE  # groups and fields of Params that it reads
    packages: tuple[str, ...] = ()  # of lib/, beside CORE, that it imports, directly or not
    files: tuple[Path, ...] = (PAPER_RESULTS,)  # others that it reads
    alone: bool = False  # on all cores: the others wait for it, or it measures times

    @property
    def path(self) -> Path:
        """The committed notebook."""
        return FOLDER / f"{self.name}.ipynb"


FIRST, TUNED = ("01_data_filtering",), ("04_stage2_joint",)
TABLES = (PAPER_RESULTS, BENCHMARKS)
NOTEBOOKS = (
    Notebook("00_quickstart", (), (*BASE, "video"),
             files=(PAPER_RESULTS, *sorted((WEIGHTS.parent / "example").rglob("*.*")))),
    Notebook("01_data_filtering", packages=("curation",), alone=True),
    Notebook("02_mss_diagnosis", FIRST),
    Notebook("03_stage1_global", FIRST, TRAINING, alone=True),
    Notebook("04_stage2_joint", ("03_stage1_global",), (*TRAINING, "stage2"), ("curation",),
             alone=True,
             files=(PAPER_RESULTS, *(ROOT / "figures" / f"{n}.csv"
                                     for n in ("learning_curves", "losses_test")))),
    Notebook("05_zero_shot", TUNED, (*DETECTION, *DOMAINS), files=TABLES),
    Notebook("06_weakly_supervised", TUNED, DETECTION, files=TABLES),
    Notebook("07_ablations", TUNED, (*DETECTION, "training", "stage1", "stage2", "ablation"),
             ("curation",), (ABLATIONS, BENCHMARKS, ROOT / "figures/ablations_reference.csv")),
    Notebook("08_attention_failures", TUNED, (*BASE, "failure")),
    Notebook("09_efficiency", (), (*TRAINING, "stage2"), alone=True),
    Notebook("10_anomaly_qa", ("06_weakly_supervised",), (*DETECTION, "qa"),
             ("curation", "vagpt"), TABLES),
)  # fmt: skip
NOTEBOOKS += (
    Notebook("11_report", tuple(book.name for book in NOTEBOOKS), BASE,
             ("curation", "vagpt"), tuple(sorted(PROFILES.glob("*.yaml")))),
)  # fmt: skip


def runnable(P: Params) -> tuple[Notebook, ...]:
    """The notebooks that a profile can run: on released features two, which then need no other."""
    return tuple(book for book in NOTEBOOKS if not P.features or book.name in ON_FEATURES)


def upstream(book: Notebook) -> set[str]:
    """Names of the notebooks that run before it, directly or not."""
    direct = [b for b in NOTEBOOKS if b.name in book.needs]
    return set(book.needs).union(*(upstream(b) for b in direct))


def priority(book: Notebook) -> int:
    """Larger = started earlier: what most others wait for, then the last first.

    So 05 finds the features that 06 extracts, and a long one is not left over at the end. 00 needs
    nothing and comes first: a page to read while the others run.
    """
    if book is NOTEBOOKS[0]:
        return len(NOTEBOOKS) ** 2
    waiting = sum(book.name in upstream(other) for other in NOTEBOOKS)
    return waiting * len(NOTEBOOKS) + NOTEBOOKS.index(book)


def threads(book: Notebook, P: Params, cores: int) -> int:
    """Cores of a notebook: all, or its share where the profile runs several at once."""
    return cores if book.alone else max(1, cores // P.notebooks_at_once)


def selected(P: Params, names: tuple[str, ...]) -> dict[str, Any]:
    """The groups and fields of ``names`` ("stage1", "evaluation.prompts"), as plain values."""
    found = {name: attrgetter(name)(P) for name in names}
    return {k: v.model_dump() if isinstance(v, Group) else v for k, v in found.items()}


def input_files(book: Notebook, P: Params) -> list[Path]:
    """Files outside runs/ that decide a notebook's result: code, prompts, weights, annotations."""
    packages = [ROOT / "lib" / name for name in (*CORE, *book.packages)]
    found = [book.path, *book.files, ROOT / P.evaluation.prompts, FIGURES]
    found += [file for folder in packages for file in sorted(folder.rglob("*.py"))]
    found += sorted((WEIGHTS / P.model.backbone).glob("*.*"))
    if P.data.world == "vagta":
        found += [P.data_dir / v for k, v in P.data if k.startswith(("annotations", "hard")) and v]
    if P.data.world == "vagta" and "detector" in book.params:
        found += load_benchmark(P.detector.benchmark).files(P.data_dir)
    return [file for file in found if file.is_file()]
