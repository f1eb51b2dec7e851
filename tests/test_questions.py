"""Questions about anomalies and their answers."""

import numpy as np
import pytest
from faults.harness import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import qa_tables
from companion.profiles import load_params
from detectors.benchmarks import load_benchmark
from detectors.event_annotations import VideoTruth
from vagpt import answerers
from vagpt import questions as qs

UCF = load_benchmark("ucf_crime")


def test_footage_is_joined_and_cut():
    truth = VideoTruth("v", ("Fire",), ((30, 300), (400, 500)), True, ("Fire", "Robbery"))
    video = qs.footage(truth, 240, 30)
    assert video == qs.Footage("v", 8.0, ((1.0, 8.0),), ("Fire",))
    calm = qs.Footage("n", 5.0)
    whole = qs.join([calm, video, calm], "v")
    assert whole == qs.Footage("v", 18.0, ((6.0, 13.0),), ("Fire",))


def footages():
    """Twelve with one event of 5 s, each in one of four slots, and twelve normal ones."""
    videos = [qs.Footage(f"v{i}", 32.0) for i in range(24)]
    for i, name in enumerate(UCF.abnormal_classes[:12]):
        start = 8.0 * (i % 4)
        event = (start + 2 + 0.1 * (i % 3), start + 7.5)
        videos[i] = videos[i]._replace(spans=(event,), classes=(name,))
    return videos


def test_joined_videos_are_normal_but_one():
    videos = footages()
    plans = qs.neighbours(videos, 4, seed=0)
    assert all(i in plan and len(set(plan)) == 4 for i, plan in enumerate(plans))
    assert not any(videos[k].spans for i, plan in enumerate(plans) for k in plan if k != i)
    assert len({plan.index(i) for i, plan in enumerate(plans)}) == 4
    assert qs.neighbours(videos, 1, seed=0) == [[i] for i in range(len(videos))]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.5]))
def test_questions_keep_their_rules(seed, max_iou):
    asked = qs.make_questions(footages(), UCF.abnormal_classes, seed, max_iou)
    assert sorted({(q.video, q.kind) for q in asked}) == sorted((q.video, q.kind) for q in asked)
    assert sum(q.kind == "temporal" for q in asked) == 12
    truth = {f.name: f for f in footages()}
    for q in asked:
        video, right = truth[q.video], q.options[q.right]
        assert right == qs.Option(*video.classes, *video.spans)
        events = [option for option in q.options if option.class_name]
        assert len(q.options) == 4 and len(events) == (4 if q.kind == "temporal" else 3)
        assert len({o.class_name for o in events}) == (1 if q.kind == "temporal" else 3)
        for i, one in enumerate(events):
            others = np.array([o.span for k, o in enumerate(events) if k != i])
            assert (qs.span_iou(one.span, others) <= max_iou).all()
            assert 0 <= one.span[0] < one.span[1] <= video.duration


def test_overlap_and_wrong_times_where_the_pool_has_none():
    overlaps = qs.span_iou((0.2, 0.6), np.array([[0.4, 0.8], [0.6, 0.9], [0.0, 1.0]]))
    assert overlaps.tolist() == pytest.approx([0.2 / 0.6, 0, 0.4])
    rng, event = np.random.default_rng(0), (2.0, 8.0)
    video = qs.Footage("v", 8.0, (event,), ("Fire",))
    spans = qs.wrong_spans(np.array([event]), video, 3, 0.5, rng)
    assert len(set(spans)) == 3 and event not in spans  # the least overlapping
    assert len(qs.wrong_spans(np.empty((0, 2)), qs.Footage("n", 8.0), 3, 0.5, rng)) == 3
    asked = qs.make_questions(footages(), UCF.abnormal_classes)
    assert len({q.right for q in asked}) == 4
    assert "3 other classes" in refused(qs.make_questions, footages(), UCF.abnormal_classes[:3])


OPTIONS = (qs.Option("Fire", (1, 2)), qs.Option("RoadAccidents", (2, 5)), qs.Option(),
           qs.Option("Abuse", (0, 9)))  # fmt: skip
ASKED = qs.Question("v", "total", 9.0, OPTIONS, 1)


@pytest.mark.parametrize(("reply", "number"), [
    ("B", 1), (" b", None), ("(C)", 2), ("D.", 3), ("B) road accidents, from 2.0 s to 5.0 s.", 1),
    ("B. fire, from 1.0 s to 2.0 s", None), ("The answer is B", None), ("B or C", None),
    ("E", None), ("", None), ("(B", None), ("A\nB", None), ("C. No anomaly", 2), ("BC", None),
])  # fmt: skip
def test_replies_are_parsed_strictly(reply, number):
    assert qs.parse_reply(reply, ASKED) == number


