"""VAGTA as published: counts of the real files, and every quirk repaired, kept or refused."""

import json
from collections import Counter

import pytest

from alertclip.records import region_span, token_count
from alertclip.vagta import load_surrogate, load_vagta, strip_prefix

VIDEO = "UCF_Crimes_Videos/UCF_Crimes/Videos/Fighting/Fighting002_x264.mp4"
NORMAL = "UCF_Crimes_Videos/UCF_Crimes/Videos/Testing_Normal_Videos_Anomaly/Normal_Videos_003.mp4"


def keyframe(frame=2, bbox=(0.1, 0.2, 0.5, 0.8), enabled=True):
    return {"frame": frame, "bbox": list(bbox), "enabled": enabled, "_track_id": None}


def item(**changes):
    track = [keyframe(2), keyframe(20, enabled=False)]
    return {
        "video": VIDEO,
        "global_caption": "Fighting abnormal video: two men fight",
        "region_captions": ["two men fight"],
        "box_infos": [track],
        "timestamps": None,
    } | changes


def qwen(**changes):
    return {
        "video": VIDEO,
        "region_index": 0,
        "frames_25": [2, 20],
        "region_caption": "two men fight",
        "hard_negative": ["two men hug", "two men dance", "two men wave"],
        "timestamps": None,
    } | changes


