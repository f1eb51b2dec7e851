"""Clips: segments, boxes over time, padding, failures that are named, and batches."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from faults.harness import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_video import SIZE, ids, write_ids

from alertclip import records
from alertclip.clips import ClipDataset, collate, cover_spans
from alertclip.records import WHOLE_FRAME, Item, Keyframe, Region, box_at, boxes_at, region_span
from companion import splits
from media.cache import FrameCache, parts_ahead
from media.survey import VideoInfo, uniform_indices

FIGHT = "UCF_Crimes_Videos/UCF_Crimes/Videos/Fighting/Fighting002_x264.mp4"
CALM = "UCF_Crimes_Videos/UCF_Crimes/Videos/Testing_Normal_Videos_Anomaly/Normal_Videos_003.mp4"
LEFT, RIGHT = (0.0, 0.1, 0.4, 0.5), (0.6, 0.3, 1.0, 0.9)
POINTS = st.tuples(st.integers(1, 100_000), st.floats(0, 0.49), st.floats(0, 0.49))
video_info = partial(VideoInfo, width=4, height=4)
TRACK = (Keyframe(6, (0.0, 0.0, 0.5, 0.5)), Keyframe(16, (0.5, 0.5, 1.0, 1.0), False))


def fight(*regions: Region, video: str = FIGHT) -> Item:
    return Item(video, "Fighting abnormal video: a", regions or (Region("men fight", TRACK),))


def calm(start: float, end: float) -> Item:
    return Item(CALM, "Normal video: b", (Region("people walk"),), (start, end))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> partial:
    """ClipDataset of two videos, of items and a number of frames."""
    folder = tmp_path_factory.mktemp("data")
    for video in (FIGHT, CALM):
        (folder / video).parent.mkdir(parents=True)
        write_ids(folder / video)
    return partial(ClipDataset, folder, cache=FrameCache(folder / "cache", SIZE), workers=1)


def test_boxes_follow_the_sampled_frames(clips):
    sample = clips([fight()], 8)[0]
    assert ids(sample["frames"]) == [2, 7, 12, 17, 22, 27, 32, 37]
    np.testing.assert_allclose(sample["times"] * 30, [2, 7, 12, 17, 22, 27, 32, 37])
    boxes, present, caption, negatives = sample["regions"][0]
    assert present.tolist() == [0.2 <= t <= 0.6 for t in sample["times"]]
    expected = [box_at(TRACK, time) or WHOLE_FRAME for time in sample["times"]]
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)
    assert (caption, negatives, sample["label"]) == ("men fight", [], 1)
    assert (sample["class_name"], sample["key"]) == ("Fighting", FIGHT)
    assert sample["mask"].all() and sample["frames"].dtype == np.uint8


def test_a_segment_gives_its_own_frames_and_short_ones_are_padded(clips):
    dataset = clips([calm(0, 0.5), calm(0.5, 0.6)], 6)
    assert ids(dataset[0]["frames"]) == [1, 3, 6, 8, 11, 13]
    short = dataset[1]
    assert ids(short["frames"]) == [15, 16, 17, 17, 17, 17]
    assert short["mask"].tolist() == [True] * 3 + [False] * 3
    assert short["times"][0] == 0.5 and short["label"] == 0
    assert short["regions"][0][1].tolist() == short["mask"].tolist()


def test_training_sees_every_region_and_evaluation_knows_of_none(clips):
    box = (0, 0, 0.5, 0.5)
    tracks = [(Keyframe(f, box), Keyframe(f + 1, box)) for f in (3, 4, 25, 30)]
    regions = [Region(str(track[0].frame), track) for track in tracks]
    blind = clips([fight(*regions)], 8)[0]
    assert blind["times"].tolist() == clips([fight()], 8)[0]["times"].tolist()
    sample = clips([fight(*regions)], 8, cover=True)[0]
    assert sample["times"].tolist() != blind["times"].tolist()
    for region, (_, present, caption, _) in zip(regions, sample["regions"], strict=True):
        start, end = region_span(region)
        inside = (sample["times"] >= start) & (sample["times"] <= end)
        assert inside.any() and present.tolist() == inside.tolist(), caption


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 30), st.lists(st.tuples(st.floats(0, 9), st.floats(0.05, 3)), max_size=5))
def test_covering_spans_keeps_order_and_number(count, starts):
    info = video_info(300, 30.0)
    indices = ((np.arange(count) + 0.5) * 300 / count).astype(int)
    spans = [(start, min(start + length, 9.9)) for start, length in starts]
    moved = cover_spans(indices, spans, info)
    assert len(moved) == count and (np.diff(moved) > 0).all()
    assert moved[0] >= 0 and moved[-1] < 300
    if len(spans) <= count:
        times = moved / 30
        assert all(((times >= s) & (times <= e)).any() for s, e in spans if e > s)


def test_what_cannot_be_read_is_named_and_left_out(clips, tmp_path):
    root, bad = clips.args[0], ["gone.mp4", "broken.mp4"]
    (root / "broken.mp4").write_bytes(b"nothing" * 100)
    (root / "link.mp4").symlink_to(write_ids(tmp_path / "outside.mp4", 3))
    items = [fight(video=name) for name in [*bad, "link.mp4"]] + [fight(), calm(5, 6)]
    with pytest.warns(UserWarning, match="3 of 5 clips are left out"):
        dataset = clips(items, 4, workers=2)
    assert [item.key for item in dataset.items] == ["link.mp4", FIGHT]  # links are the user's
    failed = {failure.item: failure.reason for failure in dataset.failures}
    assert failed.keys() == {*bad, f"{CALM}#5-6"}
    assert "begins at 5.00 s" in failed[f"{CALM}#5-6"] and "gone.mp4" in failed["gone.mp4"]
    assert re.search(r"none of 1 clips.*gone\.mp4", refused(clips, [fight(video="gone.mp4")], 4))
    assert "twice" in refused(clips, [fight(), fight()], 4)


def test_shapes_of_a_batch_and_the_digest_of_videos_and_sampling(clips):
    dataset = clips([fight(Region("a", TRACK, ("x", "y")), Region("b")), calm(0.5, 0.6)], 6)
    batch = collate([dataset[0], dataset[1]]).to("cpu")
    assert batch.frames.shape == (2, 6, 3, *SIZE) and batch.frames.dtype == torch.uint8
    assert batch.frames[0, :, 0, 0, 0].tolist() == dataset[0]["frames"][:, 0, 0, 0].tolist()
    assert batch.mask.dtype == batch.region_mask.dtype == torch.bool
    assert batch.region_clip.tolist() == [0, 0, 1] and batch.boxes.shape == (3, 6, 4)
    assert batch.hard_negatives == [["x", "y"], [], []] and batch.labels.tolist() == [1, 0]
    assert batch.boxes.dtype == torch.float32 and batch.keys == [FIGHT, f"{CALM}#0.5-0.6"]
    assert collate([dict(dataset[1], regions=[])]).boxes.shape == (0, 6, 4)
    cases = [(fight(), 4), (fight(), 4), (fight(), 5), (calm(0, 1), 4)]
    digests = [clips([item], frames).digest() for item, frames in cases]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_validation_holds_out_whole_videos_and_a_video_of_two_splits_stops_the_run(monkeypatch):
    videos = [f"V/{name}/{name}{i}.mp4" for name in ("Arson", "Robbery") for i in range(20)]
    items = [Item(v, "", (Region("r"),), (s, s + 1.0)) for v in videos for s in range(3)]
    items.append(Item("V/Fighting/only.mp4", "", (Region("r"),)))
    train, held = splits.split_validation(items, 0.1, seed=3)
    assert not {i.video for i in train} & {i.video for i in held}
    assert len(train) + len(held) == len(items)
    assert sorted(i.class_name for i in held) == ["Arson"] * 6 + ["Robbery"] * 6
    again, other = (splits.split_validation(items, 0.1, seed)[1] for seed in (3, 4))
    assert held == again != other
    videos = {"train": ["a.mp4", "b.mp4"], "dev": ["c.mp4"], "test": ["d.mp4"]}
    split = lambda P, name: ([Item(v, "", ()) for v in videos[name]], None)  # noqa: E731
    monkeypatch.setattr(splits, "load_split", split)
    splits.require_disjoint(None)
    videos["test"].append("b.mp4")
    assert "b.mp4 is in both train and test" in refused(splits.require_disjoint, None)


def test_parts_come_in_order_and_wait_for_the_caller():
    begun = []

    def read(item):
        for part in range(3):
            begun.append((item, part))
            yield item, part

    parts = []
    for i, part in enumerate(parts_ahead(read, range(7), workers=2)):
        parts.append(part)
        assert len(begun) <= i + 4  # what was given, and one per worker and one ahead
    assert sorted(parts) == [(item, part) for item in range(7) for part in range(3)]
    assert all([p for i, p in parts if i == item] == [0, 1, 2] for item in range(7))


def test_uniform_indices_are_centres_of_equal_bins_of_frames_or_of_time():
    assert uniform_indices(video_info(8, 1), 0, 8, 4).tolist() == [1, 3, 5, 7]
    assert uniform_indices(video_info(300, 30), 1, 2, 3).tolist() == [35, 45, 55]
    assert uniform_indices(video_info(300, 4), 1, 2, 16).tolist() == [4, 5, 6, 7]  # end-exclusive
    assert uniform_indices(video_info(10, 1), 9, 99, 4).tolist() == [9]  # clipped to the video
    assert uniform_indices(video_info(300, 25), 0.99, 1.0, 4).tolist() == [25]  # never empty
    hour = video_info(108_000, 30)
    assert uniform_indices(hour, 0, 3600, 7)[[0, -1]].tolist() == [7714, 100285]
    slow = video_info(12, 1.5, times=(*np.arange(8) / 8, 1.0, 3.0, 5.0, 7.0, 9.0))  # 8 fps, then .5
    assert uniform_indices(slow, 0, 9, 4).tolist() == [1, 4, 7, 10]
    assert uniform_indices(slow, 0, 9, 4, "time").tolist() == [8, 9, 10, 11]
    assert uniform_indices(slow, 0, 0.5, 2, "time").tolist() == [1, 3]
    assert slow.duration == 9 and slow.clock[[3, 9]].tolist() == [0.375, 3.0]
    assert uniform_indices(slow, 3, 6.9, 9).tolist() == [9, 10]  # spans are times
    assert cover_spans(np.array([0, 4]), [(4.5, 5.5)], slow).tolist() == [0, 10]


@settings(max_examples=60, deadline=None)
@given(st.lists(POINTS, min_size=2, max_size=8, unique_by=lambda p: p[0]), st.floats(0, 1))
def test_exact_at_keyframes_and_linear_between(points, share):
    track = tuple(Keyframe(f, (x, y, x + 0.5, y + 0.5)) for f, x, y in sorted(points))
    for keyframe in track:
        assert box_at(track, records.frame_time(keyframe.frame)) == keyframe.box
    for a, b in zip(track, track[1:], strict=False):
        start, end = records.frame_time(a.frame), records.frame_time(b.frame)
        expected = (1 - share) * np.array(a.box) + share * np.array(b.box)
        box = box_at(track, start + share * (end - start))
        np.testing.assert_allclose(box, expected, atol=1e-6)


@pytest.mark.parametrize("enabled", [True, False])
def test_no_box_before_the_first_keyframe_or_after_the_last_or_a_disabled_one(enabled):
    track = (Keyframe(26, LEFT), Keyframe(51, RIGHT, enabled))
    assert box_at(track, 0.99) is None and box_at(track, 2.01) is None
    assert box_at(track, 1.0) == LEFT and box_at(track, 2.0) == RIGHT
    assert region_span(Region("", track)) == (1.0, 2.0)
    track, half = (Keyframe(26, LEFT, enabled),), records.HALF_WINDOW / 25  # a short window
    assert region_span(Region("", track)) == (1 - half, 1 + half)
    assert box_at(track, 1 + half) == box_at(track, 1 - half) == LEFT
    assert box_at(track, 1.01 + half) is None
    assert region_span(Region("", (Keyframe(1, LEFT),)))[0] == 0
    track = (Keyframe(1, LEFT), Keyframe(26, LEFT, False), Keyframe(51, RIGHT))
    assert box_at(track, 1.0) == LEFT and box_at(track, 2.0) == RIGHT
    assert box_at(track, 1.5) is None  # between a disabled keyframe and the next


def test_no_track_is_the_whole_frame_within_its_span_and_the_nearest_sample_has_a_box():
    boxes, mask = boxes_at(Region("anything"), np.array([0.0, 5.0]))
    assert box_at((), 3.0) == WHOLE_FRAME and region_span(Region("")) is None
    assert mask.all() and (boxes == WHOLE_FRAME).all()
    boxes, mask = boxes_at(Region("", span=(1.0, 2.0)), np.array([0.5, 1.0, 1.5, 2.5]))
    assert mask.tolist() == [False, True, True, False] and (boxes == WHOLE_FRAME).all()
    times, track = np.array([0.0, 4.0, 8.0]), (Keyframe(76, LEFT), Keyframe(84, RIGHT))
    boxes, mask = boxes_at(Region("", track), times)  # 3.0 to 3.32 s: between the samples
    assert mask.tolist() == [False, True, False]
    np.testing.assert_allclose(boxes[1], RIGHT)
    assert boxes_at(Region("", span=(7.0, 7.1)), times)[1].tolist() == [False, False, True]
