"""Backbone exchange: what reaches training, and tables of known scores."""

import numpy as np
import pytest
import torch
from faults.harness import refused
from test_video import write_ids
from tiny_detectors import SMALL_VAD

from alertclip.records import Item
from companion import detector_plots, detector_tables, extraction, other_models, tuned_models
from companion.profiles import load_params
from detectors import features
from detectors.benchmarks import load_benchmark, training_videos
from detectors.event_annotations import VideoTruth
from detectors.features import SnippetRule, extract_features, feature_file, read_features
from detectors.fitting import VideoScores
from media.errors import InputError
from media.files import locked, parse_shard, read_json

ROWS = {"train": 12, "test": 8}


def annotate(root, test_events):
    rows = [f"train{i:03d}  {'Fighting  2  6' if i % 2 else 'Normal  -1  -1'}" for i in range(12)]
    rows += [f"test{i:03d}  {'Fighting  8  40' if e else 'Normal  -1  -1'}"
             for i, e in enumerate(test_events)]  # fmt: skip
    text = "".join(f"{row}  -1  -1\n" for row in rows)
    (root / "Temporal_Anomaly_Annotation.txt").write_text(text)


@pytest.fixture
def P(tmp_path, monkeypatch):
    """The smoke profile on feature files in place of videos; all later steps are the real ones."""
    monkeypatch.setattr("companion.profiles.ROOT", tmp_path)
    monkeypatch.setattr(extraction, "prepare_data", lambda P: P.data_dir)
    small = SMALL_VAD | {"layers": 1, "epochs": 1}
    params = load_params("smoke", {"detector_seeds": [0], "vadclip_changes": small})
    root = params.data_dir
    root.mkdir(parents=True)
    kinds = "Training_Normal_Videos_Anomaly", "Fighting"  # even, odd
    for split, count in {**ROWS, "dev": 0}.items():
        lines = "".join(f"UCF/{kinds[i % 2]}/{split}{i:03d}.mp4\n" for i in range(count))
        (root / f"{split}.txt").write_text(lines)

    def extract(P, models, videos, rule, *_):
        for video in videos:
            rng = np.random.default_rng([ord(c) for c in video.stem])
            np.save(feature_file(tmp_path, video, 0), rng.normal(size=(16, 128)))
        return [tmp_path]

    monkeypatch.setattr(extraction, "_extract", extract)
    return params


@pytest.mark.parametrize("detector", ["vadclip", "anomalyclip", "sultani", "rtfm"])
def test_test_labels_reach_neither_training_nor_scores(P, detector):
    results = []
    for events in ([0, 1] * 4, [1, 1, 0, 0] * 2):
        annotate(P.data_dir, events)
        results += detector_tables.score_stages(P, detector, ["clip"])
    first, second = results
    assert [t.is_abnormal for t in first.truths] != [t.is_abnormal for t in second.truths]
    for one, other in zip(first.seeds[0], second.seeds[0], strict=True):
        assert np.array_equal(one.anomaly, other.anomaly) and one.anomaly.shape == (16,)
        assert np.array_equal(one.probabilities, other.probabilities)
        assert np.allclose(one.probabilities.sum(1), 1, atol=1e-5)


def test_scores_of_another_method_and_classes_of_training_are_read_from_files(P, tmp_path):
    annotate(P.data_dir, [0, 1] * 4)
    event = np.repeat([0.0, 1.0, 0.0], [2, 8, 6])[:, None]  # features of 4 frames; frames 8-40
    for i in range(ROWS["test"]):
        np.save(tmp_path / f"test{i:03d}__0.npy", event * (i % 2) - 3)
    oracle = other_models.read_scores(P, "oracle", tmp_path)
    auc = detector_tables.resample_models(P, [oracle])["oracle"]["frame AUC"][0]
    assert auc[0, 0] == 1
    np.save(tmp_path / "test003__0.npy", np.zeros((16, 2)))
    with pytest.raises(InputError, match="test003 .* no column of scores"):
        other_models.read_scores(P, "oracle", tmp_path)
    videos = training_videos(load_benchmark("miniworld"), P.data_dir)
    assert [*videos.values()][:3] == [(), ("Fighting",), ()]  # and no times
    (P.data_dir / "train.txt").write_text("UCF/Picnic/a.mp4\n")
    with pytest.raises(InputError, match="names neither a class nor normal"):
        training_videos(load_benchmark("miniworld"), P.data_dir)


