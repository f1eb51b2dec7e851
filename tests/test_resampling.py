"""Bootstrap over videos of frame metrics: exact on resamples, whatever the blocks."""

import numpy as np
import pytest
from detectors.resampling import FrameScores, frame_ap, frame_auc, resample
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from alertclip.errors import InputError
from alertclip.intervals import resampled_counts
from detectors import resampling


def videos(seed, names):
    rng = np.random.default_rng(seed)
    found = []
    for name in names:
        truth = rng.uniform(size=rng.integers(5, 40)) < 0.4
        scores = np.round(rng.normal(size=len(truth)) + truth, 1)  # many ties
        found.append(FrameScores(name, scores, truth, bool(truth.any())))
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 2048]))
def test_weighted_metrics_equal_scikit_learn_on_repeated_videos(seed, block):
    """A weight of k is the video k times; names that repeat share their weight."""
    cases = videos(seed, ["a", "b", "c", "b"])
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, 3)).astype(float)
    old, resampling.BLOCK = resampling.BLOCK, block
    try:
        got = {"auc": frame_auc(cases, weights), "ap": frame_ap(cases, weights)}
    finally:
        resampling.BLOCK = old
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
    first, second = videos(0, "abcd"), videos(1, "abcd")
    values = resample([first, first, second], frame_auc, "AUC", n_boot=25, seed=3)
    assert values.shape == (3, 26) and np.array_equal(values[0], values[1])
    assert values[2, 0] == frame_auc(second, np.ones((1, 4)))[0]
    assert np.array_equal(values[2, 1:], frame_auc(second, resampled_counts(4, 25, 3)))
    with pytest.raises(InputError, match="AUC: the columns are of different videos"):
        resample([first, first[:3]], frame_auc, "AUC", n_boot=2)
