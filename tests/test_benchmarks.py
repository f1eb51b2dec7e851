"""Benchmarks as data: published lists and arrays, every format by hand, bad rows refused."""

import json
import re
from collections import Counter
from functools import partial

import numpy as np
import pytest
import yaml
from faults.harness import refused

from companion.detector_tables import held_scores
from detectors import event_annotations as events
from detectors.benchmarks import BENCHMARKS, load_benchmark, read_list, read_truth, training_videos
from detectors.event_annotations import VideoTruth, frame_class_truth, frame_truth
from media.errors import InputError

UCF, XD = load_benchmark("ucf_crime"), load_benchmark("xd_violence")
VIDEOS = {"ucf_crime": 1900, "xd_violence": 4754, "shanghaitech": 437, "msad": 720, "ubnormal": 543}
FIGHT = "v=a.b__#1_label_B1-0-0"
ROW = "Abuse028_x264  Abuse  165  240  -1  -1  "
ucf = partial(events.read_ucf, classes=UCF.classes, normal=UCF.normal_class)
xd = partial(events.read_xd, codes=XD.codes, normal=XD.normal_class)
tracks = partial(events.read_tracks, "abnormal_scene_1_scenario_1")


def written(tmp_path, *lines, name="rows.txt", end="\n", bom=""):
    path = tmp_path / name
    path.write_bytes((bom + end.join(lines) + end).encode())
    return path


@pytest.mark.parametrize("name", yaml.safe_load(BENCHMARKS.read_text()))
def test_every_benchmark_is_consistent(name):
    benchmark = load_benchmark(name)
    classes = benchmark.classes
    videos = sum(sum(counts.values()) for counts in benchmark.counts.values())
    assert videos == VIDEOS.get(name, videos)
    assert len(set(classes)) == len(classes) and len(benchmark.prompts) in (0, len(classes))
    assert sorted(benchmark.anomalyclip_classes) in ([], sorted(classes))
    assert set(benchmark.codes) in (set(), set(classes))
    for split, counts in benchmark.class_counts.items():
        assert sum(counts.values()) == benchmark.counts[split]["abnormal"]
        assert set(counts) == set(benchmark.abnormal_classes)


def test_misspelt_names_and_fields(tmp_path):
    assert "no benchmark UCF-Crime; did you mean ucf_crime" in refused(load_benchmark, "UCF-Crime")
    raw = yaml.safe_load(BENCHMARKS.read_text())
    raw["msad"]["fsp"] = raw["msad"].pop("fps")
    raw["ucf_crime"]["novel"].append("Abuse")  # already a base class
    path = tmp_path / "benchmarks.yaml"
    path.write_text(yaml.safe_dump(raw))
    assert re.search("(?s)msad: .*(fps|fsp)", refused(load_benchmark, "msad", path))
    assert "base and novel must be disjoint" in refused(load_benchmark, "ucf_crime", path)


def test_video_paths(tmp_path):
    path = UCF.video_path(tmp_path, "Abuse/Abuse028_x264.mp4")
    assert path.relative_to(tmp_path / UCF.video_root).as_posix() == "Abuse/Abuse028_x264.mp4"
    msad = load_benchmark("msad")
    for folder in ("Road", "Shop"):
        (tmp_path / "MSAD/MSAD_Videos" / folder).mkdir(parents=True)
    (tmp_path / "MSAD/MSAD_Videos/Road/Road_7.mp4").touch()
    found = msad.video_path(tmp_path, "MSAD_normal_testing/MSAD_normal_Road_7.mp4")
    assert found == tmp_path / "MSAD/MSAD_Videos/Road/Road_7.mp4"
    assert msad.video_path(tmp_path, "Fire/Fire_1.mp4").parts[-2:] == ("Fire", "Fire_1.mp4")
    path = load_benchmark("ubnormal").video_path(tmp_path, "abnormal_scene_12_scenario_3_fog")
    assert path.parts[-2:] == ("Scene12", "abnormal_scene_12_scenario_3_fog.mp4")