def test_class_probabilities_by_definition():
    rng = np.random.default_rng(0)
    v, texts = rng.normal(size=(3, 4)), [rng.normal(size=(k, 4)) for k in (2, 1, 3)]
    logs = answerers.class_log_probabilities(v, texts, 2.0)
    raw = [np.exp(2.0 * v @ t.T).sum(axis=1) for t in texts]
    expected = np.stack(raw, axis=1) / np.sum(raw, axis=0)[:, None]
    assert np.allclose(np.exp(logs), expected)
    logits = np.array([-1.0, 0.0, 3.0])
    split = np.exp(answerers.class_log_probabilities(v, texts, 2.0, logits))
    p = 1 / (1 + np.exp(-logits))
    assert np.allclose(split[:, 0], 1 - p)
    assert np.allclose(split[:, 1:], p[:, None] * expected[:, 1:] / (1 - expected[:, :1]))


def test_likelihood_of_an_option_by_hand():
    logs, times = -np.arange(12.0).reshape(4, 3), np.array([0.5, 1.5, 2.5, 3.5])
    classes = ["Normal", "Fire", "Abuse"]
    assert answerers.option_log_likelihood(qs.Option(), logs, times, classes) == -(0 + 3 + 6 + 9)
    inside = answerers.option_log_likelihood(qs.Option("Abuse", (1.5, 3.5)), logs, times, classes)
    assert inside == -(0 + 5 + 8 + 9)  # start in, end out


def test_oracle_frames_answer_everything():
    videos = footages()
    classes = ["Normal", *UCF.abnormal_classes]
    logs, times = {}, (np.arange(64) + 0.5) / 2
    for video in videos:
        column = np.zeros(64, int)
        for (start, end), name in zip(video.spans, video.classes, strict=True):
            column[(times >= start) & (times < end)] = classes.index(name)
        logs[video.name] = np.where(column[:, None] == np.arange(len(classes)), -0.1, -9.0)
    asked = qs.make_questions(videos, UCF.abnormal_classes)
    answer = answerers.similarity_answerer(logs, 0.5, classes)
    table = answerers.accuracy_table(answerers.answer_all(asked, answer), "oracle")
    assert table["value"].tolist() == [100] * 4 and table["n"].tolist() == [24, 12, 12, 12]
    assert table["above_chance"].all() and table["high"].tolist() == pytest.approx([100] * 4)


def test_accuracy_counts_what_cannot_be_parsed_as_wrong():
    asked = [ASKED._replace(video=str(i)) for i in range(10)]
    replies = iter(["B"] * 4 + ["C"] * 3 + ["Perhaps B"] * 3)
    given_there = answerers.answer_all(asked, lambda _: next(replies))
    row = answerers.accuracy_table(given_there, "m").iloc[0]
    assert (row["value"], row["unparsable"], row["n"]) == pytest.approx((40, 30, 10))
    assert [row["low"], row["high"]] == pytest.approx([16.82, 68.73], abs=0.01)  # Wilson 1927
    assert not row["above_chance"]


def test_a_prompt_lists_the_options_after_the_prior():
    lines = qs.prompt(ASKED, "w").splitlines()
    assert lines[0] == "w" and lines[3:6:2] == ["A. fire, from 1.0 s to 2.0 s", "C. No anomaly"]


def test_blind_goes_by_other_footage_only():
    right = [("Fire", (0, 4)), ("Fire", (0, 4)), ("Abuse", (5, 9)), ("Abuse", (5, 9))]
    wrong = (qs.Option("Abuse", (5, 9)), qs.Option("Fire", (0, 4)), qs.Option("Arson", (1, 2)))
    options = [(qs.Option(*pair), *wrong) for pair in right]
    asked = [qs.Question(str(i), "total", 10.0, offered, 0) for i, offered in enumerate(options)]
    blind = answerers.blind_answerer(asked)
    assert blind(asked[3]) == "C"  # Fire: its own Abuse does not count
    times = tuple(qs.Option("Abuse", span) for span in [(6, 9), (0, 4), (9, 10), (4, 6)])
    assert blind(qs.Question("new", "temporal", 10.0, times, 0)) == "B"


def test_differences_are_paired():
    asked = [ASKED._replace(video=str(i)) for i in range(8)]
    old = answerers.answer_all(asked, lambda q: "B" if int(q.video) < 2 else "A")
    new = answerers.answer_all(asked, lambda q: "B" if int(q.video) < 6 else "A")
    row = answerers.accuracy_differences({"old": old, "new": new}).iloc[0]
    assert row["value"] == pytest.approx(50) and row["difference"] == "new minus old"
    assert 0 < row["low"] < 50 < row["high"]


def test_footage_intervals_are_measured_against_the_longest_event():
    video = qs.Footage("v", 10.0, ((0.0, 1.0), (4.0, 8.0)), ("Fire", "Fire"))
    asked = qs.QuestionSet([video], [[0]], [video], [], 0.5, [])
    spans = {"picked": {"v": (4.0, 6.0)}, "whole": {"v": (0.0, 10.0)}}
    P = load_params("smoke")
    picked, whole = (qa_tables.interval_table(P, asked, s, "m")["value"] for s in spans.values())
    assert picked.tolist() == pytest.approx([50, 100]) and whole[0] == pytest.approx(40)
    joined = asked._replace(parts=[[1, 0]]).joined([np.zeros(2), np.ones(3)])
    assert joined["v"].tolist() == [1, 1, 1, 0, 0]
