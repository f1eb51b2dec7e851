"""Execute one notebook into its run folder: ``python -m companion.execution NAME PROFILE``.

The executed copy appears in ``runs/<profile>/`` only once it is complete; a failed one is kept
there as ``NN_name.failed.ipynb``.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from companion.profiles import PROFILES, Params, load_params, parse_overrides
from companion.workflow import NOTEBOOKS
from media.errors import InputError
from media.files import atomic_write, read_json, write_json

BAR = "{l_bar}{bar:20}| {n_fmt}/{total_fmt} cells, {elapsed}{postfix}"
REFERENCE = re.compile(r"!\[[^\]]*\]\(\.\./figures/\w+\.png\)\n*")
FORMULA = re.compile(r"`[^`]*`|(\$\$?)(.+?)\1", re.DOTALL)


def execute(
    notebook: Path,
    out: Path,
    parameters: dict[str, Any],
    line: int | None = None,
    lacking: Mapping[str, str] | None = None,
) -> Path:
    """Execute ``notebook`` with ``parameters`` to ``out``, with an HTML page beside it; return it.

    ``line``: the progress bar's terminal line where several notebooks run at once; the cells' own
    output is then not shown. ``lacking``: see ``left_out``. Progress bars keep their last state.
    InputError if a cell raises, with the notebook, the cell and the failed copy.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.stem}.{os.getpid()}.ipynb")
    try:
        papermill.execute_notebook(
            left_out(notebook, lacking or {}), str(partial), parameters, kernel_name="python3",
            cwd=str(notebook.parent), progress_bar=_bar(out) | {"position": line or 0},
            stderr_file=sys.stderr if line is None else None,
            coalesce_streams=True, extra_arguments=["--IPKernelApp.log_level=50"],
        )  # fmt: skip
    except PapermillExecutionError as error:
        failed = out.with_suffix(".failed.ipynb")
        os.replace(partial, failed)
        raise InputError(
            f"{out.stem}: In [{error.exec_count}] failed with {error.ename}: {error.evalue}\n"
            f"  its output is in {os.path.relpath(failed)}"
        ) from None
    book = nbformat.read(partial, as_version=4)
    seconds = [cell.metadata.get("papermill", {}).get("duration") or 0 for cell in book.cells]
    write_json(_timings(out), seconds)
    with atomic_write(out.with_suffix(".html")) as temporary:
        temporary.write_text(html_page(book, notebook.stem), encoding="utf-8")
    os.replace(partial, out)
    out.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    return out


def left_out(notebook: Path, lacking: Mapping[str, str]) -> nbformat.NotebookNode:
    """The notebook with each cell that has a tag in ``lacking`` replaced by what it needs."""
    book = nbformat.read(notebook, as_version=4)
    for i, cell in enumerate(book.cells):
        if needs := [lacking[tag] for tag in lacking if tag in cell.metadata.get("tags", ())]:
            text = f"*Left out: this needs {', '.join(dict.fromkeys(needs))}.*"
            book.cells[i] = nbformat.v4.new_markdown_cell(text, id=cell.id)
    return book


def lacking_data(P: Params) -> dict[str, str]:
    """What a run lacks, by the tag of the cells that need it: videos, features, text tower."""
    if any(family in P.model.backbone.lower() for family in ("siglip", "blip")):
        tower = dict.fromkeys(("needs-vadclip", "needs-anomalyclip"), "CLIP's own text tower")
        return tower | ({"needs-videos": "videos"} if P.features else {})
    if not P.features:
        return {}
    from companion.extraction import detectors_at_hand  # imports torch: seconds per notebook

    at_hand = detectors_at_hand(P)
    layouts = {"vadclip": "NAME__CROP.npy", "anomalyclip": "NAME.npy"}
    lacking = {f"needs-{d}": f"features as {t}" for d, t in layouts.items() if d not in at_hand}
    if "needs-vadclip" in lacking:  # for cells that use only VadCLIP's features
        lacking["needs-snippets"] = lacking["needs-vadclip"]
    return {"needs-videos": "videos"} | lacking


def html_page(book: nbformat.NotebookNode, name: str) -> str:
    """HTML page of an executed ``book``, without the reference figures that its text shows."""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(_mathml, REFERENCE.sub("", cell.source))
    exporter = HTMLExporter(exclude_input_prompt=True)
    return exporter.from_notebook_node(book, {"metadata": {"name": name}})[0]


def _mathml(match: re.Match[str]) -> str:
    """A formula as MathML, which browsers render without MathJax, so without a network."""
    if not match[1]:  # code
        return match[0]
    return convert(match[2], display="block" if match[1] == "$$" else "inline")


def _bar(out: Path) -> dict[str, Any]:
    """Options of the progress bar, with the time of the last run or the profile's typical one."""
    typical = yaml.safe_load((PROFILES / "typical_times.yaml").read_text())
    seconds = typical.get(out.parent.name, {}).get(out.stem)
    if _timings(out).exists():
        seconds = sum(read_json(_timings(out)))
    options = {"desc": out.stem, "bar_format": BAR}
    options["mininterval"] = 0.1 if sys.stderr.isatty() else 10
    return options | ({"postfix": f"about {seconds:.0f} s in all"} if seconds else {})


def _timings(out: Path) -> Path:
    return out.parent / "timings" / f"{out.stem}.json"


def main() -> int:
    """NAME PROFILE [name=value ...]: execute one notebook into its run folder."""
    name, profile, *pairs = sys.argv[1:]
    try:
        book = next(b for b in NOTEBOOKS if b.name == name)
        overrides = parse_overrides(pairs)
        P = load_params(profile, overrides)
        alone = book.alone or P.notebooks_at_once == 1
        line = None if alone else NOTEBOOKS.index(book) % P.notebooks_at_once
        values = {"profile": profile, "overrides": overrides}
        execute(book.path, P.run_dir / f"{name}.ipynb", values, line, lacking_data(P))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # companion.run explains it
    return 0


if __name__ == "__main__":
    sys.exit(main())