def test_frame_truth_is_end_exclusive_and_cut():
    truth = VideoTruth("v", ("a",), ((2, 4), (6, 99)), True, ("a", "b"))
    assert np.flatnonzero(frame_truth(truth, 8)).tolist() == [2, 3, 6, 7]
    by_class = frame_class_truth(truth, 8, ["normal", "b", "a"])
    assert [np.flatnonzero(c).tolist() for c in by_class.T] == [[], [6, 7], [2, 3]]
    assert "v: class b" in refused(frame_class_truth, truth, 8, ["normal", "a"])
    with pytest.raises(InputError, match="01_0014: the annotation names no class"):
        frame_class_truth(VideoTruth("01_0014", (), ((2, 4),), True), 8, ["a"])


def test_ucf_rows(tmp_path):
    normal = "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1"
    two = "Arson011_x264.mp4  Arson  150  420  680  1267"
    table = ucf(written(tmp_path, ROW, "", two, normal, end="\r\n", bom="\ufeff"))
    assert list(table) == ["Abuse028_x264", "Arson011_x264", "Normal_Videos_003_x264"]
    with pytest.raises(InputError, match="the list's path leaves the data root"):
        UCF.video_path(tmp_path, "../../Abuse028_x264.mp4")
    arson = table["Arson011_x264"]
    assert (arson.spans, arson.span_classes) == (((150, 420), (680, 1267)), ("Arson", "Arson"))
    assert table["Normal_Videos_003_x264"] == VideoTruth("Normal_Videos_003_x264", (), (), False)


BAD_ROWS = {
    ucf: (ROW, [
        ("Abuse1  Abuse  165  240", "expected name, class and four"),
        ("Abuse1  Abusing  165  240  -1  -1", "class Abusing"),
        ("Abuse1  Abuse  165  x  -1  -1", "165 x are not two frame numbers"),
        ("Abuse1  Abuse  240  165  -1  -1", "event 240 165"),
        ("Abuse1  Abuse  -1  -1  -1  -1", "0 events in a video of class Abuse"),
        ("Normal1  Normal  3  9  -1  -1", "1 events in a video of class Normal"),
        ("Abuse028_x264.mp4  Abuse  165  240  -1  -1", "Abuse028_x264 stands twice"),
    ]),
    xd: ("v=c__#1_label_G-0-0 0 15", [
        (f"{FIGHT} 0 15 20", "3 fields"),
        (f"{FIGHT}", "0 fields"),
        ("v=x__#1_label_A 0 15", ".*normal video"),
        ("v=x__#1_label_B3-0-0 0 15", "code B3"),
        ("v=x__#1_label_A-B1-0 0 15", ".*must be either"),
        ("v=x__#1 0 15", ".*does not end in _label_"),
    ]),
    tracks: ("1,2,3", [("1 23 25", " are not two frame numbers"), ("1,4,3", "event 4 3")]),
}  # fmt: skip


@pytest.mark.parametrize("read", BAD_ROWS)
def test_bad_rows_name_their_line(tmp_path, read):
    good, rows = BAD_ROWS[read]
    for row, message in rows:
        path = written(tmp_path, good, "", row)
        assert re.search(re.escape(f"{path}, line 3: ") + message, refused(read, path))


def test_xd_rows(tmp_path):
    both = "v=c__#00-01_label_G-B2-0"
    plain = written(tmp_path, f"{FIGHT}.mp4 0 15 20 30", f"{both} 5 9 8 12")
    assert xd(plain)[FIGHT].spans == ((0, 15), (20, 30))
    assert xd(plain)[both].span_classes == ("explosion",) * 2  # the first code stands for all
    truth = xd(written(tmp_path, f"{both} B2 5 9 G 8 12", name="classes.txt"), by_class=True)[both]
    assert truth.classes == ("explosion", "shooting")
    assert truth.span_classes == ("shooting", "explosion")
    assert events.xd_classes("v=x__#1_label_A", XD.codes, "normal", "") == ()


