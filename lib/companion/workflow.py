"""What each notebook reads (params/facts/notebooks.yaml). The Snakefile makes rules of them.

A rule's outputs are the executed notebook and its page. Worlds, caches, features and checkpoints
are none: Snakemake deletes outputs before it runs a rule, and these are reused by content.
"""

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from alertclip.hyperparameters import Group
from companion.paper_numbers import PAPER_RESULTS
from companion.profiles import FACTS, ROOT, Params

WEIGHTS = ROOT / "lib/miniworld/weights"
CORE = ("media", "alertclip", "companion", "detectors", "miniworld")
KNOWN = yaml.safe_load((FACTS / "notebooks.yaml").read_text(encoding="utf-8"))


class Notebook(NamedTuple):
    """A notebook and what decides its result; see params/facts/notebooks.yaml."""

    name: str
    needs: tuple[str, ...] = ()
    params: tuple[str, ...] = ("BASE",)
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # patterns from the project's root
    alone: bool = False
    features: bool = False

    @property
    def path(self) -> Path:
        """The committed notebook."""
        return ROOT / "notebooks" / f"{self.name}.ipynb"

    @property
    def fields(self) -> list[str]:
        """Groups and fields of Params that it reads."""
        found = list(self.params)
        while named := [name for name in found if name in KNOWN["groups"]]:
            at = found.index(named[0])
            found[at : at + 1] = KNOWN["groups"][named[0]]
        return found


NOTEBOOKS = tuple(Notebook(name, **row) for name, row in KNOWN["notebooks"].items())


def runnable(P: Params) -> tuple[Notebook, ...]:
    """The notebooks that a profile can run: without videos not all."""
    return tuple(book for book in NOTEBOOKS if book.features or not P.features)


def priority(book: Notebook) -> int:
    """Larger = started earlier."""
    return -KNOWN["order"].index(book.name)


def threads(book: Notebook, P: Params, cores: int) -> int:
    """Cores of a notebook: all, or its share where the profile runs several at once."""
    return cores if book.alone else max(1, cores // P.notebooks_at_once)


def selected(P: Params, names: Sequence[str]) -> dict[str, Any]:
    """The groups and fields of ``names`` ("stage1", "evaluation.prompts"), as plain values."""
    found = {name: attrgetter(name)(P) for name in names}
    return {k: v.model_dump() if isinstance(v, Group) else v for k, v in found.items()}


def input_files(book: Notebook, P: Params) -> list[Path]:
    """Files outside runs/ that decide a notebook's result: code, prompts, weights, annotations."""
    found = [book.path, PAPER_RESULTS, ROOT / P.evaluation.prompts, *sorted(FACTS.glob("*.yaml"))]
    found += [file for pattern in book.files for file in sorted(ROOT.glob(pattern))]
    for package in (*CORE, *book.packages):
        found += sorted((ROOT / "lib" / package).rglob("*.py"))
    found += sorted((WEIGHTS / P.model.backbone).glob("*.*"))
    if P.data.world == "vagta":
        found += [P.data_dir / v for k, v in P.data if k.startswith(("annotations", "hard")) and v]
        if "detector" in book.fields:
            found += P.benchmark.files(P.data_dir)
    return [file for file in dict.fromkeys(found) if file.is_file()]
