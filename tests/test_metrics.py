"""AUC and AP against scikit-learn, ground truth, and the annotation file's quirks."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from alertclip.errors import InputError
from alertclip.intervals import paired_difference
from alertclip.mss import hold, inside
from detectors.frame_metrics import (
    auc_statistic,
    average_precision,
    frame_metrics,
    roc_auc,
    video_metrics,
)
from detectors.resampling import FrameScores


@pytest.mark.parametrize("levels", [3, 1000])  # many ties, few ties
def test_metrics_equal_scikit_learn_and_weights_repeat_items(levels):
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, levels, 200) / levels, rng.integers(0, 2, 200)
    weights = np.stack([np.ones(200, int), *rng.integers(0, 4, (5, 200))])
    peers = {roc_auc: roc_auc_score, average_precision: average_precision_score}
    for metric, peer in peers.items():
        found = metric(scores, weights * labels, weights * (1 - labels))
        expected = [peer(np.repeat(labels, row), np.repeat(scores, row)) for row in weights]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_video_metrics_and_paired_auc():
    labels = np.repeat([0, 1], 40)
    weak = np.random.default_rng(3).normal(size=80) + 0.3 * labels
    strong = weak + 2.0 * labels
    table = video_metrics(strong, labels, n_boot=100).set_index("metric")
    auc = table.loc["video AUC"]
    assert auc["low"] <= auc["value"] <= auc["high"] and auc["n"] == 80
    difference = paired_difference(weak, strong, auc_statistic(labels), n_boot=100)
    assert difference.low > 0


def test_one_class_is_refused_by_name():
    with pytest.raises(InputError, match="all 3 videos are abnormal"):
        video_metrics([0.1, 0.2, 0.3], [1, 1, 1])
    with pytest.raises(InputError, match="video scores: score 1 is not finite"):
        video_metrics([0.1, np.nan], [0, 1])


def test_frame_metrics_against_scikit_learn():
    rng = np.random.default_rng(4)
    truth = [inside(np.arange(40), [(10, 20)]), inside(np.arange(60), [(0, 5), (50, 60)])]
    videos = [
        FrameScores("a", np.round(rng.normal(size=40) + truth[0], 1), truth[0], True),
        FrameScores("b", np.round(rng.normal(size=60) + truth[1], 1), truth[1], True),
        FrameScores("n", np.round(rng.normal(size=50) - 2, 1), np.zeros(50, bool), False),
    ]
    table = frame_metrics(videos, n_boot=50).set_index("metric")
    y, s = (np.concatenate([getattr(v, f) for v in videos]) for f in ("truth", "scores"))
    assert table.loc["frame AUC", "value"] == pytest.approx(roc_auc_score(y, s))
    assert table.loc["frame AP", "value"] == pytest.approx(average_precision_score(y, s))
    inner = roc_auc_score(y[:100], s[:100])
    assert table.loc["in-clip frame AUC", "value"] == pytest.approx(inner)
    assert table["n"].tolist() == [150, 150, 100]
    with pytest.raises(InputError, match="for frame AUC are normal"):
        frame_metrics(videos[2:])


def test_segments_of_one_video_are_resampled_together():
    """With a single video every resample is the video itself: the interval has no width."""
    rng = np.random.default_rng(5)
    parts = [FrameScores("a", rng.normal(size=30), np.arange(30) < 9, True) for _ in range(4)]
    table = frame_metrics(parts, n_boot=50)
    assert table["low"].tolist() == table["high"].tolist()
    apart = [FrameScores(str(i), p.scores, p.truth, True) for i, p in enumerate(parts)]
    assert (frame_metrics(apart, n_boot=50)["low"] < table["value"]).all()


def test_truth_is_end_exclusive_and_scores_hold():
    truth = inside(np.arange(10), [(2, 4), (8, 9)])
    assert np.flatnonzero(truth).tolist() == [2, 3, 8]
    np.testing.assert_array_equal(hold([0.1, 0.9], [1, 4], 6), [0.1, 0.1, 0.1, 0.1, 0.9, 0.9])
