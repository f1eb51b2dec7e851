"""Execute one notebook with its parameters, and know what each notebook depends on.

The Snakefile calls ``python -m companion.workflow 03_stage1_global mini [name=value ...]``. The
executed copy appears under ``runs/<profile>/`` only when it is complete; a failed one is kept
beside it as ``NN_name.failed.ipynb``.
"""

import ast
import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from alertclip.errors import InputError
from alertclip.files import atomic_write, read_json, sha256_file, sha256_json, write_json
from companion.announce import ENGINE, Announcer
from companion.profiles import (
    ABLATIONS,
    BENCHMARKS,
    PAPER_RESULTS,
    ROOT,
    Params,
    load_params,
    parse_overrides,
)
from detectors.benchmarks import load_benchmark

FOLDER = ROOT / "notebooks"
TRAINING = ("stage", "from_scratch", "loss_", "lora_", "temporal_", "region_", "negatives")
TRAINING += ("checkpointing", "compile")
DETECTION = ("benchmark", "transfer", "open_vocabulary_", "detector_", "snippet_", "frame_stride")
DETECTION += ("vadclip_", "anomalyclip_", "retention_", "evaluation_precision")
SHOWN = ("video", "ablation_", "failure_", "qa_")  # each decides one notebook after training
OTHERS = (*SHOWN, *DETECTION)  # parameters that no notebook before 05 reads


class NotebookError(InputError):
    """A cell raised; the message names the notebook, the cell and the saved copy."""


@dataclass(frozen=True)
class Notebook:
    """One row of the workflow: what a notebook reads and writes under ``runs/<profile>/``."""

    name: str
    needs: tuple[str, ...] = ()  # notebooks whose artefacts it reads
    ignores: tuple[str, ...] = ()  # prefixes of parameters that cannot change its result
    writes: tuple[str, ...] = ()  # folders without which it must run again
    alone: bool = False  # takes every core: most others wait for it, or it measures times

    @property
    def path(self) -> Path:
        """The committed notebook."""
        return FOLDER / f"{self.name}.ipynb"


# In running order: 00 scores a video with the model that 04 exports.
NOTEBOOKS = (
    Notebook("01_data_filtering", ignores=(*TRAINING, *OTHERS), alone=True),
    Notebook("02_mss_diagnosis", ("01_data_filtering",), (*TRAINING, *OTHERS)),
    Notebook(
        "03_stage1_global",
        ("01_data_filtering",),
        ("stage2_", "loss_", *OTHERS),
        ("stage1",),
        alone=True,
    ),
    Notebook("04_stage2_joint", ("03_stage1_global",), OTHERS, ("stage2", "export"), alone=True),
    Notebook("05_zero_shot", ("04_stage2_joint",), (*SHOWN, "anomalyclip_", "frame_stride")),
    Notebook(
        "06_weakly_supervised",
        ("04_stage2_joint",),
        (*SHOWN, "transfer", "open_vocabulary_", "retention_"),
    ),
    Notebook(
        "07_ablations",
        ("04_stage2_joint",),
        ("video", "failure_", "qa_", "transfer", "open_vocabulary_", "retention_"),
    ),
    Notebook(
        "08_attention_failures", ("04_stage2_joint",), ("video", "ablation_", "qa_", *DETECTION)
    ),
    Notebook("09_efficiency", (), OTHERS, alone=True),
    Notebook(
        "10_anomaly_qa",
        ("06_weakly_supervised",),
        ("video", "ablation_", "failure_", "transfer", "open_vocabulary_", "retention_"),
    ),
    Notebook("00_quickstart", ("04_stage2_joint",), ("ablation_", "failure_", "qa_", *DETECTION)),
)
NOTEBOOKS += (Notebook("11_report", tuple(book.name for book in NOTEBOOKS)),)


