"""Figures by name: drawn again from their CSVs alone."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from alertclip.errors import InputError
from companion.figures.__main__ import main
from companion.figures.catalogue import CATALOGUE, FRAMES, redraw
from companion.profiles import ROOT

COMMITTED = ROOT / "figures"


@pytest.mark.parametrize("name", ["stage1_mss", "zero_shot_snippet"])
def test_a_committed_figure_comes_back(tmp_path, name):
    """All but the last digits, which a CSV does not keep; and always the same bytes."""
    for folder in (tmp_path, tmp_path / "again"):
        redraw(name, COMMITTED, folder)
    drawn, committed = (imread(folder / f"{name}.png") for folder in (tmp_path, COMMITTED))
    assert drawn.shape == committed.shape and np.abs(drawn - committed).mean() < 1e-3
    again = tmp_path / "again" / f"{name}.png"
    assert again.read_bytes() == (tmp_path / f"{name}.png").read_bytes()


def test_every_committed_figure_has_a_name():
    names = {path.stem for path in COMMITTED.glob("*.png")}
    assert names <= {*CATALOGUE, *FRAMES}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stage1_mms", "no such figure; did you mean stage1_mss"),
        ("quickstart", "shows frames or texts of its run: run notebook 00_quickstart"),
        ("stage1_mss", "no such table; run the notebook"),
    ],
)
def test_what_cannot_be_drawn_says_why(tmp_path, name, message, capsys):
    with pytest.raises(InputError, match=re.escape(message)):
        redraw(name, tmp_path)
    assert main([name, "--folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_command_draws_beside_the_table(tmp_path, capsys):
    table = pd.DataFrame({"class_name": ["Fire"], "split": ["train"], "items": [3]})
    table.to_csv(tmp_path / "items_per_class.csv", index=False)
    assert main(["items_per_class", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "items_per_class.png")
    assert (tmp_path / "items_per_class.png").stat().st_size > 10_000


def test_titles_are_those_of_the_notebooks():
    """Titles that a notebook still states must not differ from the catalogue's."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        book = nbformat.read(path, as_version=4)
        code = "\n".join(c.source for c in book.cells if c.cell_type == "code")
        shown = re.findall(r'figures\.\w+\(\s*\w+, "([^"]+)"[^\n]*\)[,\s]+"(\w+)"', code)
        for title, name in shown:
            drawn = CATALOGUE.get(name)
            assert drawn is None or getattr(drawn, "keywords", {}).get("title") == title
