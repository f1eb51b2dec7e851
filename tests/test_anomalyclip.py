"""AnomalyCLIP's parts, selection, losses, sampling and scores against their definitions."""

import numpy as np
import pytest
import torch
from tiny_detectors import NAMES, anomalyclip, clip, random, tokenize, training_videos
from torch import Tensor

from detectors.anomalyclip import model as network
from detectors.anomalyclip import training
from detectors.anomalyclip.model import aggregate, score_video
from detectors.detector_parts import VideoScores
from detectors.training_protocol import AnomalyCLIPSettings
from media.errors import InputError


@pytest.mark.parametrize("split", [False, True])
def test_directions_are_those_of_clips_texts_without_the_normal_class(split):
    """The context of each class lies between START and its name, which ends in a full stop."""
    model, stock = anomalyclip(split=split), clip()
    assert model.prompt_learner.ctx.std() < 0.03
    ids = torch.tensor([[3, 1, 4], [1, 5, 9], [2, 6, 5], [3, 5, 8]])
    model.prompt_learner.ctx.data[:] = stock.token_embedding(ids)
    tokens = tokenize([f"{name.replace('_', ' ')}." for name in NAMES])
    tokens = torch.cat([tokens[:, :1], ids, tokens[:, 1:9]], dim=1)
    away = stock.encode_text(tokens)[[0, 1, 3]] - torch.linspace(-1, 1, 16)
    expected = away / away.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.directions(), expected, atol=1e-5, rtol=1e-5)
    settings, names = AnomalyCLIPSettings(normal_id=1, context_tokens=3), ["a b c d e f g h", "n"]
    with pytest.raises(InputError, match="class a b c d e f g h: its tokens and 3 of context"):
        network.AnomalyCLIP(stock, tokenize, names, torch.zeros(16), settings)


def test_directions_of_a_shared_context_of_fixed_words_and_of_points_without_text():
    shared, separate = anomalyclip(directions="shared"), anomalyclip()
    assert shared.prompt_learner.ctx.shape == (1, 3, 24)
    separate.prompt_learner.ctx.data[:] = shared.prompt_learner.ctx.data
    assert torch.equal(separate.directions(), shared.directions())
    words = {"template": "a video of a {}", "context_tokens": 0, "tune_projection": False}
    model, m = anomalyclip(**words, epochs=3), torch.linspace(-1, 1, 16)
    before = model.directions()
    texts = ["a video of a abuse", "a video of a road accident", "a video of a riot"]
    away = clip().encode_text(tokenize(texts)) - m
    torch.testing.assert_close(before, away / away.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-5)
    videos, kinds, _ = training_videos()
    training.fit(model, videos, [2 if kind == 0 else kind - 1 for kind in kinds], 0)
    assert torch.equal(model.directions(), before)  # nothing of them is learned
    free = anomalyclip(directions="free")
    assert not hasattr(free, "text_encoder")
    free.points.data = m + 5 * torch.eye(16)[:3]
    torch.testing.assert_close(free.directions(), torch.eye(16)[:3])


def test_cosines_are_of_clips_own_space_and_magnitudes_of_the_recentred_one():
    videos = [torch.tensor([[0.0, 3.0]]), torch.tensor([[3.0, 0.0], [6.0, 3.0]])]
    assert network.normality_prototype(videos).tolist() == [3.0, 2.0]  # weighs frames
    features, m = random(2, 4, 2, 16), torch.linspace(-1, 1, 16)
    model = anomalyclip(likelihood="cosine")
    text = model.text_encoder(model.prompt_learner(), model.end)[[0, 1, 3]]
    logits, *_ = model(features, model.directions())
    expected = torch.cosine_similarity(features[..., None, :], text, dim=-1)
    torch.testing.assert_close(logits, expected)
    ranks = training.likelihood(anomalyclip(selection="magnitude"), features, logits)
    expected = (features - m).square().sum(dim=-1, keepdim=True).sqrt().expand(2, 4, 2, 3)
    torch.testing.assert_close(ranks, expected)
    assert training.likelihood(model, features, logits) is logits


