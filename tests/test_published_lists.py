"""MSAD, ShanghaiTech and UBnormal as published, and a published model's scores as measured here."""

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from detectors.benchmarks import load_benchmark, read_list
from detectors.event_annotations import read_vector
from detectors.frame_metrics import FrameScores, frame_metrics


def listed(folder, split):
    """Names of the split as the authors list features, and how many each has: NAME_END.npy."""
    file = {"msad": {"train": "msad-i3d", "test": "msad-i3d-test"}}.get(folder.name, {})
    lines = (folder / f"{file.get(split, split)}.list").read_text().splitlines()
    return Counter(re.sub(r"_(i3d|\d)\.npy.*", "", line.rpartition("/")[2]) for line in lines)


@pytest.mark.parametrize(("name", "features"), [("msad", 1), ("shanghaitech", 10)])
def test_lists_of_features_have_the_published_counts(shared_data, name, features):
    benchmark = load_benchmark(name)
    for split, counts in benchmark.counts.items():
        names = listed(shared_data / name, split)
        assert set(names.values()) == {features} and len(names) == sum(counts.values())
        if name == "msad":
            abnormal = [name for name in names if not name.startswith("MSAD_normal_")]
            assert [*names][: len(abnormal)] == abnormal  # first, as in the vector
            classes = Counter(name.rpartition("_")[0] for name in abnormal)
            assert classes == benchmark.class_counts[split]
        elif split == "train":  # the classes of its abnormal videos are published
            relabelled = (shared_data / name / "relabel.list").read_text().splitlines()
            relabelled = {line.split()[0] for line in relabelled}
            assert relabelled <= set(names) and len(relabelled) == counts["abnormal"]


def test_msad_vector_agrees_with_intervals_of_another_author(shared_data):
    """In list order, at 16 frames for each whole snippet; one event lies in what is cut off."""
    folder = shared_data / "msad"
    known = pd.read_csv(folder / "anomaly_annotation.csv", index_col="name")
    names = [*listed(folder, "test")][:120]
    snippets = (known.loc[names, "total frames"].astype(int) // 16).to_dict()
    rest = "MSAD_normal_testing_1"  # all normal videos as one
    snippets[rest] = 8995 - sum(snippets.values())
    path, classes = folder / "gt-MSAD-WS-new.npy", load_benchmark("msad").abnormal_classes
    *abnormal, normal = read_vector(path, [*names, rest], snippets, classes)
    assert not normal.spans and snippets[rest] == 5474
    assert [t.name for t in abnormal if not t.spans] == ["Explosion_3"]
    for truth in abnormal:
        frames = 16 * snippets[truth.name]
        first, last = (
            int(known.loc[truth.name, f"{end}ing frame of anomaly"]) for end in ("start", "end")
        )
        expected = [[first - 1, min(last, frames)]] if first - 1 < frames else []
        assert np.abs(np.array(truth.spans) - np.array(expected)).max(initial=0) <= 1, truth


def test_ubnormal_lists_are_the_official_split(shared_data, tmp_path):
    ubnormal = load_benchmark("ubnormal")
    (tmp_path / "UBnormal").mkdir()
    (tmp_path / "UBnormal/scripts").symlink_to(shared_data / "ubnormal")
    for split, counts in ubnormal.counts.items():
        names = [entry.name for entry in read_list(ubnormal, tmp_path, split)]
        counted = Counter(name.split("_")[0] for name in names)
        assert counted == counts
        assert all(re.search(r"/Scene\d+/", str(ubnormal.video_path(tmp_path, n))) for n in names)


def test_published_scores_measure_as_published(shared_data):
    """Per snippet, 199 videos of ShanghaiTech."""
    table = pd.read_csv(shared_data / "scores/shanghaitech_scores.csv")
    scored = [
        FrameScores(
            name, rows["pred"].to_numpy(), rows["gt"].to_numpy() == 1, rows["gt"].max() == 1
        )
        for name, rows in table.groupby("video_id")
    ]
    assert len(scored) == 199 and sum(v.abnormal for v in scored) == 44
    metrics = frame_metrics(scored, n_boot=20)
    assert metrics["metric"].tolist()[:2] == ["frame AUC", "frame AP"]
    assert metrics["value"].round(4).tolist()[:2] == [0.9871, 0.7797]