def threads(book: Notebook, params: Params, cores: int) -> int:
    """Cores of a notebook: all, or its share where the profile runs several at once."""
    return cores if book.alone else max(1, cores // params.notebooks_at_once)


def upstream(book: Notebook) -> set[str]:
    """Names of the notebooks it needs, directly or not."""
    direct = [b for b in NOTEBOOKS if b.name in book.needs]
    return set(book.needs).union(*(upstream(b) for b in direct))


def priority(book: Notebook) -> int:
    """Larger = started earlier: what most others wait for, then the last first.

    So 05 finds the features that 06 extracts, and a long one is not left over at the end.
    """
    waiting = sum(book.name in upstream(other) for other in NOTEBOOKS)
    return waiting * len(NOTEBOOKS) + NOTEBOOKS.index(book)


def inputs(book: Notebook, params: Params) -> dict[str, str]:
    """Everything outside ``runs/`` that decides a notebook's result: name -> value or SHA-256.

    Parameters (less those it ignores), the notebook, the library modules it imports directly or
    not, the prompts, shipped weights and published annotations. File names are relative.
    """
    skip = (*book.ignores, "workers", "notebooks_at_once")
    settings = {k: v for k, v in params.flat().items() if not k.startswith(skip)}
    files = [book.path, *imported_files(_code(book.path)), ROOT / params.evaluation.prompts]
    files += [PAPER_RESULTS, BENCHMARKS, ABLATIONS]
    files += sorted(p for p in (ROOT / "lib/miniworld/weights").rglob("*") if p.is_file())
    if params.data.world == "vagta":
        names = (v for k, v in settings.items() if k.startswith(("annotations_", "hard_")) and v)
        files += [params.data_dir / name for name in names]
        if "benchmark" in settings:
            files += load_benchmark(params.detector.benchmark).files(params.data_dir)
    hashes = {os.path.relpath(f, ROOT): sha256_file(f) for f in files if f.is_file()}
    return {k: str(v) for k, v in settings.items()} | hashes


def imported_files(code: str) -> list[Path]:
    """Files of the ``alertclip`` modules that ``code`` imports, directly or through each other."""
    found: dict[Path, None] = {}
    queue = [code]
    while queue:
        for module in _alertclip_imports(queue.pop()):
            for file in _module_files(module):
                if file not in found:
                    found[file] = None
                    queue.append(file.read_text(encoding="utf-8"))
    return sorted(found)


def _alertclip_imports(code: str) -> Iterable[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "alertclip")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "alertclip":
            # "from alertclip.data import boxes" may name a module or an attribute: offer both.
            yield from (f"{node.module}.{a.name}" for a in node.names)


def _module_files(module: str) -> Iterable[Path]:
    folder = ROOT / "lib"
    for part in module.split("."):
        folder = folder / part
        yield from (f for f in (folder.with_suffix(".py"), folder / "__init__.py") if f.is_file())


def _code(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"notebooks/{path.name}: missing; restore it with git checkout notebooks")
    cells = nbformat.read(path, as_version=4).cells
    lines = "\n".join(c.source for c in cells if c.cell_type == "code").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def execute(
    notebook: Path, out: Path, parameters: dict[str, Any], record: dict[str, Any] | None = None
) -> Path:
    """Run ``notebook`` with ``parameters`` into ``out`` (.ipynb) and ``out`` as HTML.

    ``record`` is kept in the executed copy's metadata under ``alertclip``. Raises InputError for
    a parameter the notebook does not have, NotebookError when a cell fails.
    """
    _check_parameters(notebook, parameters)
    partial, timings = out.with_suffix(".partial.ipynb"), out.parent / f"timings/{out.stem}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook), str(partial), parameters, engine_name=ENGINE, progress_bar=False,
            kernel_name="python3", cwd=str(notebook.parent), stderr_file=sys.stderr,
            announce=Announcer(out.stem, read_json(timings) if timings.exists() else []),
        )  # fmt: skip
    except PapermillExecutionError as error:
        failed = out.with_suffix(".failed.ipynb")
        os.replace(partial, failed)
        raise NotebookError(
            f"{out.stem}: In [{error.exec_count}] failed with {error.ename}: {error.evalue}\n"
            f"  its output is in {os.path.relpath(failed)}"
        ) from None
    book = nbformat.read(partial, as_version=4)
    book.metadata["alertclip"] = record or {}
    write_json(timings, [c.metadata.get("papermill", {}).get("duration") or 0 for c in book.cells])
    with atomic_write(out.with_suffix(".html")) as temporary:
        temporary.write_text(_html(book, notebook), encoding="utf-8")
    with atomic_write(out) as temporary:
        nbformat.write(book, temporary)
    partial.unlink()
    out.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    return out


def _check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    if not any("parameters" in c.metadata.get("tags", []) for c in cells):
        raise InputError(
            f"{notebook.name}: no cell is tagged 'parameters'; tag its first code cell"
        )
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:  # papermill itself only warns
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise InputError(f"{notebook.name}: no parameter {name}; {hint}")


def _html(book: nbformat.NotebookNode, notebook: Path) -> str:
    exporter = HTMLExporter(embed_images=True, exclude_input_prompt=True)
    resources = {"metadata": {"name": notebook.stem, "path": str(notebook.parent)}}
    return exporter.from_notebook_node(book, resources)[0]


def recorded(book: Notebook, run_dir: Path) -> dict[str, Any]:
    """What the last complete execution recorded: {"inputs": ..., "needs": ...}, or empty."""
    out = run_dir / f"{book.name}.ipynb"
    if not out.exists() or not out.with_suffix(".html").exists():
        return {}
    return read_json(out).get("metadata", {}).get("alertclip", {})


def record_of(book: Notebook, params: Params) -> dict[str, Any]:
    """What an execution started now would record: its inputs, and a hash of what it builds on."""
    needs = {
        b.name: sha256_json(recorded(b, params.run_dir)) for b in NOTEBOOKS if b.name in book.needs
    }
    return {"inputs": inputs(book, params), "needs": needs}


def main(arguments: Sequence[str] | None = None) -> int:
    """NAME PROFILE [name=value ...]: execute one notebook into its run folder."""
    name, profile, *pairs = sys.argv[1:] if arguments is None else arguments
    try:
        book = next(b for b in NOTEBOOKS if b.name == name)
        overrides = parse_overrides(pairs)
        params = load_params(profile, overrides)
        out = params.run_dir / f"{name}.ipynb"
        values = {"profile": profile, "overrides": overrides}
        execute(book.path, out, values, record_of(book, params))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # run_all.sh says what it means
    return 0


if __name__ == "__main__":
    sys.exit(main())