@pytest.mark.parametrize("given", ["logits", "both"])
def test_features_are_recentred_and_logits_come_first_when_concatenated(given):
    model = anomalyclip(inputs=given, depth=1).eval()
    assert model.temporal_model.projection.in_features == (19 if given == "both" else 3)
    seen = []
    model.temporal_model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features, directions = random(2, 4, 2, 16), model.directions()
    logits, p_anomaly, probabilities = model(features, directions)
    x = features - torch.linspace(-1, 1, 16)
    torch.testing.assert_close(logits, x @ directions.T / (1 + 1e-5) ** 0.5)
    seen_by_both = torch.cat([logits, x], dim=-1)
    torch.testing.assert_close(seen[0], seen_by_both if given == "both" else logits)
    assert torch.equal(probabilities, aggregate(logits, p_anomaly, 2))


def chosen(mask: Tensor, k: int = 3) -> list[list[list[int]]]:
    """Of two abnormal and two normal videos, 5 segments of 2 frames, 2 classes."""
    logits = torch.zeros(4, 5, 2, 2)
    # Sums 10, 9, 8, 7, 1 in column 0; segment 4 has the highest single frame.
    logits[0, :, :, 0] = torch.tensor([[5, 5], [4, 5], [4, 4], [3, 4], [9, -8]])
    logits[0, :, :, 1] = -logits[0, :, :, 0]
    logits[1] = logits[0].flip(2)  # the other column
    # Sums over classes 6, 5, 4, 3, 2; the maximum over classes would put segment 4 first.
    logits[2, :, 0] = torch.tensor([[3, 3], [2, 3], [2, 2], [1, 2], [9, -7]])
    logits[3] = logits[2].flip(0)
    selected = training.select_segments(logits, torch.tensor([0, 1]), mask, k, k)
    return [part.tolist() for part in selected]


def test_selection_by_hand_is_among_open_segments_as_long_as_there_are():
    whole = [[[0, 1, 2]] * 2, [[4, 3, 2]] * 2, [[0, 1, 2], [4, 3, 2]]]
    assert chosen(torch.ones(4, 5).bool()) == whole
    mask = [[0, 1, 0, 1, 1], [1, 0, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 0]]
    part = [[[1, 3, 4], [0, 2, 3]], [[4, 3, 1], [4, 3, 2]], [[1, 2, 4], [3, 2, 1]]]
    assert chosen(torch.tensor(mask).bool()) == part
    mask = torch.zeros(4, 5, dtype=torch.bool)  # fewer are open: filled with masked
    mask[:, 2], mask[1, 3] = True, True
    top, bottom, normal = chosen(mask)
    assert top[0][0] == bottom[0][0] == normal[0][0] == normal[1][0] == 2
    assert top[1][:2] == [2, 3] and bottom[1][:2] == [3, 2]
    assert all(len(set(row)) == 3 for part in (top, bottom, normal) for row in part)


