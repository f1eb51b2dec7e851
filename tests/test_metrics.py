"""AUC and AP against scikit-learn, resampled exactly, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from alertclip.intervals import paired_difference, resampled_counts
from alertclip.mss import hold, inside
from detectors import frame_metrics as module
from media.errors import InputError


def some_videos(seed, names):
    rng = np.random.default_rng(seed)
    videos = []
    for name in names:
        truth = rng.uniform(size=rng.integers(5, 40)) < 0.4
        scores = np.round(rng.normal(size=len(truth)) + truth, 1)  # many ties
        videos.append(module.FrameScores(name, scores, truth, bool(truth.any())))
    return videos


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 2048]))
def test_weighted_metrics_equal_scikit_learn_on_repeated_videos(seed, block):
    """A weight of k is the video k times; names that repeat share their weight."""
    cases = some_videos(seed, ["a", "b", "c", "b"])
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, 3)).astype(float)
    old, module.BLOCK = module.BLOCK, block
    try:
        got = {"auc": module.frame_auc(cases, weights), "ap": module.frame_ap(cases, weights)}
    finally:
        module.BLOCK = old
    for row, weight in enumerate(weights):
        times = [int(weight["abc".index(v.video)]) for v in cases]
        y = np.concatenate([np.tile(v.truth, k) for v, k in zip(cases, times, strict=True)])
        s = np.concatenate([np.tile(v.scores, k) for v, k in zip(cases, times, strict=True)])
        if len(set(y)) < 2:
            assert np.isnan(got["auc"][row]) and np.isnan(got["ap"][row])
        else:
            assert got["auc"][row] == pytest.approx(roc_auc_score(y, s))
            assert got["ap"][row] == pytest.approx(average_precision_score(y, s))


def test_columns_share_their_resamples_and_start_with_the_whole():
    first, second = some_videos(0, "abcd"), some_videos(1, "abcd")
    values = module.resample([first, first, second], module.frame_auc, "AUC", n_boot=25, seed=3)
    assert values.shape == (3, 26) and np.array_equal(values[0], values[1])
    assert values[2, 0] == module.frame_auc(second, np.ones((1, 4)))[0]
    assert np.array_equal(values[2, 1:], module.frame_auc(second, resampled_counts(4, 25, 3)))


def test_video_metrics_and_paired_auc():
    labels, groups = np.repeat([0, 1], 40), [f"v{i // 2}" for i in range(80)]
    weak = np.random.default_rng(3).normal(size=80) + 0.3 * labels
    strong = weak + 2.0 * labels
    table = module.video_metrics(strong, labels, 100, 0, groups).set_index("metric")
    auc = table.loc["video AUC"]
    assert auc["low"] <= auc["value"] <= auc["high"] and auc["n"] == 80
    assert auc["value"] == pytest.approx(roc_auc_score(labels, strong))
    expected = average_precision_score(labels, strong)
    assert table.loc["video AP", "value"] == pytest.approx(expected)
    assert np.isnan(module.auc_statistic(np.zeros(3))(np.arange(3.0), np.ones((1, 3)))).all()
    difference = paired_difference(weak, strong, module.auc_statistic(labels), n_boot=100)
    change = roc_auc_score(labels, strong) - roc_auc_score(labels, weak)
    assert difference.value == pytest.approx(change) and difference.low > 0
    with pytest.raises(InputError, match="all frames for video AUC are abnormal"):
        module.video_metrics(strong[:3], np.ones(3), 10, 0, groups[:3])


def test_frame_metrics_against_scikit_learn():
    calm = module.FrameScores("n", np.arange(50) / 50 - 2, np.zeros(50, bool), False)
    videos = [*some_videos(4, "ab"), calm]
    table = module.frame_metrics(videos, n_boot=50).set_index("metric")
    y, s = (np.concatenate([getattr(v, f) for v in videos]) for f in ("truth", "scores"))
    assert table.loc["frame AUC", "value"] == pytest.approx(roc_auc_score(y, s))
    assert table.loc["frame AP", "value"] == pytest.approx(average_precision_score(y, s))
    inner = roc_auc_score(y[:-50], s[:-50])
    assert table.loc["in-clip frame AUC", "value"] == pytest.approx(inner)
    assert table["n"].tolist() == [len(y), len(y), len(y) - 50]
    with pytest.raises(InputError, match="for frame AUC are normal"):
        module.frame_metrics(videos[2:])
    for scores, message in ((np.zeros(3), r"\(3,\) and truth \(4,\)"), ([np.nan] * 4, "finite")):
        with pytest.raises(InputError, match=f"short: .*{message}"):
            module.FrameScores("short", np.asarray(scores), np.zeros(4, bool), False)


def test_truth_is_end_exclusive_and_scores_hold():
    truth = inside(np.arange(10), [(2, 4), (8, 9)])
    assert np.flatnonzero(truth).tolist() == [2, 3, 8]
    np.testing.assert_array_equal(hold([0.1, 0.9], [1, 4], 6), [0.1, 0.1, 0.1, 0.1, 0.9, 0.9])
