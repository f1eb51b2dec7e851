"""Class metrics, open vocabulary, false alarms and mAP@IoU, by hand and by definition."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from detectors import recognition
from detectors.benchmarks import load_benchmark
from detectors.event_annotations import VideoTruth
from detectors.fitting import zero_shot_score
from detectors.frame_metrics import FrameScores
from media.errors import InputError

CLASSES = ["normal", "fight", "fire"]


def event(name, *spans, label="fight"):
    return VideoTruth(name, (label,), spans, True)


def normal(name):
    return VideoTruth(name, (), (), False)


def test_segments_by_hand():
    curve = np.full(32, 0.1)
    curve[[2, 3, 4]], curve[20], curve[[30, 31]] = (0.9, 0.6, 0.43), 0.8, 0.7
    # The threshold is 0.9 - 0.6 * 0.8 = 0.42; frame 20 is too short.
    spans, scores = recognition.curve_segments(curve)
    # The class confidence is the mean of 32 / 16 = 2 frames, .9 and .8.
    assert spans.tolist() == [[2, 5], [30, 32]]
    assert scores == pytest.approx([0.9 + 0.7 * 0.85, 0.7 + 0.7 * 0.85])
    # Exactly at the threshold is outside: max 1, min 0, threshold 1 - 0.6.
    at = np.zeros(32)
    at[4:6], at[6] = 1.0, 1 - 0.6
    assert recognition.curve_segments(at)[0].tolist() == [[4, 6]]
    # A constant curve, a short one, and one without confidence have none.
    for none in (np.full(32, 0.5), np.arange(15) / 15, -np.arange(32.0) - 1):
        assert len(recognition.curve_segments(none)[0]) == 0


def test_matching_is_greedy_and_hits_an_event_once():
    segments = np.array([0, 0, 1, 0]), np.array([[0, 10], [1, 11], [0, 10], [20, 26]])
    truth = {0: np.array([[2, 12], [0, 10], [20, 30]])}
    # First takes [0, 10), the second what remains of the two; no event in video 1; then 6 / 10.
    assert recognition.matches(*segments, truth, 0.6).tolist() == [True, True, False, True]
    assert recognition.matches(*segments, truth, 0.9).tolist() == [True, False, False, False]
    single = {0: np.array([[0, 10]])}
    assert recognition.matches(*segments, single, 0.1).tolist() == [True, False, False, False]


def map_case():
    """Curves of two classes for two videos of 32 frames, each segment a hit or a miss."""
    abnormal, calm = np.full((2, 32, 2), 0.1)
    abnormal[:4, 1], abnormal[10:12, 1], abnormal[20:23, 1] = 0.9, 0.8, 0.6  # hit, miss, hit
    abnormal[12:20, 0] = 0.5  # normal in an abnormal video: a miss
    calm[5:8, 1], calm[8:, 0] = 0.75, 0.9  # a miss; 24 of the 32 frames that are all normal
    return [abnormal, calm], [event("a", (0, 4), (20, 27)), normal("n")], ["normal", "fight"]


@pytest.mark.parametrize(("normal_class", "with_normal", "by_class", "last"), [
    # The calm video's miss stands third; at IoU 0.5 the segment of 3 / 7 is a miss as well.
    ("normal", True, [1, (1 + 2 / 4) / 2], [1, 1 / 2]),
    ("normal", False, [0, (1 + 2 / 3) / 2], [0, 1 / 2]),
    (None, True, [0, (1 + 2 / 4) / 2], [0, 1 / 2]),
])  # fmt: skip
def test_map_by_hand(normal_class, with_normal, by_class, last):
    table = recognition.detection_map(*map_case(), normal_class, with_normal)
    expected = [100 * np.mean(by_class)] * 4 + [100 * np.mean(last)]  # IoU 0.1 to 0.5
    assert table["value"].tolist() == pytest.approx([*expected, np.mean(expected)])
    assert table["metric"].iloc[[0, -1]].tolist() == ["mAP@0.1", "mAP@AVG"]


def test_a_class_without_segments_empties_the_map_and_an_unknown_one_is_named():
    scores, truths, classes = map_case()
    for curves in scores:
        curves[:, 0] = 0.2
    assert not recognition.detection_map(scores, truths, classes, "normal")["value"].any()
    truths[0] = event("x", (0, 4), label="a")
    with pytest.raises(InputError, match="x: class a is none of"):
        recognition.detection_map(scores, truths, classes, None)


def class_case(seed=0, absent=()):
    rng = np.random.default_rng(seed)
    videos = []
    for i, label in enumerate(["fight", "fire", "fight", None, None]):
        n = 30 + 10 * i
        truth = np.zeros((n, 3), bool)
        if label and label not in absent:
            truth[5:15, CLASSES.index(label)] = True
        truth[:, 0] = ~truth[:, 1:].any(axis=1)  # the normal class has frames, but no row
        scores = np.round(rng.uniform(size=(n, 3)) + 0.4 * truth, 1)  # many ties
        videos.append(FrameScores(f"v{i}", scores, truth, label is not None))
    return videos


def by_class(videos, n_boot):
    table = recognition.class_metrics([videos], CLASSES, "normal", n_boot)
    return table.set_index(["class_name", "metric"])


def test_class_metrics_against_scikit_learn():
    videos = class_case()
    table = by_class(videos, n_boot=50)
    scores, truth = (np.concatenate([getattr(v, f) for v in videos]) for f in ("scores", "truth"))
    for metric, function in {"AUC": roc_auc_score, "AP": average_precision_score}.items():
        each = [function(truth[:, c], scores[:, c]) for c in (1, 2)]
        assert table.loc[("fight", metric), "value"] == pytest.approx(each[0])
        assert table.loc[("fire", metric), "value"] == pytest.approx(each[1])
        assert table.loc[("mean", metric), "value"] == pytest.approx(np.mean(each))
    assert set(table["n"]) == {250} and (table["low"] <= table["high"]).all()


def test_absent_classes_do_not_count():
    means = by_class(class_case(absent=["fire"]), n_boot=20)["value"].unstack("class_name")
    assert set(means) == {"mean", "fight"}
    assert means["mean"].tolist() == means["fight"].tolist()
    with pytest.raises(InputError, match="no frame of any abnormal class"):
        recognition.class_metrics([class_case(absent=["fire", "fight"])], CLASSES, "normal")


def anomaly_case():
    truth = np.array([0, 1, 1, 0], bool)
    return [
        FrameScores("a", np.array([0.1, 0.9, 0.4, 0.4]), truth, True),
        FrameScores("b", np.array([0.8, 0.7, 0.2, 0.3]), truth, True),
        FrameScores("n", np.array([0.5, 0.1, 0.2, 0.1, 0.6]), np.zeros(5, bool), False),
        FrameScores("m", np.array([0.1, 0.0, 0.2]), np.zeros(3, bool), False),
    ]


def test_macro_auc_and_false_alarms_by_hand():
    videos = anomaly_case()
    padded = [roc_auc_score([0, *v.truth, 1], [0, *v.scores, 1]) for v in videos]
    assert padded[0] == pytest.approx(8.5 / 9)  # one tie
    assert recognition.macro_auc(videos) == pytest.approx(np.mean(padded))
    assert recognition.false_alarm_rate(videos) == pytest.approx(2 / 8)  # 0.5 itself counts
    with pytest.raises(InputError, match="no normal videos"):
        recognition.false_alarm_rate(videos[:2])


TWICE = VideoTruth("b", ("fire", "fight"), ((1, 3),), True, ("fight",))
TRUTHS = [event("a", (1, 3)), TWICE, normal("n"), normal("m")]


def test_open_vocabulary_in_both_readings_by_the_first_class():
    videos = anomaly_case()
    table = recognition.open_vocabulary([videos], TRUTHS, base=["fight"], novel=["fire"], n_boot=20)
    table = table.set_index(["subset", "normals", "metric"]).sort_index()
    chosen = {"overall": [0, 1], "base": [0], "novel": [1]}
    for subset, abnormal in chosen.items():
        for normals in (True, False):
            part = [videos[i] for i in (abnormal + [2, 3] if normals else abnormal)]
            y, s = (np.concatenate([getattr(v, f) for v in part]) for f in ("truth", "scores"))
            row = table.loc[(subset, normals)]
            assert row.loc["AUC", "value"] == pytest.approx(roc_auc_score(y, s))
            assert row.loc["AP", "value"] == pytest.approx(average_precision_score(y, s))
            assert row.loc["AUC", "n"] == len(y)
    with pytest.raises(InputError, match="b: its class, fire, must be either base or novel"):
        recognition.open_vocabulary([videos], TRUTHS, ["fight"], [])


def test_class_prompts_score_by_the_softmax_of_scaled_cosines():
    benchmark, asked = load_benchmark("ubnormal"), []
    eye = torch.eye(2)
    model = SimpleNamespace(encode_text=lambda texts: asked.extend(texts) or eye)
    scores = zero_shot_score(model, benchmark)(np.array([[3.0, 4.0], [5.0, 5.0]], np.float32))
    assert asked == [f"a video from a CCTV camera of a {name}" for name in ("normal", "abnormal")]
    expected = [1 / (1 + np.exp(-100 * 0.2)), 0.5]  # cosines .6 and .8; twice .707
    np.testing.assert_allclose(scores.anomaly, expected, rtol=1e-5)
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, rtol=1e-6)