def terms_by_definition(logits, p, column, picks, variant) -> list[float]:
    """The seven terms from the equations, frame by frame."""
    s, p = logits.numpy(), p.numpy()
    top, bottom, normal = (part.tolist() for part in picks)
    F = range(s.shape[2])
    q = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    where = [(v, i, j) for v in range(3) for i in top[v] for j in F]
    if variant == "official":  # from one video to the next too
        smooth = np.square(np.diff(p[:3].reshape(-1))).sum()
    else:
        smooth = np.diff(p[:3].reshape(3, -1)).sum() / 3
    normals = [s[v, i, j] for v in range(3, 6) for i in range(5) for j in F]
    return [
        -np.mean([s[v, i, j, column[v]] for v, i, j in where]),
        np.mean([max(x) if variant == "official" else sum(x) / 4 for x in normals]),
        -np.mean([np.log(p[v, i, j] * q[v, i, j, column[v]]) for v, i, j in where]),
        -np.mean([np.log(1 - p[v, i, j]) for v in range(3) for i in bottom[v] for j in F]),
        -np.mean([np.log(1 - p[v + 3, i, j]) for v in range(3) for i in normal[v] for j in F]),
        np.mean([p[v, i, j] for v in range(3) for i in range(5) for j in F]),
        smooth,
    ]


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_losses_are_their_definitions(variant):
    """Columns before and after normal_id 2; 3 abnormal and 3 normal videos."""
    logits = random(6, 5, 3, 4, dtype=torch.float64)
    p = random(6, 5, 3, seed=1, dtype=torch.float64).sigmoid()
    column = torch.tensor([0, 2, 3])
    top, bottom = [[0, 3], [4, 1], [2, 0]], [[1, 2], [0, 3], [3, 4]]
    picks = tuple(torch.tensor([top, bottom, [[4, 0], [1, 2], [3, 1]]]))
    settings = AnomalyCLIPSettings(normal_id=2, variant=variant)
    output = logits, p, aggregate(logits, p, 2)
    losses = training.total_loss(output, column, picks, settings)
    expected = terms_by_definition(logits, p, column.tolist(), picks, variant)
    assert [t.item() for t in losses.values()][1:] == pytest.approx(expected, rel=1e-12)
    weights = [1, 1, 1, 1, 1, 8e-3, 8e-4]
    assert losses["total"].item() == pytest.approx(np.dot(weights, expected), rel=1e-12)
    settings = settings.model_copy(update={"left_out": ("abnormal_top", "smoothness")})
    less = training.total_loss(output, column, picks, settings)
    expected = losses["total"] - losses["abnormal_top"] - 8e-4 * losses["smoothness"]
    assert less["total"].item() == pytest.approx(expected.item(), rel=1e-12)
    settings = settings.model_copy(update={"extra": ("direction_bottom", "direction_normal_top")})
    more = training.total_loss(output, column, picks, settings)
    bottom = [logits[v, i, :, column[v]] for v in range(3) for i in picks[1][v]]
    tops = torch.stack([logits[v + 3, i] for v in range(3) for i in picks[2][v]])
    added = [torch.stack(bottom).mean(), (tops if variant == "paper" else tops.amax(-1)).mean()]
    extra = [more["direction_bottom"], more["direction_normal_top"]]
    assert [t.item() for t in extra] == pytest.approx([t.item() for t in added], rel=1e-12)
    assert (more["total"] - less["total"]).item() == pytest.approx(sum(added).item(), rel=1e-9)


def test_training_sample_is_consecutive_loops_and_starts_anywhere_in_its_block():
    for frames in (100, 511, 512):
        ramp = torch.arange(frames)[:, None]
        sample = training.training_sample(ramp, 32, 16, np.random.default_rng(0))
        expected = (15 * torch.arange(32)[:, None] + torch.arange(16)) % frames
        assert torch.equal(sample[..., 0], expected)
    ramp, rng = torch.arange(5000)[:, None], np.random.default_rng(0)
    starts = torch.stack([training.training_sample(ramp, 32, 16, rng)[:, 0, 0] for _ in range(200)])
    assert (starts - 155 * torch.arange(32)).unique().tolist() == list(range(141))


def test_scores_are_in_time_order_and_windows_independent(monkeypatch):
    model, features = anomalyclip(), random(21, 16)  # 3 windows of 8
    model.eval().selector_model.bn_layer.running_mean[:] = 0.7
    directions = model.directions().detach()
    scores = VideoScores(*map(torch.from_numpy, score_video(model, features, directions)[:2]))
    assert scores.anomaly.shape == (21,) and scores.probabilities.shape == (21, 4)
    torch.testing.assert_close(scores.probabilities.sum(1), torch.ones(21))
    torch.testing.assert_close(scores.probabilities[:, 2], 1 - scores.anomaly)
    # The Selector sees each frame by itself: its conditional probabilities give the order away.
    x = (features - model.prototype) @ directions.T
    q = ((x - 0.7) / (1 + 1e-5) ** 0.5).softmax(-1)
    torch.testing.assert_close(scores.probabilities[:, [0, 1, 3]], q * scores.anomaly[:, None])
    second = torch.stack([features[(6 * s + 2 + torch.arange(2)) % 21] for s in range(4)])
    alone = model(second[None], directions)[1][0]  # the second of 3 windows
    torch.testing.assert_close(scores.anomaly[6 * 1 + 2 : 6 * 1 + 4], alone[1].detach())
    monkeypatch.setattr(network, "WINDOWS", 1)
    again = score_video(model, features, directions)
    np.testing.assert_allclose(again.anomaly, scores.anomaly, rtol=1e-5)
