"""The clips and tables of the notebooks that show the method by hand."""

from pathlib import Path

import numpy as np
import pandas as pd

from alertclip.records import Item, Keyframe, Region
from companion import examples, quickstart, result_tables
from companion.profiles import load_params
from media.files import read_json, sha256_file
from media.video import probe

BOX = (0.1, 0.2, 0.3, 0.4)


def test_pairs_are_twins_of_one_seed_easiest_first(tmp_path: Path) -> None:
    hard = {"Normal/n1": 0.5, "Normal/n2": 0.5, "Normal/n3": 0.5, "Fire/f3": 0.9, "Fire/f2": 0.2,
            "Robbery/r1": 0.1, "Robbery/r2": 0.5}  # fmt: skip
    track, world = (Keyframe(1, BOX),), tmp_path / "clips.csv"
    unboxed = [name for name in hard if name.startswith("N") or name.endswith("r2")]
    items = [Item(n, "", (Region("", () if n in unboxed else track),)) for n in hard]
    rows = [{"video": n, "seed": int(n[-1]), "distance": d} for n, d in hard.items()]
    pd.DataFrame(rows).assign(night=0.0, occlusion=0.0).to_csv(world, index=False)
    twins, any_normal = (examples.pairs_of(items, path) for path in (world, tmp_path / "no"))
    assert [(a.video[-2:], b.video[-2:]) for a, b in twins] == [("n1", "r1"), ("n2", "f2")]
    assert [(a.video[-2:], b.video[-2:]) for a, b in any_normal] == [("n1", "f3"), ("n2", "r1")]


def test_boxes_are_drawn_only_where_the_mask_is_true() -> None:
    boxes, mask = np.tile(np.float32(BOX), (3, 1)), np.array([False, True, False])
    sample = {"frames": np.zeros((3, 4, 4, 3), np.uint8), "global_caption": "c", "label": 1,
              "regions": [(boxes, mask, "r", [])]}  # fmt: skip
    frames, table = examples.frames_and_boxes([sample])
    assert frames.shape == (1, 3, 4, 4, 3)
    assert table["x1"].notna().tolist() == [False, True, False]
    np.testing.assert_allclose(table.loc[1, ["x1", "y1", "x2", "y2"]].astype(float), BOX, 1e-6)


def test_sentences_read_the_interval() -> None:
    rows = [pd.Series({"value": v, "low": v - 1, "high": v + 1}) for v in (2.0, -2.0, 0.5)]
    words = ["above zero", "below zero", "not distinguishable from zero"]
    assert [result_tables.side(row) for row in rows] == words
    assert result_tables.with_interval(rows[1]) == "-2.0 [-3.0, -1.0]"


def test_a_bare_clone_scores_the_shipped_video_with_the_shipped_model():
    P = load_params("mini", {"profile": "never-run"})
    card = read_json(quickstart.SHIPPED / "miniclip" / "card.json")
    for name, digest in card["sha256"].items():
        assert sha256_file(quickstart.SHIPPED / "miniclip" / name) == digest
    model, line = quickstart.best_model(P)
    assert line.endswith(quickstart.SHIPPED_OF)
    curve, ((start, end),) = quickstart.score_example(P, model)
    inside = curve.table["time_s"].between(start, end)
    scores = curve.table["score"].groupby(inside).mean()
    assert scores[True] > scores[False]


def test_an_event_without_box_and_times_is_shown_in_the_middle_of_its_clip(tmp_path, monkeypatch):
    monkeypatch.setattr("companion.profiles.ROOT", tmp_path)  # of the cache
    [video] = quickstart.SHIPPED.rglob("*.mp4")
    P = load_params("mini", {"world": "vagta", "data_root": str(video.parents[1])})
    name, regions = f"{video.parent.name}/{video.name}", (Region(""),)
    items = [Item(name, "", regions, times) for times in (None, (1, 2))]
    titles = [examples.box_examples(P, [i], 1, 0)[1]["title"][0].split(", ")[1] for i in items]
    assert titles == [f"{probe(video).duration / 2:.1f} s", "1.5 s"]
