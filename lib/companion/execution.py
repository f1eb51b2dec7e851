"""Execute one notebook into its run folder: ``python -m companion.execution NAME PROFILE``.

The executed copy appears under ``runs/<profile>/`` only when it is complete; a failed one is kept
beside it as ``NN_name.failed.ipynb``. Progress is one bar over the cells.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from alertclip.errors import InputError
from alertclip.files import atomic_write, locked, read_json, write_json
from companion.profiles import TYPICAL_TIMES, load_params, parse_overrides
from companion.workflow import NOTEBOOKS

BAR = "{l_bar}{bar:20}| {n_fmt}/{total_fmt} cells, {elapsed}{postfix}"
QUIET = ["--IPKernelApp.log_level=50"]  # no remarks on ports and shutdown


class NotebookError(InputError):
    """A cell raised; the message names the notebook, the cell and the saved copy."""


def execute(notebook: Path, out: Path, parameters: dict[str, Any], shared: bool = False) -> Path:
    """Run ``notebook`` with ``parameters`` into ``out``, an HTML page beside it; returns ``out``.

    Streams keep the last state of their bars. ``shared``: other notebooks use the terminal too.
    Raises InputError on a parameter the notebook does not have, NotebookError if a cell raises.
    """
    _check_parameters(notebook, parameters)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.ipynb")
    try:
        with ExitStack() as stack:
            bar = _bar(out) | {"position": _line(out.parent, stack) if shared else 0}
            papermill.execute_notebook(
                str(notebook), str(partial), parameters, kernel_name="python3",
                cwd=str(notebook.parent), progress_bar=bar, coalesce_streams=True,
                stderr_file=None if shared else sys.stderr, extra_arguments=QUIET,
            )  # fmt: skip
    except PapermillExecutionError as error:
        failed = out.with_suffix(".failed.ipynb")
        os.replace(partial, failed)
        raise NotebookError(
            f"{out.stem}: In [{error.exec_count}] failed with {error.ename}: {error.evalue}\n"
            f"  its output is in {os.path.relpath(failed)}"
        ) from None
    _keep(nbformat.read(partial, as_version=4), notebook, out)
    partial.unlink()
    return out


def _keep(book: nbformat.NotebookNode, notebook: Path, out: Path) -> None:
    """Write the executed notebook, its page and the seconds of its cells."""
    seconds = [c.metadata.get("papermill", {}).get("duration") or 0 for c in book.cells]
    write_json(_timings(out), seconds)
    exporter = HTMLExporter(embed_images=True, exclude_input_prompt=True)
    resources = {"metadata": {"name": notebook.stem, "path": str(notebook.parent)}}
    with atomic_write(out.with_suffix(".html")) as temporary:
        page = exporter.from_notebook_node(book, resources)[0]
        temporary.write_text(page, encoding="utf-8")
    with atomic_write(out) as temporary:
        nbformat.write(book, temporary)
    out.with_suffix(".failed.ipynb").unlink(missing_ok=True)


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


def _bar(out: Path) -> dict[str, Any]:
    """Options of the bar; the time to expect is the last run's, or the profile's typical one."""
    typical = yaml.safe_load(TYPICAL_TIMES.read_text()).get(out.parent.name, {}).get(out.stem)
    seconds = sum(read_json(_timings(out))) if _timings(out).exists() else typical
    terminal = sys.stderr.isatty()
    options = {"desc": out.stem, "bar_format": BAR, "mininterval": 0.1 if terminal else 10}
    return options | ({"postfix": f"of about {seconds:.0f} s"} if seconds else {})


def _timings(out: Path) -> Path:
    return out.parent / "timings" / f"{out.stem}.json"


def _line(folder: Path, stack: ExitStack) -> int:
    """The first terminal line that no other notebook's bar uses, held until ``stack`` closes."""
    for line in range(99):
        try:
            stack.enter_context(locked(folder / f".line{line}.lock", wait=False))
            return line
        except InputError:
            continue
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """NAME PROFILE [name=value ...]: execute one notebook into its run folder."""
    name, profile, *pairs = sys.argv[1:] if arguments is None else arguments
    try:
        book = next(b for b in NOTEBOOKS if b.name == name)
        overrides = parse_overrides(pairs)
        P = load_params(profile, overrides)
        values = {"profile": profile, "overrides": overrides}
        shared = P.notebooks_at_once > 1 and not book.alone
        execute(book.path, P.run_dir / f"{name}.ipynb", values, shared)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # run_all.sh says what it means
    return 0


if __name__ == "__main__":
    sys.exit(main())
