"""What each notebook depends on (params/facts/notebooks.yaml); the Snakefile makes rules of it.

A rule's outputs are the executed notebook and its page. Worlds, caches, features and checkpoints
are not outputs: Snakemake deletes outputs before it runs a rule, but these are reused by content.
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
        """Groups and fields of Params that the notebook reads."""
        names = list(self.params)
        while shorthands := [name for name in names if name in KNOWN["groups"]]:
            at = names.index(shorthands[0])
            names[at : at + 1] = KNOWN["groups"][shorthands[0]]
        return names


NOTEBOOKS = tuple(Notebook(name, **row) for name, row in KNOWN["notebooks"].items())


def runnable(P: Params) -> tuple[Notebook, ...]:
    """The notebooks that a profile can run: not all from released features."""
    return tuple(book for book in NOTEBOOKS if book.features or not P.features)


def priority(book: Notebook) -> int:
    """Snakemake's priority: larger starts earlier."""
    return -KNOWN["order"].index(book.name)


def threads(book: Notebook, P: Params, cores: int) -> int:
    """Cores for a notebook: all, or its share where the profile runs several at once."""
    return cores if book.alone else max(1, cores // P.notebooks_at_once)


def selected(P: Params, names: Sequence[str]) -> dict[str, Any]:
    """Values of the groups and fields in ``names`` ("stage1", "evaluation.prompts"), as data."""
    values = {name: attrgetter(name)(P) for name in names}
    return {k: v.model_dump() if isinstance(v, Group) else v for k, v in values.items()}


def input_files(book: Notebook, P: Params) -> list[Path]:
    """Files outside runs/ that decide a notebook's result: code, prompts, weights, annotations."""
    files = [book.path, PAPER_RESULTS, ROOT / P.evaluation.prompts, *sorted(FACTS.glob("*.yaml"))]
    files += [file for pattern in book.files for file in sorted(ROOT.glob(pattern))]
    for package in (*CORE, *book.packages):
        files += sorted((ROOT / "lib" / package).rglob("*.py"))
    files += sorted((WEIGHTS / P.model.backbone).glob("*.*"))
    if P.data.world == "vagta":
        files += [P.data_dir / v for k, v in P.data if k.startswith(("annotations", "hard")) and v]
        if "detector" in book.fields:
            files += P.benchmark.files(P.data_dir)
    return [file for file in dict.fromkeys(files) if file.is_file()]
