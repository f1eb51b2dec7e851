"""Class metrics, macro AUC, false alarms and open vocabulary against scikit-learn and by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from test_detection import CLASSES, event, normal

from alertclip.errors import InputError
from detectors.benchmarks import load_benchmark
from detectors.event_annotations import VideoTruth
from detectors.fitting import zero_shot_score
from detectors.frame_metrics import FrameScores, frame_metrics
from detectors.recognition import (
    ClassScores,
    class_metrics,
    false_alarm_rate,
    macro_auc,
    open_vocabulary,
)


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
        videos.append(ClassScores(f"v{i}", scores, truth))
    return videos


def by_class(videos, n_boot):
    table = class_metrics([videos], CLASSES, "normal", n_boot)
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


def test_mean_interval_resamples_all_classes_together():
    """Two classes with the same columns: their mean has exactly the interval of one of them."""
    videos = [
        ClassScores(v.video, v.scores[:, [0, 1, 1]], v.truth[:, [0, 1, 1]]) for v in class_case()
    ]
    table = by_class(videos, n_boot=60)
    for metric in ("AUC", "AP"):
        assert table.loc[("mean", metric)].tolist() == table.loc[("fire", metric)].tolist()
    single = [FrameScores(v.video, v.scores[:, 1], v.truth[:, 1], True) for v in videos]
    reference = frame_metrics(single, n_boot=60).set_index("metric").loc["frame AUC"]
    assert table.loc[("fire", "AUC"), "low"] == pytest.approx(reference["low"])


def test_absent_classes_do_not_count():
    means = by_class(class_case(absent=["fire"]), n_boot=20)["value"].unstack("class_name")
    assert set(means) == {"mean", "fight"}
    assert means["mean"].tolist() == means["fight"].tolist()
    videos = class_case(absent=["fire", "fight"])
    with pytest.raises(InputError, match="no frame of any abnormal class"):
        class_metrics([videos], CLASSES, "normal")
    videos[1] = ClassScores("short", videos[1].scores[:-1], videos[1].truth)
    with pytest.raises(InputError, match=r"short: scores \(39, 3\) and truth \(40, 3\)"):
        class_metrics([videos], CLASSES, "normal")


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
    assert macro_auc(videos) == pytest.approx(np.mean(padded))
    assert false_alarm_rate(videos) == pytest.approx(2 / 8)  # 0.5 itself counts
    with pytest.raises(InputError, match="no normal videos"):
        false_alarm_rate(videos[:2])
    short = [*videos, FrameScores("short", np.zeros(3), np.zeros(4, bool), False)]
    for metric in (macro_auc, false_alarm_rate):
        with pytest.raises(InputError, match="short: 3 scores for 4 frames"):
            metric(short)


TRUTHS = [event("a", (1, 3)), event("b", (1, 3), label="fire"), normal("n"), normal("m")]


def test_open_vocabulary_in_both_readings():
    videos = anomaly_case()
    table = open_vocabulary([videos], TRUTHS, base=["fight"], novel=["fire"], n_boot=20)
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


def test_open_vocabulary_assigns_by_first_class():
    both = VideoTruth("b", ("fire", "fight"), ((1, 3),), True, ("fight",))
    videos, truths = anomaly_case(), [TRUTHS[0], both, *TRUTHS[2:]]
    table = open_vocabulary([videos], truths, ["fight"], ["fire"], n_boot=10)
    kept = table.set_index(["subset", "normals", "metric"])["n"]
    assert kept["novel", False, "AUC"] == kept["base", False, "AUC"] == 4
    with pytest.raises(InputError, match="b: its class, fire, must be either base or novel"):
        open_vocabulary([videos], truths, ["fight"], [])
    with pytest.raises(InputError, match="m: no such video"):
        open_vocabulary([videos], truths[:3], ["fight"], ["fire"])


def test_class_prompts_score_by_the_softmax_of_scaled_cosines():
    benchmark, asked = load_benchmark("ubnormal"), []
    eye = torch.eye(2)
    model = SimpleNamespace(encode_text=lambda texts: asked.extend(texts) or eye)
    scores = zero_shot_score(model, benchmark)(np.array([[3.0, 4.0], [5.0, 5.0]], np.float32))
    assert asked == [f"a video from a CCTV camera of a {name}" for name in ("normal", "abnormal")]
    expected = [1 / (1 + np.exp(-100 * 0.2)), 0.5]  # cosines .6 and .8; twice .707
    np.testing.assert_allclose(scores.anomaly, expected, rtol=1e-5)
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, rtol=1e-6)