def test_shanghaitech_masks_and_inclusive_tracks_of_ubnormal(tmp_path):
    path = tmp_path / "01_0014.npy"
    np.save(path, np.array([0, 1, 1, 0, 255], np.uint8))
    truth = events.read_mask("01_0014", path)
    assert truth == VideoTruth("01_0014", (), ((1, 3), (4, 5)), True, frames=5)
    assert frame_truth(truth, 4).tolist() == [False, True, True, False]  # less than a snippet off
    with pytest.warns(UserWarning, match="01_0014: 5 annotated frames, but 32 with a score"):
        assert held_scores(truth, np.zeros(2), 16).truth.sum() == 3
    assert not events.read_mask("01_002", tmp_path / "01_002.npy").is_abnormal  # no mask: training
    assert "01_0015.npy" in refused(events.read_mask, "01_0015", tmp_path / "01_0015.npy")
    truth = tracks(written(tmp_path, "1,23,25", "2,30.0,31.0"))
    assert truth.spans == ((23, 26), (30, 32)) and truth.is_abnormal
    assert not events.read_tracks("normal_scene_1_scenario_1", tmp_path / "absent").is_abnormal


def test_shanghaitech_classes_come_from_labelled_lists(tmp_path):
    """AnomalyCLIP's rows: path start end label, the ids being those of its class list."""
    folder = tmp_path / "ShanghaiTech"
    (folder / "test_frame_mask").mkdir(parents=True)
    np.save(folder / "test_frame_mask" / "01_0014.npy", np.array([0, 1, 1, 0, 1]))
    for_training, for_test = folder / "SH_Train.txt", folder / "SH_Test.txt"
    for listed in (for_training, for_test):
        listed.write_text("frames/01_0014 0 4 4\nframes/01_002 0 9 8\n")
    benchmark = load_benchmark("shanghaitech")
    event, normal = read_truth(benchmark, tmp_path)
    assert event.spans == ((1, 3), (4, 5)) and event.span_classes == ("fighting",) * 2
    assert (event.classes, normal.classes, normal.is_abnormal) == (("fighting",), (), False)
    assert list(training_videos(benchmark, tmp_path).values()) == [("fighting",), ()]
    assert benchmark.classes[0] == benchmark.normal_class  # as VadCLIP wants it
    for_training.write_text("frames/01_0014 0 4 18\n")
    with pytest.raises(InputError, match="SH_Train.txt, line 1: no class 18; there are 18"):
        training_videos(benchmark, tmp_path)


def test_msad_vector_is_cut_by_snippets(tmp_path):
    names, counts = ["Fire_1", "MSAD_normal_testing_1"], {"Fire_1": 2, "MSAD_normal_testing_1": 1}
    vector = np.zeros(48)
    vector[[20, 31]] = 1
    path = tmp_path / "gt.npy"
    np.save(path, vector)
    fire, normal = events.read_vector(path, names, counts, ["Fire"])
    assert (fire.classes, fire.spans) == (("Fire",), ((20, 21), (31, 32)))
    assert not normal.is_abnormal
    with pytest.raises(InputError, match="MSAD_normal_testing_1 has abnormal frames"):
        events.read_vector(path, names[::-1], dict(zip(names, (1, 2), strict=True)), ["Fire"])
    with pytest.raises(InputError, match="48 frames, but the list's snippets make 80"):
        events.read_vector(path, names, counts | {"Fire_1": 4}, ["Fire"])
    np.save(path, np.append(vector, [1, 1, 1]))  # three frames too many
    with pytest.warns(UserWarning, match="51 frames, .* make 48: MSAD_normal_testing_1 is cut"):
        assert events.read_vector(path, names, counts, ["Fire"]) == [fire, normal]
    np.save(path, vector[:-5])
    with pytest.warns(UserWarning, match="43 frames, .* make 48"):
        assert events.read_vector(path, names, counts, ["Fire"]) == [fire, normal]
    np.save(path, np.concatenate([vector[:32], np.ones(70), vector[32:]]))  # of three others
    between = [names[0], "Fire_2", "Fire_3", "MSAD_normal_testing_9", names[1]]
    assert events.read_vector(path, between, counts, ["Fire"]) == [fire, normal]
    with pytest.raises(InputError, match="118 frames do not fit the videos at hand; fetch Fire_2"):
        events.read_vector(path, [*between, "Fire_4"], counts, ["Fire"])  # nothing is left of it


