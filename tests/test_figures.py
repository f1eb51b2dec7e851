"""Every figure draws, keeps its text inside and at 9 pt, repeats, and comes back from its CSV."""

import inspect
import io
import pkgutil
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.image import imread
from matplotlib.text import Text
from test_notebooks import code

from companion import figures
from companion.figures import catalogue
from companion.figures.catalogue import CATALOGUE, main, publish
from companion.profiles import ROOT

COMMITTED = ROOT / "figures"
REAL = {"profile": "paper", "data": "vagta"}
SYNTHETIC = {"profile": "mini", "data": "synthetic"}


def scene(seed: int) -> np.ndarray:
    frame = np.full((60, 80, 3), 90, np.uint8)
    frame[20:50, 10 + seed : 22 + seed] = [200, 40 * seed, 60]
    return frame


def boxes() -> figures.Figure:
    row = {"title": "Fighting001 at 3.2 s", "caption": "Two men fight beside a long red car"}
    table = pd.DataFrame([row | {"frame": i, "label": i % 2} for i in (0, 1, 1)])
    table[["x1", "y1", "x2", "y2"]] = 0.1, 0.3, 0.6, 0.9
    return figures.boxes_on_frames([scene(i) for i in range(3)], table)


def removed() -> figures.Figure:
    row = {"class_name": "People_falling", "score": 27, "kind": "blurred"}
    table = pd.DataFrame([row | {"reason": "quality: blur 0.7; class"}] * 5)
    return figures.removed_gallery([scene(i) for i in range(5)], table)


def grid() -> figures.Figure:
    cell = {"frame": scene(0), "title": "Blur\nsigma (px)", "boxes": [[0.25, 0.0, 0.75, 0.5]]}
    shown = {"frame": scene(0), "attention": np.eye(3), "title": "score 0.1"}
    return figures.frame_grid([[cell, cell], [shown, {}]], "Maps", rows=["frame", "Full"])


def gaps() -> figures.Figure:
    keys = ["UCF/Videos/Fighting/Fighting001_x264.mp4#0-8", "MSAD/Fire_003.mp4"]
    values = {"gap": [0.02, -0.02], "normal": [0.2, 0.25], "abnormal": [0.22, 0.23]}
    table = pd.DataFrame({"key": keys, "class_name": ["Fighting", "Fire"]} | values)
    return catalogue.draw("similarity_gap", table)


def committed(name: str):
    return lambda: catalogue.draw(name, pd.read_csv(COMMITTED / f"{name}.csv"))


NAMES = ["items_per_class", "screening_scores", "screening_recovery", "negatives_violations",
         "prompt_similarity", "stage1_losses", "stage1_mss", "stage1_umap", "stage2_zero_shot",
         "ablation_live", "vadclip_curves", "failure_margin", "flops", "latency",
         "qa_interval_curves", "qa_accuracy_by_share"]  # fmt: skip
DRAW = {f.__name__: f for f in (boxes, removed, grid, gaps)} | {n: committed(n) for n in NAMES}


@pytest.mark.parametrize("name", DRAW)
def test_figure_is_legible_and_nothing_is_cut(name):
    figure = DRAW[name]()
    image = imread(io.BytesIO(figure._repr_png_()))[..., :3]
    edges = [image[0], image[-1], image[:, 0], image[:, -1]]
    assert all((edge == 1).all() for edge in edges), "something touches the border"
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    assert texts and min(t.get_fontsize() for t in texts) >= 9


def points(figure: figures.Figure) -> list[list[float]]:
    """Positions of the marks: the models', then the paper's."""
    marks = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    return [c.get_offsets()[:, 0].tolist() for c in marks]


@pytest.mark.parametrize(("source", "shown"), [(REAL, True), (SYNTHETIC, False), ({}, False)])
def test_the_papers_numbers_are_drawn_on_real_data_alone(tmp_path, source, shown):
    """The mark of a class is at its value, even if a skewed bootstrap interval excludes it."""
    table = pd.DataFrame({"model": "CLIP", "class_name": ["all", "Fire"], "mss": [0.02, -0.5]})
    table = table.assign(low=0.01, high=0.04, n=25, paper=[0.17, np.nan])
    figure = publish("stage1_mss", table, tmp_path, source)
    assert points(figure) == [[0.02, -0.5], *([[0.17]] if shown else [])]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["all\n(n = 25)", "Fire\n(n = 25)"]
    assert ("the paper's number" in figure.get_supxlabel()) == shown
    assert pd.read_csv(tmp_path / "stage1_mss.csv")["paper"][0] == 0.17  # always in the table