def written(tmp_path, content, name="file.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


def load(tmp_path, *rows):
    items, report = load_vagta(written(tmp_path, list(rows)))
    return items, report.counts()


def load_qwen(tmp_path, *rows):
    items, report = load_surrogate(written(tmp_path, {"model": "m", "items": list(rows)}))
    return items, report.counts()


@pytest.fixture(scope="module")
def test_file(shared_data):
    return load_vagta(shared_data / "vagta/Final_ucf_fgclip_translated_qwen_test.json")


def test_published_test_file(test_file):
    items, report = test_file
    regions = [region for i in items for region in i.regions]
    tracks = [region.track for region in regions if region.track]
    assert (len(items), len({i.video for i in items}), len(regions)) == (702, 494, 734)
    assert (len(tracks), sum(map(len, tracks))) == (290, 2076)
    assert sum(not track[-1].enabled for track in tracks) == 230
    assert all(k.enabled for track in tracks for k in track[:-1])
    assert sum(not i.is_abnormal for i in items) == 444
    assert sum(i.timestamps is not None for i in items) == 324
    assert Counter(i.dataset for i in items if i.is_abnormal) == {"UCF-Crime": 138, "MSAD": 120}
    assert Counter(i.dataset for i in items if not i.is_abnormal) == {"UCF-Crime": 324, "MSAD": 120}
    assert len({i.class_name for i in items if i.is_abnormal and i.dataset == "UCF-Crime"}) == 13
    assert len({r.caption for r in regions}) == 570
    assert len({i.global_caption for i in items}) == 357
    assert report.counts() == {
        "last keyframe enabled": 60,
        "track with a single keyframe": 20,
        "region caption over 20 CLIP tokens": 20,
        "box beyond the frame by rounding": 5,
        "global caption not plain ASCII": 3,
        "global caption without class prefix": 2,
        "region caption not plain ASCII": 2,
    }
    assert max(token_count(r.caption) for r in regions) == 32


def test_published_hard_negative_file(shared_data, test_file):
    items, report = load_surrogate(shared_data / "vagta/qwen_vl_train.json")
    regions = [(i, region) for i in items for region in i.regions]
    abnormal = [i for i in items if i.is_abnormal]
    assert (len(regions), len(items), len({i.video for i in items})) == (3726, 3485, 2044)
    assert (len(abnormal), sum(len(i.regions) for i in abnormal)) == (900, 1141)
    normal = Counter(i.dataset for i in items if not i.is_abnormal)
    assert normal == {"UCF-Crime": 2225, "MSAD": 360}
    assert len({i.video for i in items if not i.is_abnormal}) == 784 + 360
    per_class = Counter(i.class_name for i, _ in regions if i.dataset == "UCF-Crime")
    assert per_class["Robbery"] == 195 and per_class["Shooting"] == 52
    assert len(per_class) == 14
    assert len({region.caption for _, region in regions}) == 2723
    assert all(region.span for i, region in regions if i.is_abnormal)
    counts = report.counts()
    expected = {
        "hard negative over 20 CLIP tokens": 584,
        "region caption over 20 CLIP tokens": 133,
        "hard negative equals its caption": 2,
        "no hard negative": 1,
        "region of a single frame": 34,
        "hard negative not plain ASCII": 19,
        "region caption not plain ASCII": 21,
        "segment shorter than 1 s": 3,
        "surrogate: global caption and boxes": 900,
        "overlaps an earlier segment": 10,
    }
    assert expected.items() <= counts.items()
    kept = sum(len(region.hard_negatives) for _, region in regions)
    assert kept == 11175 - 2 - counts["repeated hard negative"]
    overlapping = {r.item.split("#")[0] for r in report.rows if "overlaps" in r.reason}
    assert len(overlapping) == 8 and any("Normal_Videos046" in video for video in overlapping)
    assert not {i.video for i in test_file[0]} & {i.video for i in items}


def test_negatives_are_merged_by_video_region_and_timestamps(tmp_path):
    rows = [
        item(region_captions=["two men fight", "a third falls"], box_infos=[[], []]),
        item(video=NORMAL, timestamps=[0.0, 10.0]),
        item(video=NORMAL, timestamps=[10.0, 20.5]),
    ]
    negatives = [
        qwen(region_index=1, region_caption="a third falls", hard_negative=["a third sits"]),
        qwen(video=NORMAL, timestamps=[10.0, 20.5], region_caption="calm", hard_negative=["later"]),
        qwen(video=NORMAL, timestamps=[30.0, 40.0]),
    ]
    path = written(tmp_path, {"items": negatives}, "qwen.json")
    items, report = load_vagta(written(tmp_path, rows), path)
    merged = [[region.hard_negatives for region in i.regions] for i in items]
    assert merged == [[(), ("a third sits",)], [()], [("later",)]]
    assert report.counts()["no hard negative"] == 2
    assert report.counts()["hard negatives written for another caption"] == 1
    unused = [r for r in report.rows if r.reason == "hard negatives without a region"]
    assert [r.item for r in unused] == [f"{NORMAL}#30-40 region 0"]
    report.to_csv(tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_text().startswith("item,reason,action\n")


@pytest.mark.parametrize("row", [None, 3, "text", [], {}])
def test_rows_of_a_wrong_type_are_left_out(tmp_path, row):
    assert load(tmp_path, row) == load_qwen(tmp_path, row) == ([], {"no video path": 1})


NO_BOX = ([0.1, float("nan"), 0.5, 0.8], [0.5, 0.2, 0.1, 0.8], [0.1, 0.2, 0.1, 0.8])
NO_BOX += ([10, 20, 100, 200], [0.1, 0.2, 0.5], [True, 0, 1, 1])
BAD_KEYFRAMES = [{"bbox": box} for box in NO_BOX] + [{"enabled": "false"}]
BAD_KEYFRAMES += [{"frame": frame} for frame in (0, 2.5, float("inf"), "2")]


@pytest.mark.parametrize("bad", BAD_KEYFRAMES)
def test_a_bad_box_drops_its_track_and_keeps_the_item(tmp_path, bad):
    items, counts = load(tmp_path, item(box_infos=[[keyframe(1), keyframe(5) | bad]]))
    assert items[0].regions[0].track == ()
    assert [n for reason, n in counts.items() if reason.startswith("bad box")] == [1]


def test_boxes_are_clamped_and_keyframes_sorted(tmp_path):
    track = [keyframe(9), keyframe(3, (-1e-14, 0.2, 1 + 1e-14, 0.8)), keyframe(9, enabled=False)]
    items, counts = load(tmp_path, item(box_infos=[track]))
    kept = items[0].regions[0].track
    assert [(k.frame, k.enabled) for k in kept] == [(3, True), (9, False)]
    assert kept[0].box == (0.0, 0.2, 1.0, 0.8)
    assert counts["box beyond the frame by rounding"] == counts["keyframes not increasing"] == 1


def test_hard_negatives_are_cleaned_and_counted(tmp_path):
    texts = ["Two men  fight", "two men hug", "two men hug", "", 7, "long " * 21, "两个人"]
    items, counts = load_qwen(tmp_path, qwen(hard_negative=texts))
    assert items[0].regions[0].hard_negatives == ("two men hug", "long " * 21, "两个人")
    reasons = ["equals its caption", "is not text", "over 20 CLIP tokens"]
    assert [counts[f"hard negative {reason}"] for reason in reasons] == [1, 2, 1]
    assert counts["repeated hard negative"] == 1
    for raw, reason in [("hug", "hard negatives are not a list"), ([], "no hard negative")]:
        items, counts = load_qwen(tmp_path, qwen(hard_negative=raw))
        assert items[0].regions[0].hard_negatives == () and counts[reason] == 1


def test_surrogate_items_say_so(tmp_path):
    rows = [qwen(region_index=1, frames_25=[26, 26]), qwen(), qwen(), qwen(region_index=[])]
    (made,), counts = load_qwen(tmp_path, *rows)
    assert made.global_caption == "Fighting abnormal video: two men fight"
    assert made.surrogate == ("global caption", "boxes")
    assert [region_span(region) for region in made.regions] == [(0.04, 0.76), (1.0, 1.0)]
    assert counts["duplicate region"] == counts["region of a single frame"] == 1
    assert counts["region_index is not a whole number from 0"] == 1


def test_segments_that_overlap_repeat_or_are_odd_are_counted(tmp_path):
    times = [[0, 60], [0, 60], [30, 40], [60, 60.5], [100, 3000]]
    items, counts = load(tmp_path, *(item(video=NORMAL, timestamps=t) for t in times))
    assert len(items) == 4 == len({i.key for i in items})
    assert counts["duplicate item, equal content"] == counts["overlaps an earlier segment"] == 1
    assert counts["segment shorter than 1 s"] == counts["segment longer than 1800 s"] == 1


def test_prefix_is_stripped():
    for prefix, rest in (
        ("Normal video: ", "people walk"),
        ("Abnormal video of people falling: ", "a man falls"),
        ("Water incident: Abnormal video showing ", "water spilling"),
        ("Fighting Abnormal Video: ", "a: b"),
        ("", "A dog drags a belt in a disturbing video."),
    ):
        assert strip_prefix(prefix + rest) == rest
