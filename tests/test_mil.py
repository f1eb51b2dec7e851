"""Sultani's ranking head and RTFM: losses, bags and attention by hand."""

import numpy as np
import pytest
import torch
from faults.harness import refused
from tiny_detectors import WIDTH, mil_head, random, training_videos

from detectors import mil
from detectors import training_protocol as protocol

SCORES = torch.tensor([[0.1, 0.9, 0.4], [0.2, 0.3, 0.5], [0.6, 0.1, 0.2], [0.0, 0.3, 0.1]])


def test_the_ranking_loss_by_hand():
    """Highest scores .9 and .5 against .6 and .3: hinges .7, .4, 1.1, .8 of the four pairs."""
    settings = protocol.SultaniSettings(sparsity_weight=0.5, smoothness_weight=0.25)
    terms = mil.Sultani(3, settings).losses(SCORES, None)
    smooth = (0.64 + 0.25 + 0.01 + 0.04) / 2
    expected = {"ranking": 0.75, "sparsity": (1.4 + 1.0) / 2, "smoothness": smooth}
    expected["total"] = 0.75 + 0.5 * 1.2 + 0.25 * smooth
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)


def test_the_magnitude_loss_by_hand():
    """Chosen by norm (4, 0), (0, 2) and, the longest hidden, (1, 0), (0, 1): means 5^.5, .5^.5."""
    abnormal, normal = [[4.0, 0], [0.1, 0], [0, 2]], [[9.0, 9], [1, 0], [0, 1]]
    shown = torch.tensor([[1.0, 1, 1], [0, 1, 1]])
    weights = {"magnitude_weight": 0.1, "sparsity_weight": 2, "smoothness_weight": 3}
    settings = protocol.RTFMSettings(top_k=2, margin=10, **weights)
    features, magnitude = torch.tensor([abnormal, normal]), (10 - 5**0.5 + 0.5**0.5) ** 2
    terms = mil.magnitude_losses(SCORES[[0, 2]], features, shown, settings)
    binary = -(np.log((0.1 + 0.4) / 2) + np.log(1 - (0.1 + 0.2) / 2)) / 2
    sparsity, smooth = 0.98**0.5, 0.64 + 0.25
    expected = {"binary": binary, "magnitude": magnitude, "sparsity": sparsity}
    expected |= {"smoothness": smooth, "total": binary + 0.1 * magnitude + 2 * sparsity + 3 * 0.89}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_segments_are_means_of_equal_parts_and_repeat_short_videos():
    x = torch.arange(8.0)[:, None]
    assert mil.segment_means(x, 3).flatten().tolist() == [0.5, 3, 6]
    assert mil.segment_means(x[:2], 4).flatten().tolist() == [0, 0, 1, 1]


def test_attention_over_positions_by_hand():
    """theta phi^T / T without softmax: with all maps 1, position t gets x_t times the mean of x^2.

    The norm is an identity here: running statistics 0 and 1, weight 1, eps 0.
    """
    block = mil.NonLocal(2).eval()
    for part in (block.theta, block.phi, block.g, block.out):
        torch.nn.init.ones_(part.weight)
        torch.nn.init.zeros_(part.bias)
    x = torch.tensor([[[1.0, 2, 3], [0, 0, 0]]])
    assert torch.equal(block(x), x)  # a new block changes nothing
    torch.nn.init.ones_(block.norm.weight)
    block.norm.eps = 0
    added = block(x) - x
    torch.testing.assert_close(added, torch.tensor([1.0, 2, 3]).expand(1, 2, 3) * 14 / 3)


@pytest.mark.parametrize("name", mil.HEADS)
def test_training_is_determined_by_its_seed(name):
    videos, kinds, _ = training_videos()

    def scores(seed: int) -> np.ndarray:
        model = mil_head(name, seed=seed, epochs=1)
        mil.fit(model, videos, [kind > 0 for kind in kinds], seed)
        return mil.score_video(model, videos[0]).anomaly

    assert np.array_equal(scores(0), scores(0)) and not np.array_equal(scores(0), scores(1))


def test_misfits_are_named():
    assert "divisible by 8" in refused(mil_head, "rtfm", 20)
    videos = [random(4, WIDTH)] * 2
    message = refused(mil.fit, mil_head("sultani"), videos, [True, False], 0)
    assert "1 abnormal and 1 normal training videos" in message