def scored(stage, values):
    """Two abnormal videos with events in frames 8-40 of 64, two normal; one seed per value."""
    truths = [VideoTruth(f"v{i}", ("Fighting",), ((8, 40),), True, ("Fighting",)) for i in range(2)]
    truths += [VideoTruth(f"n{i}", (), (), False) for i in range(2)]
    event = np.repeat([0.0, 1.0, 0.0], [2, 8, 6])  # 16 features of 4 frames
    seeds = []
    for value in values:
        videos = [value * event, value * event, np.zeros(16), np.zeros(16)]
        seeds.append([VideoScores(v, np.eye(9)[np.where(v > 0, 2, 0)]) for v in videos])
    return detector_tables.Scored(stage, "vadclip", 4, truths, truths, seeds, [])


def test_oracle_inverse_and_mean_over_seeds():
    P = load_params("smoke")
    pair = [scored("clip", [1.0, -1.0]), scored("full", [1.0, 1.0])]
    table = detector_tables.backbone_table(detector_tables.resample_models(P, pair), "none")
    frame = table[table["setting"] == "frame AUC"].set_index("model")
    # Oracle 100; inverse: positives below 192 equal negatives, 0. Their mean and spread.
    assert frame["value"].tolist() == pytest.approx([50, 100])
    assert frame["seed_sd"].tolist() == pytest.approx([100 / np.sqrt(2), 0])
    assert frame["n"].tolist() == [256, 256]
    pair = detector_tables.resample_models(P, [scored("clip", [-1.0]), scored("full", [1.0])])
    change = detector_tables.backbone_differences(pair)
    assert change["value"].tolist()[0] == pytest.approx(100)
    assert change["difference"].unique().tolist() == ["Full minus CLIP"]


def test_classes_curves_other_branch_and_published_truth_of_the_oracle():
    P, best = load_params("smoke"), scored("full", [1.0])
    classes = detector_tables.class_table(P, [best]).set_index("setting")["value"]
    assert classes[["mean AUC", "Fighting AP"]].tolist() == pytest.approx([100, 100])
    curves = detector_plots.curve_table(P, [best, scored("clip", [-1.0])])
    assert curves.groupby(["video", "model"]).size().tolist() == [64] * 4
    assert curves.query("video == 'v0 (Fighting)'")["truth"].sum() == 2 * 32
    assert curves.groupby("predicted").size().to_dict() == {"": 256 - 32, "Fighting": 32}
    inverse = [v._replace(other_branch=-v.anomaly) for v in best.seeds[0]]
    table = detector_tables.other_branch_table(P, [best._replace(seeds=[inverse])])
    assert table.set_index("setting")["value"]["frame AUC"] == pytest.approx(0)
    two = VideoTruth("v", ("Arson", "Abuse"), ((3, 5), (8, 9)), True, ("Abuse", "Arson"))
    (shown,) = detector_tables.published_truth([best._replace(truths=[two])])
    assert shown.named[0].spans == ((3, 6), (8, 10))  # the last frame counts
    assert shown.named[0].span_classes == ("Arson", "Arson")


def test_tsne_shows_events_of_abnormal_and_all_of_normal_videos():
    rng, base = np.random.default_rng(0), scored("full", [1.0])
    features, text = [rng.normal(size=(16, 128)) for _ in base.truths], rng.normal(size=(9, 128))
    pairs = zip(base.seeds[0], features, strict=True)
    videos = [score._replace(adapted=-x, text=text) for score, x in pairs]
    base = base._replace(stage="clip", seeds=[videos], features=features)
    table = detector_plots.tsne_table(load_params("smoke"), base)
    counts = table[table["text"] == 0].groupby(["panel", "group"]).size()
    # Events cover features 2 to 9 of two videos; the normal ones have 32, all drawn.
    assert counts.unstack().to_numpy().tolist() == [[16, 32], [16, 32]]
    assert table[table["text"] == 1].groupby("panel")["group"].nunique().tolist() == [9, 9]
    assert np.isfinite(table[["x", "y"]]).all(axis=None)


