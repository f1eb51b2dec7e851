"""MSAD, ShanghaiTech and UBnormal as published, and a published model's scores as measured here."""

import csv
import re
from collections import Counter

import numpy as np

from detectors.benchmarks import load_benchmark, read_list
from detectors.event_annotations import read_vector
from detectors.frame_metrics import FrameScores, frame_metrics

SHANGHAI_VECTOR = 140_112  # frames of this variant of the truth; protocols differ here


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def msad_names(path):
    """Names of a list of features, <folder>/<name>_i3d.npy."""
    lines = path.read_text().split()
    return [line.rsplit("/", 1)[1].removesuffix("_i3d.npy") for line in lines]


def test_msad_lists_have_the_counts_of_protocol_ii(shared_data):
    msad = load_benchmark("msad")
    for split, file in (("train", "msad-i3d.list"), ("test", "msad-i3d-test.list")):
        names = msad_names(shared_data / "msad" / file)
        abnormal = [name for name in names if not name.startswith("MSAD_normal_")]
        assert len(set(names)) == len(names) == sum(msad.counts[split].values())
        assert names[: len(abnormal)] == abnormal  # first, as in the vector
        assert Counter(name.rpartition("_")[0] for name in abnormal) == msad.class_counts[split]


def test_msad_vector_agrees_with_intervals_of_another_author(shared_data):
    """In list order, at 16 frames for each whole snippet; one event lies in what is cut off."""
    folder = shared_data / "msad"
    known = {row["name"]: row for row in table(folder / "anomaly_annotation.csv")}
    names = msad_names(folder / "msad-i3d-test.list")[:120]
    snippets = {name: int(known[name]["total frames"]) // 16 for name in names}
    rest = "MSAD_normal_testing_1"  # all normal videos as one
    snippets[rest] = 8995 - sum(snippets.values())
    path, classes = folder / "gt-MSAD-WS-new.npy", load_benchmark("msad").abnormal_classes
    *abnormal, normal = read_vector(path, [*names, rest], snippets, classes)
    assert not normal.spans and snippets[rest] == 5474
    assert [t.name for t in abnormal if not t.spans] == ["Explosion_3"]
    for truth in abnormal:
        frames = 16 * snippets[truth.name]
        first, last = (
            int(known[truth.name][f"{end}ing frame of anomaly"]) for end in ("start", "end")
        )
        expected = [[first - 1, min(last, frames)]] if first - 1 < frames else []
        assert np.abs(np.array(truth.spans) - np.array(expected)).max(initial=0) <= 1, truth


def test_shanghaitech_lists_are_the_weakly_supervised_split(shared_data):
    shanghai, folder = load_benchmark("shanghaitech"), shared_data / "shanghaitech"
    relabelled = {line.split()[0] for line in (folder / "relabel.list").read_text().splitlines()}
    for split in ("train", "test"):
        lines = [line.split()[0] for line in (folder / f"{split}.list").read_text().splitlines()]
        crops = Counter(re.sub(r"_\d\.npy$", "", line.split("/")[1]) for line in lines)
        counts = shanghai.counts[split]
        assert set(crops.values()) == {10} and len(crops) == sum(counts.values())
        if split == "train":  # the classes of its abnormal videos are published
            assert relabelled <= set(crops) and len(relabelled) == counts["abnormal"]
    truth = np.load(folder / "frame_gt.npy")
    assert (len(truth), truth.sum()) == (SHANGHAI_VECTOR, 7874)


def test_ubnormal_lists_are_the_official_split(shared_data, tmp_path):
    ubnormal = load_benchmark("ubnormal")
    (tmp_path / "UBnormal").mkdir()
    (tmp_path / "UBnormal/scripts").symlink_to(shared_data / "ubnormal")
    for split, counts in ubnormal.counts.items():
        names = [entry.name for entry in read_list(ubnormal, tmp_path, split)]
        found = Counter(name.split("_")[0] for name in names)
        assert found == counts
        assert all(re.search(r"/Scene\d+/", str(ubnormal.video_path(tmp_path, n))) for n in names)


def test_published_scores_measure_as_published(shared_data):
    """Per snippet, 199 videos of ShanghaiTech."""
    videos = {}
    for row in table(shared_data / "scores/shanghaitech_scores.csv"):
        videos.setdefault(row["video_id"], []).append((float(row["pred"]), row["gt"] == "1.0"))
    columns = {name: map(np.array, zip(*rows, strict=True)) for name, rows in videos.items()}
    scored = [FrameScores(name, s, t, bool(t.any())) for name, (s, t) in columns.items()]
    assert len(scored) == 199 and sum(v.abnormal for v in scored) == 44
    found = frame_metrics(scored, n_boot=20)
    assert found["metric"].tolist()[:2] == ["frame AUC", "frame AP"]
    assert found["value"].round(4).tolist()[:2] == [0.9871, 0.7797]
