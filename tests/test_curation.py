"""Screening: measures, copies, class log-odds, the published score, overrides, broken files."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alertclip.embeddings import ClipEmbeddings
from alertclip.records import Item, Keyframe, Region
from companion import screening_tables
from curation import quality, redundancy, screening
from curation.__main__ import main
from media.errors import InputError
from media.video import probe
from miniworld import planted_faults
from miniworld.world import write_video


def moving(seed: int, count: int = 24) -> np.ndarray:
    """A textured scene with a bright square whose speed differs from frame to frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (12, 16, 3), np.uint8)
    scene = np.roll(np.kron(coarse, np.ones((8, 8, 1), np.uint8)), 3, (0, 1))  # off the coding grid
    frames = np.stack([scene] * count)
    for frame, x in zip(frames, np.cumsum(rng.integers(0, 8, count)) % 100, strict=True):
        frame[40:60, x : x + 20] = 255 - seed % 7
    return frames


class TestMeasures:
    def test_levels_by_hand_and_the_worst_measure_decides(self) -> None:
        rising, falling = (1, 2, 3, 4), (4, 3, 2, 1)
        assert [quality.level(v, rising) for v in (0.9, 1, 2.5, 4)] == [1, 2, 3, 5]
        assert [quality.level(v, falling) for v in (4.1, 4, 2.5, 1)] == [1, 2, 3, 5]
        assert quality.level(float("nan"), rising) == 1
        good = {name: thresholds[-1] for name, thresholds in quality.LEVELS.items()}
        assert quality.score_quality(good)[0] == 5
        assert quality.score_quality(good | {"luma": 5.0, "blur": 0.5}) == (1, "luma")

    def test_blur_grows_and_ignores_brightness(self) -> None:
        sharp = np.random.default_rng(0).integers(0, 200, (60, 80)).astype(np.uint8)
        soft = quality.cv2.GaussianBlur(sharp, (0, 0), 4)
        assert quality.blur_effect(sharp) < 0.3 < 0.4 < quality.blur_effect(soft)
        assert quality.blur_effect(sharp + 40) == pytest.approx(quality.blur_effect(sharp))
        streaks = np.tile(sharp[:1], (60, 1))  # smeared along one axis only
        assert quality.blur_effect(streaks) == 1.0
        assert quality.blur_effect(streaks.T) == 1.0

    def test_blockiness_sees_the_grid_only(self) -> None:
        blocks = np.kron(np.random.default_rng(0).integers(0, 255, (6, 6)), np.ones((8, 8)))
        assert quality.blockiness(blocks.astype(np.uint8)) > 50
        assert quality.blockiness(np.roll(blocks, 1, (0, 1)).astype(np.uint8)) < 0.1
        noise = np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8)
        assert quality.blockiness(noise) == pytest.approx(1, abs=0.05)

    def test_standstill_missing_frames_and_sampled_runs_by_hand(self) -> None:
        changes = np.full((10, 2, 2), 5.0)
        changes[[1, 4, 5, 6]] = 0
        changes[6, 1, 1] = 2.0  # one cell moves
        assert quality.longest_standstill(changes) == 0.2
        assert quality.longest_standstill(changes * 0) == 1.0
        assert quality.longest_standstill(changes + 1) == 0.0
        assert quality.missing_share([0, 10, 20, 30]) == 0
        assert quality.missing_share([30, 0, 10]) == 0  # 20 missing, but half of the steps: 15
        assert quality.missing_share([0, 10, 20, 50, 60]) == pytest.approx(2 / 7)
        assert quality.missing_share([]) == 0
        assert quality.frame_numbers(3, 20).tolist() == list(range(3, 20))
        numbers = quality.frame_numbers(100, 10_000)
        assert len(numbers) == 64 and numbers[0] == 100 and numbers[-1] == 9_999
        assert (np.diff(numbers.reshape(8, 8), axis=1) == 1).all()


def prints(clips: list[np.ndarray], content: list[str] | None = None) -> redundancy.Fingerprint:
    grey = [clip.mean(axis=-1).astype(np.uint8) for clip in clips]
    embedding = np.stack([clip[:, ::16, ::16].mean(axis=0).ravel() - 120 for clip in clips])
    return redundancy.Fingerprint(
        content or [str(i) for i in range(len(clips))],
        np.stack([quality.perceptual_hashes(clip) for clip in clips]),
        [quality.cell_changes(g).mean(axis=(1, 2)) for g in grey],
        embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
    )


class TestRedundancy:
    def test_copies_scenes_and_strangers(self) -> None:
        one, other = moving(1), moving(2)
        brighter = np.clip(one * 0.9 + 20, 0, 255).astype(np.uint8)
        assert redundancy.compare(prints([one])).empty
        pairs = redundancy.compare(prints([one, other, brighter]))
        assert {(p.a, p.b): p.kind for p in pairs.itertuples()} == {(0, 2): redundancy.COPY}

    def test_kinds_by_hand(self) -> None:
        rows = {  # worst and mean hash distance, motion, cosine
            "copy": (5, 2, 0.1, 0.1),
            "": (6, 11, 1.0, 0.94),
            "same scene": (6, 10, 1.0, 0.94),
            "copy ": (20, 16, 0.95, 0.95),
            "alike": (20, 17, 0.95, 0.95),
            "likely copy": (20, 16, 0.94, 0.95),
        }
        table = pd.DataFrame(rows.values(), columns=["worst_hash", "hash", "motion", "cosine"])
        none = np.zeros(len(rows), bool)
        assert list(redundancy.kinds(table, none)) == [name.strip() for name in rows]
        assert set(redundancy.kinds(table, ~none)) == {redundancy.EXACT}

    def test_the_better_of_a_chain_stays_and_of_same_bytes_beyond_the_neighbours(self) -> None:
        rows = [(0, 1, redundancy.COPY), (1, 2, redundancy.EXACT), (0, 3, redundancy.SCENE)]
        pairs = pd.DataFrame(rows, columns=["a", "b", "kind"])
        pairs = pairs.assign(hash=1.0, worst_hash=2, motion=1.0, cosine=1.0)
        scored = redundancy.score_redundancy(pairs, np.array([1, 2, 0, 3]))
        assert scored["score"].tolist() == [1, 1, 5, 3]
        assert scored["match"].tolist() == [2, 2, -1, 0]  # 0 is no neighbour of 2 but its copy
        assert scored["kind"].tolist()[1] == redundancy.EXACT
        clips = [moving(i, 12) for i in range(14)]
        fingerprint = prints([*clips, *[clips[0]] * 13], [*map(str, range(14)), *["0"] * 13])
        exact = redundancy.compare(fingerprint).query("kind == @redundancy.EXACT")
        scored = redundancy.score_redundancy(exact, np.arange(27))
        assert scored["score"].tolist() == [5] * 14 + [1] * 13


def test_log_odds_by_hand() -> None:
    frames = np.stack([np.eye(3)[[0, 0, 1, 0]], np.eye(3)[[0, 1, 2, 2]]])
    mask, times = np.array([[True, True, True, False], [True] * 4]), np.zeros((2, 4))
    means, labels = np.array([[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]]), np.array([1, 0])
    names = {"classes": ["A", "Normal"], "keys": ["a", "n"]}
    clips = ClipEmbeddings(means, frames, frames, mask, times, labels, **names)
    texts = np.eye(3) - 1  # all logits negative, by a shift that changes no odds
    table = screening.score_consistency(clips, texts, ["A", "B", "C"], 10.0)
    assert table[["class", "clarity"]].values.tolist() == [[3, 5], [5, 5]]
    assert table["class_log_odds"][0] == pytest.approx(-2.0) and np.isnan(table["clarity_share"][1])
    assert table["clarity_share"][0] == pytest.approx(2 / 3)  # of the three real frames
    assert table["class_note"].tolist() == ["log-odds -2.0 against B", "not judged"]
    for names in (["A"], []):  # nothing to compare with
        alone = screening.score_consistency(clips, np.eye(3)[: len(names)], names, 10.0)
        assert (alone[["class", "clarity"]] == 5).all(axis=None)
        assert (alone["class_note"] == "not judged").all()


def test_the_published_score_of_all_marks_and_its_bins() -> None:
    marks = pd.DataFrame(product(range(1, 6), repeat=4), columns=list(screening.WEIGHTS))
    notes = {f"{name}_note": f"{name} noted" for name in marks}
    decided = screening.decide(marks.assign(clip="a", class_name="A", override="", **notes))
    score = marks @ [1, 2, 2, 5]
    veto = marks.eq(1).any(axis=1)
    assert (decided["score"] == score).all()
    assert ((decided["decision_by_score"] == "drop") == (score < 25)).all()
    assert ((decided["decision"] == "drop") == ((score < 25) | veto)).all()
    bins = [name for name in ("0-25", "25-40", "40-50") for _ in range(2)]
    assert screening.score_bins([10, 24, 25, 39, 40, 50]) == bins