def test_data_and_framework_are_told_apart(P, monkeypatch):
    annotate(P.data_dir, [0, 1] * 4)
    chosen = [path.stem for path in extraction.chosen_videos(P)]
    vagta = [Item(f"UCF/{name}.mp4", "", ()) for name in chosen[:6]]
    monkeypatch.setattr(extraction, "load_split", lambda P, split: (vagta, None))
    pair = [scored("clip", [0.5]), scored("full", [1.0])]
    half = [scored("clip", [-1.0]), scored("full", [1.0])]
    monkeypatch.setattr(detector_tables, "score_stages", lambda P, *_: half)
    table = detector_tables.data_framework_table(P, pair).set_index(["setting", "model"])
    assert table["videos"].unique().tolist() == [12, 6]
    assert table.loc[("original data: frame AUC", "CLIP"), "value"] == 100
    assert table.loc[("VAGTA: frame AUC", "CLIP"), "value"] == 0
    assert table.loc[("VAGTA: frame AUC", "Full"), "value"] == 100


def test_snippets_and_crops():
    rule = SnippetRule(16, 4, 1)
    assert features.snippet_frames(40, rule).tolist() == [[2, 6, 10, 14], [18, 22, 26, 30]]
    assert features.snippet_frames(3, SnippetRule(4, 1)).tolist() == [[2]]  # kept inside
    frame, crop = torch.arange(4 * 6 * 3).reshape(1, 4, 6, 3), features.take_crop
    assert torch.equal(crop(frame, (2, 4), 0), frame[:, 1:3, 1:5])
    assert torch.equal(crop(frame, (2, 4), 2), frame[:, :2, 2:])
    assert torch.equal(crop(frame, (2, 4), 3), frame[:, 2:, :4])
    assert torch.equal(crop(frame, (2, 4), 9), frame[:, 2:, 2:].flip(2))
    assert "embed 1 to 4" in refused(SnippetRule, 4, 5)


def test_shares_and_pieces_of_the_features_are_those_of_the_whole(tmp_path, monkeypatch):
    """Shares are equal byte by byte, wait for no other, and keep all failures."""
    videos = [write_ids(tmp_path / f"{i}.mp4", frames) for i, frames in enumerate((9, 10, 40))]
    bad = [tmp_path / name for name in ("bad.mp4", "also bad.mp4")]
    for path in bad:
        path.write_text("not a video")
    model, rule = tuned_models.stage_model(load_params("smoke"), "clip"), SnippetRule(8, 2, 10)
    wanted = [model], dict.fromkeys(videos + bad, range(10)), rule
    options = tmp_path / "cache", 1
    [whole] = extract_features(*wanted, tmp_path / "a", *options)
    assert {*read_json(whole / "failures.json")} == {"bad.mp4", "also bad.mp4"}
    shared = *wanted, tmp_path / "b", *options, "fp32"
    extract_features(*shared, parse_shard("2/2"))
    with locked(tmp_path / "b" / ".2-of-2.lock"):
        [shares] = extract_features(*shared, parse_shard("1/2"))
    for file in whole.iterdir():
        assert (shares / file.name).read_bytes() == file.read_bytes()
    assert len(list(shares.iterdir())) == 3 * 10 + 3  # failures.json, features.json, videos.json
    monkeypatch.setattr(features, "PIECE", 3)
    extract_features([model], {videos[2]: [5]}, rule, tmp_path / "c", *options)
    assert [file.name for file in tmp_path.glob("c/*/*.npy")] == ["2__5.npy"]
    [pieces] = extract_features(*wanted, tmp_path / "c", *options)
    for crop in range(10):
        a, b = (read_features(feature_file(folder, videos[2], crop)) for folder in (whole, pieces))
        assert a.shape == (5, 128)
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert whole.name == pieces.name
    twice = dict.fromkeys([videos[0], tmp_path / "x" / "0.mp4"], [0])
    assert "share a name" in refused(extract_features, [model], twice, rule, tmp_path, *options)


def test_another_video_of_the_name_is_extracted_anew_and_an_equal_one_is_not(tmp_path):
    model, rule = tuned_models.stage_model(load_params("smoke"), "clip"), SnippetRule(8, 2, 1)

    def features_of(video):
        arguments = {video: [0]}, rule, tmp_path / "features", tmp_path / "cache", 1
        [folder] = extract_features([model], *arguments)
        return feature_file(folder, video, 0)

    (tmp_path / "moved").mkdir()
    written_at = features_of(write_ids(tmp_path / "a.mp4", 16)).stat().st_mtime_ns
    moved = (tmp_path / "a.mp4").rename(tmp_path / "moved/a.mp4")
    assert features_of(moved).stat().st_mtime_ns == written_at
    assert len(read_features(features_of(write_ids(tmp_path / "a.mp4", 40)))) == 5
    moved.unlink()
    assert features_of(moved).exists()  # without its video
    moved.write_text("not a video")
    assert not features_of(moved).exists()
