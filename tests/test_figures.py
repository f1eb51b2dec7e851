"""Every figure draws from a fixture table, keeps its text inside and at 9 pt, and repeats."""

import io

import matplotlib
import matplotlib.image as plt_image
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from alertclip.errors import InputError
from companion import figures

CLASSES = ["all", "Fighting", "Robbery", "People_falling", "Normal"]
MODELS = ["untuned", "Stage I", "Stage II"]


def scene(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    frame = np.full((height, width, 3), 90, np.uint8)
    frame[height // 2 :] = (120, 110, 90)
    x = int(rng.integers(10, width - 25))
    frame[height // 3 : height - 10, x : x + 12] = rng.integers(60, 255, 3)
    return frame


def overview() -> figures.Figure:
    rows = [
        (c, s, 3 ** (i + k))
        for i, c in enumerate(CLASSES[1:] + ["Water_incident"])
        for k, s in enumerate(["train", "test"])
    ]
    return figures.dataset_overview(pd.DataFrame(rows, columns=["class_name", "split", "items"]))


def boxes() -> figures.Figure:
    rows = [
        (0, "Fighting001 at 3.2 s", 0.2, 0.3, 0.6, 0.9, "Two men fight beside a red car", 1),
        (1, "Normal012 at 1.0 s", 0.02, 0.02, 0.98, 0.98, "People walk along the pavement", 0),
        (2, "Fire004 at 5.0 s", 0.5, 0.1, 0.9, 0.5, "A bin burns", 1),
        (2, "Fire004 at 5.0 s", 0.1, 0.4, 0.3, 0.9, "A man runs away", 1),
    ]
    names = ["frame", "title", "x1", "y1", "x2", "y2", "caption", "label"]
    return figures.boxes_on_frames([scene(i) for i in range(3)], pd.DataFrame(rows, columns=names))


def matrix() -> figures.Figure:
    names = [
        "people going about their day",
        "an ordinary day on the street",
        "people fighting each other",
        "a dangerous fire burning out of control",
    ]
    rows = [(a, b, 1.0 if a == b else 0.68 + 0.03 * i) for i, a in enumerate(names) for b in names]
    return figures.prompt_similarity_matrix(pd.DataFrame(rows, columns=["row", "column", "cosine"]))


def gap() -> figures.Figure:
    table = pd.DataFrame(
        {
            "key": ["Fighting001_x264", "Robbery012_x264", "Normal_Videos_003_x264"],
            "class_name": ["Fighting", "Robbery", "Normal"],
            "normal": [0.21, 0.25, 0.24],
            "abnormal": [0.23, 0.22, 0.2],
        }
    )
    return figures.similarity_gap(table.assign(gap=table["abnormal"] - table["normal"]))


def mss() -> figures.Figure:
    rows = [
        (
            m,
            c,
            v := -0.05 + 0.06 * j + 0.005 * i,
            v - 0.02,
            v + 0.02,
            400 if c == "all" else 50,
            -0.0564 if (m, c) == ("untuned", "all") else np.nan,
        )
        for j, m in enumerate(MODELS)
        for i, c in enumerate(CLASSES)
    ]
    names = ["model", "class_name", "mss", "low", "high", "n", "paper"]
    return figures.mss_per_class(pd.DataFrame(rows, columns=names))


def losses() -> figures.Figure:
    steps = np.arange(100)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(3, 100))
    rows = [
        (s, term, (3 - k) * np.exp(-s / 40) + 0.5 + noise[k, s])
        for k, term in enumerate(["global", "region", "hard negative"])
        for s in steps
    ]
    return figures.loss_curves(pd.DataFrame(rows, columns=["step", "term", "value"]))


def umap() -> figures.Figure:
    rng = np.random.default_rng(0)
    rows = [
        (p, *(rng.normal(size=2) + shift * (g == "abnormal")), g)
        for p, shift in (("before", 0.2), ("after", 4))
        for g in ("normal", "abnormal")
        for _ in range(60)
    ]
    table = pd.DataFrame(rows, columns=["panel", "x", "y", "group"])
    return figures.projection_panels(table, "Clip embeddings", "One point per clip; UMAP, cosine.")


def curve() -> figures.Figure:
    time = np.arange(0, 8, 0.125)
    table = pd.DataFrame({"time_s": time, "score": 0.1 + 0.7 * ((time > 3) & (time < 6))})
    yy, xx = np.mgrid[:6, :8]
    attention = [np.exp(-((xx - 2 * i) ** 2 + (yy - 3) ** 2) / 4) for i in range(4)]
    captions = [
        "people going about their day",
        "people fighting each other",
        "a person falling and getting hurt",
        "an ordinary day on the street",
    ]
    return figures.anomaly_curve(
        table,
        [scene(i) for i in range(4)],
        [0.5, 3.4, 5.1, 7.2],
        attention,
        [(3.2, 6.1)],
        "Fighting001_x264",
        "MiniCLIP, untuned; score held between samples.",
        captions,
    )


def auc() -> figures.Figure:
    rows = [
        (s, m, v := 60 + 12 * j - 3 * i, v - 3, v + 3, 400, 88.02 if (i, j) == (0, 0) else None)
        for i, s in enumerate(["video AUC", "frame AUC", "in-clip frame AUC"])
        for j, m in enumerate(MODELS)
    ]
    names = ["setting", "model", "value", "low", "high", "n", "paper"]
    return figures.auc_comparison(pd.DataFrame(rows, columns=names))


def grid() -> figures.Figure:
    table = pd.DataFrame({"title": [f"clip {i}, score .{i}2, a long title" for i in range(6)]})
    return figures.frames_grid([scene(i) for i in range(6)], table, title="Best and worst clips")


DRAW = {f.__name__: f for f in (overview, boxes, matrix, gap, mss, losses, umap, curve, auc, grid)}


@pytest.mark.parametrize("name", DRAW)
def test_figure_is_legible_and_nothing_is_cut(name):
    image = plt_image.imread(io.BytesIO(DRAW[name]()._repr_png_()))[..., :3]
    edges = [image[0], image[-1], image[:, 0], image[:, -1]]
    assert all((edge == 1).all() for edge in edges), "something touches the border"
    texts = [t for t in DRAW[name]().findobj(Text) if t.get_text().strip() and t.get_visible()]
    assert texts and min(t.get_fontsize() for t in texts) >= 9


def test_save_writes_png_and_csv_with_the_same_bytes(tmp_path):
    table = pd.DataFrame({"a": [1, 2], "b": [0.1, 1 / 3]})
    for folder in ("one", "two"):
        figures.save(gap(), "fig1", table, tmp_path / folder)
    for name in ("fig1.png", "fig1.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["fig1.csv", "fig1.png"]


def test_style_ignores_the_callers_settings_and_leaves_them():
    with matplotlib.rc_context({"font.size": 5, "xtick.labelsize": 4}):
        figure = gap()
        assert matplotlib.rcParams["font.size"] == 5
    assert all(label.get_fontsize() == 9 for label in figure.axes[0].get_xticklabels())


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="MSS per class: the table has no column low, high"):
        figures.mss_per_class(pd.DataFrame({"model": [], "class_name": [], "mss": [], "n": []}))
