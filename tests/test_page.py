"""The HTML pages of executed notebooks, and the reference figures that notebooks show."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from companion.page import html_page
from companion.profiles import ROOT

BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_page_shows_the_runs_own_figure_instead_of_the_reference(tmp_path: Path) -> None:
    (tmp_path / "stage1_mss.png").touch()
    names = ("stage1_mss", "stage2_mss")
    text = "\n\n".join(f"![reference](../figures/{name}.png)" for name in names)
    page = html_page(new_notebook(cells=[new_markdown_cell(text)]), "book", tmp_path)
    assert page.count('alt="reference"') == 1 and 'src="data:image/png;base64' in page


def test_every_page_is_made_by_this_module() -> None:
    files = [p for p in (ROOT / "lib").rglob("*.py") if "HTMLExporter(" in p.read_text("utf-8")]
    assert [p.name for p in files] == ["page.py"]


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_reference_figures_are_there(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    named = re.findall(r"\(\.\./(figures/[\w.]+)\)", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []
