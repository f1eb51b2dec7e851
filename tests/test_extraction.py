"""Features of a profile: by shares, once wherever they are read, or released in place of videos."""

from itertools import product

import numpy as np
import pytest
from faults.harness import refused

from alertclip.backbone import load_backbone
from alertclip.model import AlertCLIP
from companion import detector_tables, extraction, profiles, report
from companion.execution import lacking_data, left_out
from companion.extraction import training_set
from companion.ledger import left_out as left_out_of_run
from companion.preflight import released_gaps
from companion.profiles import ROOT, load_params
from companion.sources import missing_data
from companion.tuned_models import available_stages, stage_model
from companion.workflow import runnable
from companion.zero_shot_tables import zero_shot_table
from detectors.check import anchors
from media.errors import InputError
from media.files import parse_shard

NORMAL = "Training_Normal_Videos_Anomaly"


def test_features_are_asked_for_wherever_the_notebooks_read_them(monkeypatch):
    asked = []

    def extract_for_all(P, wanted, detector, training=True, shard=None):
        asked.append((P.detector.benchmark, detector, training, shard.start + 1))

    monkeypatch.setattr(extraction, "extract_for_all", extract_for_all)
    monkeypatch.setattr(extraction, "domain_gaps", lambda P: [])  # no data at hand, none read
    P = load_params("paper+paper-msad")
    extraction.extract(P, parse_shard("2/8"))
    first = [("msad", "vadclip", True, 2), ("msad", "anomalyclip", True, 2)]
    assert asked[:3] == first + [("ucf_crime", "vadclip", True, 2)]
    others = [(name, "vadclip", False, 2) for name in ("xd_violence", "ubnormal")]
    assert set(others) <= set(asked[3:]) and not any(training for _, _, training, _ in asked[3:])


@pytest.fixture
def released(tmp_path, monkeypatch):
    """A small version of UCF-Crime's released features: VadCLIP's layout, MiniCLIP's space."""
    monkeypatch.setattr(profiles, "ROOT", tmp_path)  # nothing is written into the project
    rng, model = np.random.default_rng(0), AlertCLIP(load_backbone("miniclip")).eval()
    cone = anchors(model, ["normal"])["class prompts"].mean(axis=0)
    lists = tmp_path / "ucf_crime/lists"
    lists.mkdir(parents=True)
    truth = []
    for split, crops, count in (("", range(10), 4), ("test", [5], 2)):
        rows = ["path,label"]
        for label, i in product(("Abuse", "Fighting", NORMAL), range(count)):
            name = f"{label}{split}{i:03d}_x264"
            folder = tmp_path / "features/UCFClipFeatures" / label
            folder.mkdir(parents=True, exist_ok=True)
            for crop in crops:
                path = folder / f"{name}__{crop}.npy"
                noise = rng.normal(size=(20, len(cone))) / len(cone) ** 0.5
                np.save(path, (10 * (cone + noise)).astype(np.float16))
                rows.append(f"/their/disk/{path.relative_to(tmp_path)},{label}")
            events = "Normal  -1  -1" if label == NORMAL else f"{label}  {30 + i}  200"
            truth += [f"{name}.mp4  {events}  -1  -1"] * (split == "test")
        (lists / f"ucf_CLIP_rgb{split}.csv").write_text("\n".join(rows))
    (lists / "Temporal_Anomaly_Annotation.txt").write_text("\n".join(truth))
    short = load_params("smoke").detector.vadclip_changes | {"epochs": 1, "batch_size": 32}
    return load_params("smoke", {
        "world": "vagta", "data_root": str(tmp_path), "features": str(tmp_path / "features"),
        "benchmark": "ucf_crime", "snippet_length": 16, "snippet_frames": 16, "snippet_crops": 10,
        "detector_seeds": [0], "vadclip_changes": short,
        "transfer": {"XD-Violence": {"benchmark": "xd_violence"}},
    })  # fmt: skip


def test_cells_that_need_clips_text_tower_are_left_out_without():
    assert lacking_data(load_params("mini")) == {}
    lacking = lacking_data(load_params("mini+mini-siglip"))
    assert lacking.keys() == {"needs-vadclip", "needs-anomalyclip"}
    texts = {c.id: c.source for c in left_out(ROOT / "notebooks/05_zero_shot.ipynb", lacking).cells}
    assert "CLIP's own text tower" in texts["c12"] and "zero_shot_table" in texts["c04"]


def test_released_features_make_the_tables_without_a_video(released):
    P = released
    assert missing_data(P) == list(released_gaps(P, checked=False)) == []
    assert extraction.detectors_at_hand(P) == ["vadclip"] and available_stages(P) == ("clip",)
    assert [book.name[:2] for book in runnable(P)] == ["05", "06", "11"]
    left = report.notebook_times(P).set_index("name")["left_out"]
    assert left["03_stage1_global"] == "all: videos"
    assert left["06_weakly_supervised"].endswith("cells: videos, features as NAME.npy")
    lacking = lacking_data(P)
    assert lacking == {"needs-videos": "videos", "needs-anomalyclip": "features as NAME.npy"}
    book = left_out(ROOT / "notebooks/06_weakly_supervised.ipynb", lacking)
    texts = {cell.id: cell.source for cell in book.cells if cell.cell_type == "markdown"}
    assert texts["c06"] == "*Left out: this needs videos.*" and "c04" not in texts
    assert texts["c16"] == "*Left out: this needs features as NAME.npy.*"
    assert texts["c18"] == "*Left out: this needs videos, features as NAME.npy.*"
    [scored] = detector_tables.score_stages(P, "vadclip", ("clip",))
    model = stage_model(P, "clip")
    assert len(training_set(P, model, "vadclip").features) == 120 and left_out_of_run(P) == []
    assert scored.columns[0][0].video == "Abusetest000_x264"
    assert scored.columns[0][0].truth.nonzero()[0][[0, -1]].tolist() == [30, 199]
    table = zero_shot_table(P, ("clip",), "snippet")
    assert set(table["domain"]) == {"UCF-Crime"} and table["n"].tolist() == [1920, 1920, 1280]
    with pytest.raises(InputError, match="Stage I needs videos"):
        detector_tables.score_stages(P, "vadclip", ("stage1",))
    (first := next(P.features_dir.rglob("Abuse0*__3.npy"))).unlink()
    with pytest.warns(UserWarning, match="1 of 120 training features are left out"):
        assert len(training_set(P, model, "vadclip").features) == 119
    assert left_out_of_run(P) == [first.name]  # as the ledger says


def test_released_features_are_checked_before_work(released):
    first, *_ = files = sorted(released.features_dir.rglob("*__5.npy"))
    np.save(first, np.load(first)[:5])  # one short video is no other rate
    extraction.check_features(released)
    for file in files:
        np.save(file, np.load(file)[:5])
    with pytest.raises(InputError, match="at 16 frames per feature, the last event ends at 2.50"):
        extraction.check_features(released)
    next(file for file in files if "test" in file.stem).unlink()
    with pytest.raises(InputError, match="1 of 6 test videos .* expected as .*__5.npy"):
        extraction.check_features(released)
    for file in released.features_dir.rglob("*test*.npy"):
        file.unlink()
    assert "no features of UCF-Crime's test videos" in refused(extraction.check_features, released)


def test_the_heads_without_text_take_features_of_any_width(released):
    rng = np.random.default_rng(0)
    for path in released.features_dir.rglob("*.npy"):
        np.save(path, rng.normal(size=(20, 40)).astype(np.float16))
    assert "width 40" in refused(extraction.extract_for_all, released, ["clip"], "vadclip")
    small = {"segments": 8, "batch_size": 4, "epochs": 1, "epoch_steps": 1}
    P = released.changed({"sultani_changes": small, "rtfm_changes": small})
    table = detector_tables.head_table(P, ["clip"])
    assert table["n"].eq(20 * 16 * 6).sum() == 4 and table["value"].notna().all()