def test_costs_stand_beside_their_floor_and_the_papers_on_a_log_scale():
    row = {"line": "ViT", "unit": "ms", "ours": 9.0, "low": 8.0, "high": 10.0, "n": 7}
    table = pd.DataFrame([row | {"floor": 3.0, "ratio": 3.0, "paper": 213.0}])
    figure = catalogue.draw("latency", table)
    assert points(figure) == [[9.0, 3.0], [213.0]] and figure.axes[0].get_xscale() == "log"


def test_the_line_of_provenance_names_the_data_shown(tmp_path):
    table = pd.DataFrame({"score": [50], "bin": ["40-50"], "decision": ["keep"]})
    line = publish("screening_scores", table, tmp_path, REAL).get_supxlabel()
    assert "profile: paper" in line and "data: synthetic, with planted faults" in line
    assert "vagta" not in line
    [shown] = {entry["data"] for name, entry in CATALOGUE.items() if name.endswith("_reference")}
    assert shown.startswith("synthetic, committed")
    frames = publish("quickstart", table, tmp_path, REAL, grid())
    assert frames.get_supxlabel() == "profile: paper, data: vagta"
    assert (tmp_path / "quickstart.png").is_file()


def test_grid_places_boxes_and_leaves_gaps_and_clips_go_by_short_names():
    figure = grid()
    outline = figure.axes[0].patches[0]
    assert (outline.get_xy(), outline.get_width(), outline.get_height()) == ((20, 0), 40, 30)
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
    assert len(figure.axes[2].images) == 2 and figure.axes[2].get_ylabel() == "Full"
    labels = [label.get_text() for label in gaps().axes[0].get_yticklabels()]
    assert labels == ["Fighting001 (Fighting)", "Fire_003 (Fire)"]


def test_a_committed_figure_comes_back(tmp_path, capsys):
    """Equal but for the last digits, which a CSV does not keep; and always the same bytes."""
    for name in ("stage1_mss.csv", "provenance.json"):
        (tmp_path / name).write_bytes((COMMITTED / name).read_bytes())
    path, contents = tmp_path / "stage1_mss.png", []
    for _ in range(2):
        assert main(["stage1_mss", "--folder", str(tmp_path)]) == 0
        assert capsys.readouterr().out.strip() == str(path)
        contents.append(path.read_bytes())
    drawn, kept = (imread(folder / "stage1_mss.png") for folder in (tmp_path, COMMITTED))
    assert drawn.shape == kept.shape and np.abs(drawn - kept).mean() < 1e-3
    assert contents[0] == contents[1]


def test_every_entry_names_a_function_and_its_parameters():
    for entry in CATALOGUE.values():
        if "draw" in entry:  # else its notebook draws it
            function = pkgutil.resolve_name(f"companion.figures.{entry['draw']}")
            texts = entry.keys() - {"draw", "title", "data", "counted"}
            assert inspect.signature(function).bind(None, **dict.fromkeys(texts)) and entry["title"]


def test_every_figure_of_a_notebook_has_a_name():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        drawn = re.findall(r'tables\.draw\(\s*"(\w+)", [^,]+, P\)', code(path))  # not of frames
        assert {*drawn} <= {*CATALOGUE}, path.name


@pytest.mark.parametrize(("name", "content", "message"), [
    ("stage1_mms", None, "did you mean stage1_mss"),
    ("quickstart", None, "its notebook draws one that shows frames"),
    ("stage1_mss", None, "no such table; run the notebook"),
    ("stage1_mss", "model,class_name,n\nCLIP,all,2\n", "not the table of this figure"),
    ("stage1_mss", "model,class_name,n\n", "the table has no rows"),
])  # fmt: skip
def test_what_cannot_be_drawn_says_why(tmp_path, name, content, message, capsys):
    if content:
        (tmp_path / f"{name}.csv").write_text(content)
    assert main([name, "--folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
