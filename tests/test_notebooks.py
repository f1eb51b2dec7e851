"""Rules every committed notebook keeps, and the execution of throw-away ones."""

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from companion import execution, workflow
from companion.profiles import PROFILES, ROOT, Params
from media.errors import InputError

BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FORBIDDEN = {
    "a class": r"^\s*class ",
    "plotting code": r"\bplt\.|import matplotlib|import seaborn",
    "sys.path": r"sys\.path",
    "an installation": r"^\s*[!%]\s*(?:pip|conda|uv)\b",
    "a training loop": r"for \w*(?:epoch|step)\w* in",
    "an absolute path": r"""["'](?:/\w|[A-Z]:\\|~/)""",
    "silenced warnings": r"filterwarnings",
}


def code(path: Path) -> str:
    """The source of a notebook's code cells."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def test_workflow_lists_exactly_the_notebooks() -> None:
    assert {b.stem for b in BOOKS} == {b.name for b in workflow.NOTEBOOKS}


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_a_notebook_keeps_the_rules(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    assert book.metadata.kernelspec.name == "python3"
    cells = [c for c in book.cells if c.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert [c for c in cells if "parameters" in c.metadata.get("tags", [])] == cells[:1]
    statements = ast.parse(cells[0].source).body
    assert [s.targets[0].id for s in statements] == ["profile", "overrides"]
    for statement in statements:
        ast.literal_eval(statement.value)
        assert statement.lineno == statement.end_lineno  # papermill misreads longer ones
    kinds = [c.cell_type for c in book.cells]
    assert kinds[0] == "markdown" and book.cells[0].source.startswith("# ")
    assert kinds.count("markdown") >= kinds.count("code") - 2  # parameters and imports
    assert max(len(c.source.splitlines()) for c in cells) <= 20
    prose = "\n".join(c.source for c in book.cells if c.cell_type == "markdown")
    figures = re.findall(r"\(\.\./(figures/[\w.]+)\)", prose)
    assert [name for name in figures if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("book", workflow.NOTEBOOKS, ids=lambda book: book.name)
def test_nothing_forbidden_and_the_parameters_it_reads_are_declared(book) -> None:
    source = code(book.path)
    assert not [what for what, rule in FORBIDDEN.items() if re.search(rule, source, re.M)]
    for group, field in re.findall(r"\bP\.(\w+)\.(\w+)", source):
        if group in Params.model_fields:
            assert {group, f"{group}.{field}"} & set(book.fields)


def test_page_draws_formulas_alone_and_leaves_reference_figures_out() -> None:
    text = "Seen `$x$`: $v_t$.\n\n$$\\frac{a}{b}$$\n\n![reference](../figures/stage1_mss.png)"
    page = execution.html_page(new_notebook(cells=[new_markdown_cell(text)]), "book")
    assert page.count("<math") == 2 and "<mfrac>" in page and "<code>$x$</code>" in page
    assert "Seen" in page and "<title>book</title>" in page and 'alt="reference"' not in page


def write_notebook(path: Path, body: str) -> Path:
    head = new_code_cell("profile = 'mini'\noverrides = {}", metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Title"), head, new_code_cell(body)]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


BARS = """import sys
print(overrides, sys.executable)
for done in range(3):
    print(f"\\r{done} of 2", end="", file=sys.stderr, flush=True)"""


def test_execute_injects_parameters_and_keeps_the_last_state_of_a_bar(
    tmp_path: Path, capfd
) -> None:
    book = write_notebook(tmp_path / "book.ipynb", BARS)
    out = execution.execute(book, tmp_path / "run/book.ipynb", {"overrides": {"seed": 7}})
    outputs = json.loads(out.read_text())["cells"][-1]["outputs"]
    streams = {output["name"]: "".join(output["text"]) for output in outputs}
    assert streams["stdout"].split("} ") == ["{'seed': 7", f"{sys.executable}\n"]
    assert streams["stderr"] == "2 of 2"
    assert "<html" in out.with_suffix(".html").read_text()
    assert {p.name for p in out.parent.iterdir()} == {"book.ipynb", "book.html", "timings"}
    shown = capfd.readouterr().err
    assert "1 of 2" in shown and "book: 100%" in shown


def test_a_failed_notebook_is_kept_apart(tmp_path: Path) -> None:
    book = write_notebook(tmp_path / "book.ipynb", "print('before')\n1 / 0")
    out = tmp_path / "run/book.ipynb"
    with pytest.raises(InputError, match=r"In \[2\] failed with ZeroDivisionError"):
        execution.execute(book, out, {}, line=0)
    assert not out.exists() and not out.with_suffix(".html").exists()
    assert "before" in out.with_suffix(".failed.ipynb").read_text()


def test_a_first_run_says_how_long_it_takes() -> None:
    times = yaml.safe_load((PROFILES / "typical_times.yaml").read_text())
    assert all(set(seconds) == {b.name for b in workflow.NOTEBOOKS} for seconds in times.values())
    bar = execution._bar(ROOT / "elsewhere/mini/03_stage1_global.ipynb")
    assert bar["postfix"] == f"about {times['mini']['03_stage1_global']} s in all"
