"""Sultani's ranking head and RTFM: losses by hand, bags, and training that finds the event."""

import numpy as np
import pytest
import torch
from tiny_detectors import WIDTH, random, training_videos

from detectors import mil
from detectors import training_protocol as protocol
from media.errors import InputError

SMALL = {"batch_size": 4, "segments": 8, "epoch_steps": 20}
CHANGES = {
    "sultani_changes": SMALL | {"epochs": 10},
    "rtfm_changes": SMALL | {"epochs": 3, "dropout": 0.3},
}
SCORES = torch.tensor([[0.1, 0.9, 0.4], [0.2, 0.3, 0.5], [0.6, 0.1, 0.2], [0.0, 0.3, 0.1]])


def head(name, width=WIDTH, **changes):
    return mil.HEADS[name](
        width, protocol.detector_settings(name, protocol.DetectorParams(**changes))
    )


def test_the_ranking_loss_by_hand():
    """Highest scores .9 and .5 against .6 and .3: hinges .7, .4, 1.1, .8 of the four pairs."""
    settings = protocol.SultaniSettings(sparsity_weight=0.5, smoothness_weight=0.25)
    terms = mil.Sultani(3, settings).losses(SCORES, None)
    smooth = (0.64 + 0.25 + 0.01 + 0.04) / 2
    expected = {"ranking": 0.75, "sparsity": (1.4 + 1.0) / 2, "smoothness": smooth}
    expected["total"] = 0.75 + 0.5 * 1.2 + 0.25 * smooth
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)


def test_the_magnitude_loss_by_hand():
    """Two of three segments are chosen by their norm; the longest of the normal bag is hidden.

    Chosen (4, 0), (0, 2) and (1, 0), (0, 1): the norms of their means are 5^.5 and .5^.5.
    """
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


@pytest.mark.parametrize("name", ["sultani", "rtfm"])
def test_training_ranks_abnormal_above_normal_and_repeats_itself(name):
    videos, kinds, _ = training_videos()
    test, _, abnormal = training_videos(seed=1)

    def trained(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        model = head(name, **CHANGES)
        history = mil.fit(model, videos, [kind > 0 for kind in kinds], seed)
        assert history["total"].iloc[-1] < history["total"].iloc[0] and not model.training
        assert len(history) == model.settings.epochs
        return np.concatenate([mil.score_video(model, x).anomaly for x in test])

    p = trained(0)
    assert p.shape == abnormal.shape and (p[abnormal][:, None] > p[~abnormal]).mean() > 0.9
    assert np.array_equal(p, trained(0)) and not np.array_equal(p, trained(1))


def test_misfits_are_named():
    with pytest.raises(InputError, match="divisible by 8"):
        head("rtfm", 20)
    with pytest.raises(InputError, match="1 abnormal and 1 normal training videos"):
        mil.fit(head("sultani"), [random(4, WIDTH)] * 2, [True, False], 0)
