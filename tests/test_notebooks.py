"""Rules every committed notebook keeps, and the execution of throw-away ones."""

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from alertclip.errors import InputError
from companion import workflow
from companion.profiles import ROOT

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


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_workflow_lists_exactly_the_notebooks() -> None:
    assert {b.stem for b in BOOKS} == {b.name for b in workflow.NOTEBOOKS}


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
class TestStructure:
    def test_no_outputs(self, path: Path) -> None:
        for cell in code_cells(path):
            assert cell.outputs == [] and cell.execution_count is None

    def test_parameters_are_literals_in_the_first_code_cell(self, path: Path) -> None:
        cells = code_cells(path)
        tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        assert tagged == cells[:1]
        for statement in ast.parse(cells[0].source).body:
            assert isinstance(statement, ast.Assign)
            ast.literal_eval(statement.value)
            assert statement.lineno == statement.end_lineno  # papermill misreads longer ones
        names = [s.targets[0].id for s in ast.parse(cells[0].source).body]
        assert names == ["profile", "overrides"]

    def test_thin(self, path: Path) -> None:
        book = nbformat.read(path, as_version=4)
        kinds = [c.cell_type for c in book.cells]
        assert kinds[0] == "markdown" and book.cells[0].source.startswith("# ")
        assert kinds.count("markdown") >= kinds.count("code")
        assert max(len(c.source.splitlines()) for c in code_cells(path)) <= 20

    def test_nothing_forbidden(self, path: Path) -> None:
        source = "\n".join(c.source for c in code_cells(path))
        found = [what for what, rule in FORBIDDEN.items() if re.search(rule, source, re.M)]
        assert not found

    def test_runs_anywhere(self, path: Path) -> None:
        assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


def write_notebook(path: Path, body: str, tags: tuple[str, ...] = ("parameters",)) -> Path:
    head = new_code_cell("profile = 'mini'\noverrides = {}", metadata={"tags": list(tags)})
    cells = [new_markdown_cell("# Title"), head, new_code_cell(body)]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def test_execute_injects_and_uses_this_python(tmp_path: Path) -> None:
    book = write_notebook(tmp_path / "book.ipynb", "import sys\nprint(overrides, sys.executable)")
    out = workflow.execute(book, tmp_path / "run/book.ipynb", {"overrides": {"seed": 7}}, {"a": 1})
    done = json.loads(out.read_text())
    printed = "".join(done["cells"][-1]["outputs"][0]["text"])
    assert printed.split("} ") == ["{'seed': 7", f"{sys.executable}\n"]
    assert done["metadata"]["alertclip"] == {"a": 1}
    assert "<html" in out.with_suffix(".html").read_text()
    assert {p.name for p in out.parent.iterdir()} == {"book.ipynb", "book.html", "timings"}


def test_failed_notebook_is_kept_apart(tmp_path: Path) -> None:
    book = write_notebook(tmp_path / "book.ipynb", "print('before')\n1 / 0")
    out = tmp_path / "run/book.ipynb"
    with pytest.raises(workflow.NotebookError, match=r"In \[2\] failed with ZeroDivisionError"):
        workflow.execute(book, out, {})
    assert not out.exists() and not out.with_suffix(".html").exists()
    assert "before" in out.with_suffix(".failed.ipynb").read_text()


def test_unknown_parameter_is_refused(tmp_path: Path) -> None:
    book = write_notebook(tmp_path / "book.ipynb", "")
    with pytest.raises(InputError, match="no parameter profil; did you mean profile"):
        workflow.execute(book, tmp_path / "out.ipynb", {"profil": "mini"})
    untagged = write_notebook(tmp_path / "untagged.ipynb", "", tags=())
    with pytest.raises(InputError, match="no cell is tagged"):
        workflow.execute(untagged, tmp_path / "out.ipynb", {})


def test_imported_files_follow_modules() -> None:
    files = {str(f.relative_to(ROOT)) for f in workflow.imported_files("import companion.profiles")}
    assert files == {f"lib/alertclip/{name}.py" for name in ("__init__", "params", "errors")}
