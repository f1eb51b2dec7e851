"""Boxes over time: exact at keyframes, linear between, nothing where there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alertclip import records
from alertclip.records import (
    WHOLE_FRAME,
    Keyframe,
    Region,
    box_at,
    boxes_at,
    frame_time,
    region_span,
)

LEFT, RIGHT = (0.0, 0.1, 0.4, 0.5), (0.6, 0.3, 1.0, 0.9)


@st.composite
def tracks(draw):
    frames = sorted(draw(st.sets(st.integers(1, 100_000), min_size=2, max_size=8)))
    unit = st.floats(0, 0.49)
    boxes = [(x, y, x + 0.5, y + 0.5) for x, y in (draw(st.tuples(unit, unit)) for _ in frames)]
    return tuple(Keyframe(f, b, True) for f, b in zip(frames, boxes, strict=True))


@settings(max_examples=60, deadline=None)
@given(tracks(), st.floats(0, 1))
def test_exact_at_keyframes_and_linear_between(track, share):
    for keyframe in track:
        assert box_at(track, frame_time(keyframe.frame)) == keyframe.box
    for a, b in zip(track, track[1:], strict=False):
        time = frame_time(a.frame) + share * (frame_time(b.frame) - frame_time(a.frame))
        expected = (1 - share) * np.array(a.box) + share * np.array(b.box)
        np.testing.assert_allclose(box_at(track, time), expected, atol=1e-6)


@pytest.mark.parametrize("enabled", [True, False])
def test_no_box_before_the_first_or_after_the_last_keyframe(enabled):
    track = (Keyframe(26, LEFT), Keyframe(51, RIGHT, enabled))
    assert box_at(track, 0.99) is None and box_at(track, 2.01) is None
    assert box_at(track, 1.0) == LEFT and box_at(track, 2.0) == RIGHT
    assert region_span(Region("", track)) == (1.0, 2.0)


def test_no_box_between_a_disabled_keyframe_and_the_next():
    track = (Keyframe(1, LEFT), Keyframe(26, LEFT, False), Keyframe(51, RIGHT))
    assert box_at(track, 1.0) == LEFT and box_at(track, 2.0) == RIGHT
    assert box_at(track, 1.5) is None


@pytest.mark.parametrize("enabled", [True, False])
def test_single_keyframe_is_a_short_window(enabled):
    track, half = (Keyframe(26, LEFT, enabled),), records.HALF_WINDOW / 25
    assert region_span(Region("", track)) == (1 - half, 1 + half)
    assert box_at(track, 1 + half) == box_at(track, 1 - half) == LEFT
    assert box_at(track, 1.01 + half) is None
    assert region_span(Region("", (Keyframe(1, LEFT),)))[0] == 0


def test_no_track_is_the_whole_frame_within_its_span():
    boxes, mask = boxes_at(Region("anything"), np.array([0.0, 5.0]))
    assert box_at((), 3.0) == WHOLE_FRAME and region_span(Region("")) is None
    assert mask.all() and (boxes == WHOLE_FRAME).all()
    boxes, mask = boxes_at(Region("", span=(1.0, 2.0)), np.array([0.5, 1.0, 1.5, 2.5]))
    assert mask.tolist() == [False, True, True, False] and (boxes == WHOLE_FRAME).all()


def test_a_region_between_the_samples_takes_the_nearest_one():
    times = np.array([0.0, 4.0, 8.0])
    track = (Keyframe(76, LEFT), Keyframe(84, RIGHT))  # 3.0 to 3.32 s
    boxes, mask = boxes_at(Region("", track), times)
    assert mask.tolist() == [False, True, False]
    np.testing.assert_allclose(boxes[1], RIGHT)
    assert boxes_at(Region("", span=(7.0, 7.1)), times)[1].tolist() == [False, False, True]