class TestScreening:
    def test_command_line_from_files_to_table(self, tmp_path: Path) -> None:
        """Six videos of three classes: one doubled, one dark, one cut short."""
        folder = tmp_path / "videos"
        for number, name in enumerate(["Fire/a", "Fire/b", "Robbery/c", "Normal/d"]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            frames = moving(number)
            write_video(frames // (20 if name == "Fire/b" else 1), folder / f"{name}.mp4", 8)
        copy = (folder / "Fire/a.mp4").read_bytes()
        (folder / "Robbery/copy.mp4").write_bytes(copy)
        (folder / "Robbery/cut.mp4").write_bytes(copy[: len(copy) // 2])
        human = tmp_path / "human.csv"
        rows = "Fire/b.mp4,keep,night scene\nNormal/d.mp4,drop,grainy\n"
        human.write_text(f"clip,override,reason\n{rows}")
        tables = []
        for more in ([], ["--overrides", str(human)]):
            assert main([str(folder), "--out", str(tmp_path / "out.csv"), *more]) == 0
            table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
            tables.append(table.set_index("clip"))
        before, after = tables
        dropped = set(before.index[before["decision"] == "drop"])
        assert {"Fire/b.mp4", "Robbery/copy.mp4", "Robbery/cut.mp4"} <= dropped
        assert before.loc["Robbery/copy.mp4", "reason"].endswith("same content as Fire/a.mp4")
        assert before.loc["Robbery/cut.mp4", "score"] == 10
        assert "cannot be decoded" in before.loc["Robbery/cut.mp4", "reason"]
        assert "luma" in before.loc["Fire/b.mp4", "quality_note"]
        overridden = after.loc[["Fire/b.mp4", "Normal/d.mp4"], ["decision", "override", "reason"]]
        kept, left = overridden.values.tolist()
        assert kept == ["keep", "keep: night scene", ""] and left[::2] == ["drop", "human: grainy"]
        assert before.loc["Normal/d.mp4", "decision"] == "keep"
        for row in ("x.mp4,drop,seen", "a,remove,seen", "a,drop,"):
            human.write_text(f"clip,override,reason\n{row}\n")
            with pytest.raises(InputError, match=r"human\.csv, line 2: needs clip"):
                screening.apply_overrides(pd.DataFrame({"clip": ["a"]}), human)

    def test_measurements_are_reused(self, tmp_path: Path) -> None:
        write_video(moving(0), tmp_path / "a.mp4", 8)
        clip = tmp_path / "a.mp4", probe(tmp_path / "a.mp4"), None, tmp_path / "store"
        first = quality.measure(*clip)
        (tmp_path / "a.mp4").unlink()
        again = quality.measure(*clip)
        assert first.values == again.values and (first.hashes == again.hashes).all()
        assert first.values["decodable"] == 1 and first.values["missing"] == 0


def test_recovery_by_hand() -> None:
    kinds = ["clean"] * 4 + ["dark"] * 4
    decision = ["drop", "keep", "keep", "keep", "drop", "drop", "drop", "keep"]
    table = pd.DataFrame({"kind": kinds, "decision": decision, "decision_by_score": "keep"})
    rates = screening_tables.recovery(table).set_index(["rule", "measure", "setting"])
    recall = rates.loc[("score or veto", "recall", "dark")]
    assert recall["value"] == 75 and recall["low"] == pytest.approx(30.06, abs=0.01)
    assert recall["high"] == pytest.approx(95.44, abs=0.01)
    precision = rates.loc[("score or veto", "precision", screening_tables.OVERALL)]
    assert (precision["found"], precision["n"]) == (3, 4)
    alarms = rates.loc[("score or veto", "false alarms", screening_tables.CLEAN_REMOVED)]
    assert alarms["value"] == 25
    assert rates.loc[("published score", "precision", screening_tables.OVERALL)]["n"] == 0


def test_planting_is_deterministic_and_leaves_the_world(tmp_path: Path) -> None:
    root, items = tmp_path / "world", []
    track = (Keyframe(26, (0.3, 0.3, 0.6, 0.7)), Keyframe(60, (0.3, 0.3, 0.6, 0.7), False))
    for number in range(32):
        name = ("Normal", "Fire" if number % 4 == 1 else "Robbery")[number % 2]
        item = Item(f"{name}/{number}.mp4", "", (Region("", track if number % 2 else ()),))
        (root / name).mkdir(parents=True, exist_ok=True)
        write_video(moving(number, 16), root / item.video, 8)
        items.append(item)
    before = {p: p.read_bytes() for p in root.rglob("*.mp4")}
    one = planted_faults.plant(root, items, tmp_path / "one", 8, 1, seed=3)
    two = planted_faults.plant(root, items, tmp_path / "two", 8, 1, seed=3)
    assert one.equals(two) and {p: p.read_bytes() for p in root.rglob("*.mp4")} == before
    same = [(tmp_path / f / v).read_bytes() for v in one["video"] for f in ("one", "two")]
    assert same[::2] == same[1::2]
    assert (one["kind"].value_counts()[list(planted_faults.FAULTS)] == 1).all()
    clean = set(one.query("kind == 'clean'")["source"])
    copies = one["kind"].isin(planted_faults.COPIES)
    assert set(one[copies]["source"]) <= clean
    faulty = one[~copies & (one["kind"] != "clean")]
    assert not clean & set(faulty["source"]) and "Normal" in set(faulty["true_class"])
    labels = one[one["kind"].isin(planted_faults.LABELS)]
    assert (labels["class_name"] != labels["true_class"]).all()
    late = one.query("kind == 'late event'").iloc[0]
    assert probe(tmp_path / "one" / late["video"]).frames == 12  # 1 s + 0.5 s at 8 fps