def test_lists_match_exact_names_and_crops_of_a_video_count_once(tmp_path):
    folder = tmp_path / UCF.annotation_root
    folder.mkdir(parents=True)
    written(folder, "Abuse/Abuse028_x264.mp4", "", "Abuse/Abuse02.mp4", name="Anomaly_Test.txt")
    written(folder, ROW, name=UCF.annotation_file)
    assert "Anomaly_Test.txt, line 3: Abuse02 has no row in" in refused(read_truth, UCF, tmp_path)
    written(folder, "a/Abuse028_x264.mp4", "b/Abuse028_x264.mp4", name="Anomaly_Test.txt")
    with pytest.raises(InputError, match="line 2: Abuse028_x264 stands in .*line 1 already"):
        read_list(UCF, tmp_path)
    assert "UCF-Crime has no val split, but train, test" in refused(read_list, UCF, tmp_path, "val")
    (folder := tmp_path / XD.annotation_root).mkdir()
    rows = [f"/x/{FIGHT}__{crop}.npy,B1-0-0" for crop in (0, 1)]
    written(folder, "path,label", *rows, name="xd_CLIP_rgbtest.csv")
    [entry] = read_list(XD, tmp_path)
    assert entry.name == FIGHT  # the csv names features, the path is the video's
    assert XD.video_path(tmp_path, entry.entry).name == f"{FIGHT}.mp4"
    written(folder, "path,label", "0,Abuse", name="xd_CLIP_rgbtest.csv")
    assert "line 2: expected a path ending in .npy" in refused(read_list, XD, tmp_path)
    written(folder, "path,label", rows[0], rows[0], name="xd_CLIP_rgbtest.csv")
    assert re.search("line 3: .*__0 stands in .*line 2", refused(read_list, XD, tmp_path))


def test_published_ucf_lists_and_arrays(shared_data):
    for split, counts in UCF.counts.items():
        folders = Counter(e.entry.split("/")[0] for e in read_list(UCF, shared_data, split))
        normal = [folder for folder in folders if "Normal" in folder]
        assert sum(folders.pop(folder) for folder in normal) == counts["normal"]
        assert folders == UCF.class_counts[split]
    truths = read_truth(UCF, shared_data)
    abnormal = [truth for truth in truths if truth.is_abnormal]
    assert Counter(t.classes[0] for t in abnormal) == UCF.class_counts["test"]
    folder = shared_data / UCF.annotation_root
    segments = json.loads((folder / "gt_segment_ucf.json").read_text())
    labels = json.loads((folder / "gt_label_ucf.json").read_text())
    expected = [[list(span) for span in truth.spans] for truth in abnormal]
    assert [[[int(s), int(e)] for s, e in spans] for spans in segments[:140]] == expected
    assert labels[:140] == [list(truth.span_classes) for truth in abnormal]
    assert labels[140:] == [["A"]] * (len(truths) - 140) == [["A"]] * 150


def test_published_xd_arrays(shared_data):
    truths = read_truth(XD, shared_data, by_class=True)
    abnormal = [truth for truth in truths if truth.is_abnormal]
    assert {"abnormal": len(abnormal), "normal": len(truths) - len(abnormal)} == XD.counts["test"]
    assert Counter(t.classes[0] for t in abnormal) == XD.class_counts["test"]
    assert Counter(len(t.classes) for t in abnormal) == {1: 453, 2: 43, 3: 4}
    segments = json.loads((shared_data / XD.annotation_root / "gt_segment.json").read_text())
    labels = json.loads((shared_data / XD.annotation_root / "gt_label.json").read_text())
    for truth, spans, codes in zip(truths[:500], segments, labels, strict=False):
        assert [[str(s), str(e)] for s, e in truth.spans] == spans
        assert [XD.codes[name] for name in truth.span_classes] == codes
    assert labels[500:] == [["A"]] * 300 and not any(t.is_abnormal for t in truths[500:])
