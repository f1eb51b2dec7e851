"""AnomalyCLIP's selection, losses, sampling, training and scoring, against their definitions."""

import numpy as np
import pytest
import torch
from tiny_detectors import anomalyclip, anomalyclip_videos, clip, random
from torch import Tensor

from alertclip.errors import InputError
from detectors.anomalyclip import model as network
from detectors.anomalyclip.model import AnomalyCLIPOutput, aggregate, score_video
from detectors.anomalyclip.settings import PRESETS, AnomalyCLIPSettings, anomalyclip_settings
from detectors.anomalyclip.training import (
    Selection,
    fit,
    learning_rate_factor,
    select_segments,
    total_loss,
    training_sample,
)
from detectors.detector_parts import VideoScores, paired_batches
from detectors.training_protocol import DetectorParams


def selection_logits() -> Tensor:
    """(4, 5, 2, 2): two abnormal and two normal videos, 5 segments of 2 frames, 2 classes."""
    logits = torch.zeros(4, 5, 2, 2)
    # Sums 10, 9, 8, 7, 1 in column 0; segment 4 has the highest single frame.
    logits[0, :, :, 0] = torch.tensor([[5, 5], [4, 5], [4, 4], [3, 4], [9, -8]])
    logits[0, :, :, 1] = -logits[0, :, :, 0]
    logits[1] = logits[0].flip(2)  # the other column
    # Sums over classes 6, 5, 4, 3, 2; the maximum over classes would put segment 4 first.
    logits[2, :, 0] = torch.tensor([[3, 3], [2, 3], [2, 2], [1, 2], [9, -7]])
    logits[3] = logits[2].flip(0)
    return logits


def chosen(mask: Tensor, k: int = 3) -> list[list[list[int]]]:
    labels = torch.tensor([0, 2])  # normal_id 1: columns 0 and 1
    found = select_segments(selection_logits(), labels, mask, 1, k, k)
    return [part.tolist() for part in found]


@pytest.mark.parametrize(
    ("mask", "top", "bottom", "normal"),
    [
        ([[1] * 5] * 4, [[0, 1, 2]] * 2, [[4, 3, 2]] * 2, [[0, 1, 2], [4, 3, 2]]),
        (
            [[0, 1, 0, 1, 1], [1, 0, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 0]],
            *([[1, 3, 4], [0, 2, 3]], [[4, 3, 1], [4, 3, 2]], [[1, 2, 4], [3, 2, 1]]),
        ),
    ],
)
def test_selection_by_hand_is_among_open_segments(mask, top, bottom, normal):
    assert chosen(torch.tensor(mask).bool()) == [top, bottom, normal]


def test_fewer_open_than_selected_are_filled_with_masked():
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[:, 2], mask[1, 3] = True, True
    top, bottom, normal = chosen(mask)
    assert top[0][0] == bottom[0][0] == normal[0][0] == normal[1][0] == 2
    assert top[1][:2] == [2, 3] and bottom[1][:2] == [3, 2]
    assert all(len(set(row)) == 3 for part in (top, bottom, normal) for row in part)


def loss_case():
    """Float64 batch of 3 abnormal and 3 normal videos; labels below and above normal_id 2."""
    logits = random(6, 5, 3, 4, dtype=torch.float64)
    p = random(6, 5, 3, seed=1, dtype=torch.float64).sigmoid()
    labels = torch.tensor([0, 3, 4])
    picks = Selection(
        torch.tensor([[0, 3], [4, 1], [2, 0]]),
        torch.tensor([[1, 2], [0, 3], [3, 4]]),
        torch.tensor([[4, 0], [1, 2], [3, 1]]),
    )
    return logits, p, labels, picks


def terms_by_definition(logits, p, labels, picks, variant) -> list[float]:
    """The seven terms from the equations, frame by frame."""
    s, p = logits.numpy(), p.numpy()
    top, bottom, normal = (part.tolist() for part in picks)
    F, column = range(s.shape[2]), [label if label < 2 else label - 1 for label in labels]
    given = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    where = [(v, i, j) for v in range(3) for i in top[v] for j in F]
    smooth = 0.0
    if variant == "official":
        frames = [p[v, i, j] for v in range(3) for i in range(5) for j in F]
        smooth = sum((b - a) ** 2 for a, b in zip(frames[:-1], frames[1:], strict=True))
    else:
        for v in range(3):
            frames = [p[v, i, j] for i in range(5) for j in F]
            smooth += sum(frames[n] - frames[n - 1] for n in range(1, 15)) / 3
    normals = [s[v, i, j] for v in range(3, 6) for i in range(5) for j in F]
    return [
        -np.mean([s[v, i, j, column[v]] for v, i, j in where]),
        np.mean([max(x) if variant == "official" else sum(x) / 4 for x in normals]),
        -np.mean([np.log(p[v, i, j] * given[v, i, j, column[v]]) for v, i, j in where]),
        -np.mean([np.log(1 - p[v, i, j]) for v in range(3) for i in bottom[v] for j in F]),
        -np.mean([np.log(1 - p[v + 3, i, j]) for v in range(3) for i in normal[v] for j in F]),
        np.mean([p[v, i, j] for v in range(3) for i in range(5) for j in F]),
        smooth,
    ]


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_losses_are_their_definitions(variant):
    logits, p, labels, picks = loss_case()
    settings = AnomalyCLIPSettings(normal_id=2, variant=variant)
    output = AnomalyCLIPOutput(logits, p, aggregate(logits, p, 2))
    found = total_loss(output, labels, picks, settings)
    expected = terms_by_definition(logits, p, labels.tolist(), picks, variant)
    assert [t.item() for t in found.values()][1:] == pytest.approx(expected, rel=1e-12)
    weights = [1, 1, 1, 1, 1, 8e-3, 8e-4]
    assert found["total"].item() == pytest.approx(np.dot(weights, expected), rel=1e-12)
    settings = settings.model_copy(update={"left_out": ("abnormal_top", "smoothness")})
    less = total_loss(output, labels, picks, settings)
    expected = found["total"] - found["abnormal_top"] - 8e-4 * found["smoothness"]
    assert less["total"].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("frames", [100, 511, 512])
def test_training_sample_is_consecutive_and_loops(frames):
    sample = training_sample(torch.arange(frames)[:, None], 32, 16, np.random.default_rng(0))
    expected = (15 * torch.arange(32)[:, None] + torch.arange(16)) % frames
    assert torch.equal(sample[..., 0], expected)


def test_segments_of_a_long_video_start_anywhere_in_their_block():
    ramp, rng = torch.arange(5000)[:, None], np.random.default_rng(0)
    starts = torch.stack([training_sample(ramp, 32, 16, rng)[:, 0, 0] for _ in range(200)])
    assert (starts - 155 * torch.arange(32)).unique().tolist() == list(range(141))


@pytest.mark.parametrize(("frames", "windows"), [(1, 1), (24, 1), (25, 2), (47, 2), (72, 3)])
def test_windows_and_back_to_time_order(frames, windows):
    ramp = torch.arange(frames)[:, None] + 0.5
    parts = network.video_windows(ramp, 6, 4)
    assert parts.shape == (windows, 6, 4, 1)
    for j in range(windows):
        for s in range(6):
            first = (s * windows + j) * 4  # window j holds the j-th 4 frames of block s
            expected = (torch.arange(first, first + 4) % frames) + 0.5
            assert torch.equal(parts[j, s, :, 0], expected)
    assert torch.equal(network.time_order(parts, frames), ramp)
    assert torch.equal(network.time_order(parts[..., 0], frames), ramp[:, 0])


def test_training_ranks_abnormal_frames_above_normal_ones():
    train, labels, _ = anomalyclip_videos()
    test, _, abnormal = anomalyclip_videos(seed=1)
    backbone = clip()
    model, before = anomalyclip(backbone=backbone, epochs=40), clip()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    history = fit(model, train, labels, seed=0)
    p = torch.cat([torch.from_numpy(score_video(model, x).anomaly) for x in test])
    assert (p[abnormal][:, None] > p[~abnormal]).float().mean() > 0.9
    assert len(history) == 40 and history["total"][39] < history["total"][0]
    assert all(torch.equal(frozen[n], p) for n, p in model.named_parameters() if n in frozen)
    assert not torch.equal(model.text_encoder.text_projection, backbone.text_projection)
    for ours, theirs in zip(backbone.parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.requires_grad and ours.grad is None


def weights_after(seed: int, variant: str, epochs: int) -> Tensor:
    features, labels, _ = anomalyclip_videos()
    model = anomalyclip(variant=variant, epochs=epochs, warmup_epochs=epochs - 1)
    fit(model, features, labels, seed)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_is_determined_by_its_seed():
    found = weights_after(0, "official", epochs=2)
    assert torch.equal(weights_after(0, "official", epochs=2), found)
    assert not torch.equal(weights_after(1, "official", epochs=2), found)
    start = torch.cat([p.detach().flatten() for p in anomalyclip().parameters()])
    assert not torch.equal(found, start)
    assert not torch.equal(weights_after(0, "paper", epochs=2), found)


def test_learning_rate_per_epoch():
    official = [learning_rate_factor(e, AnomalyCLIPSettings(variant="official")) for e in range(50)]
    assert official[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert official[27] == pytest.approx(0.5 * (1 + np.cos(np.pi * 22 / 45)))
    assert 0 < official[49] < 2e-3 and learning_rate_factor(50, PRESETS["ucf"]) == 0
    paper = [learning_rate_factor(e, AnomalyCLIPSettings(variant="paper")) for e in range(50)]
    assert paper[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1]) and paper[5:] == official[5:]


def test_published_settings():
    assert [
        (s.normal_id, s.learning_rate, s.epochs, s.warmup_epochs, s.emb_size, s.depth)
        for s in (PRESETS[name] for name in ("ucf", "xd", "sht"))
    ] == [(7, 1e-5, 50, 5, 256, 1), (4, 5e-6, 50, 5, 128, 1), (8, 5e-4, 100, 10, 256, 2)]
    assert [PRESETS[n].concat_logits for n in ("ucf", "xd", "sht")] == [False, False, True]
    assert PRESETS["ucf"].betas == (0.9, 0.999)
    assert AnomalyCLIPSettings(variant="paper").betas == (0.9, 0.98)
    for bad in ({"emb_size": 12}, {"top_k": 33}, {"epochs": 5}, {"colour": 1}, {"left_out": ["x"]}):
        with pytest.raises(InputError, match="anomalyclip_changes"):
            anomalyclip_settings(DetectorParams(anomalyclip_changes=bad))


@pytest.mark.parametrize("repeats", [True, False])
def test_batches_are_paired_and_cycle_the_shorter_pool(repeats):
    pools = ([0, 1, 2, 3, 4], list(range(10, 23)))  # 2 and 6 whole batches of 2
    rng, count = np.random.default_rng(0), 6 if repeats else 2
    first, second = (list(paired_batches(pools, 2, count, rng)) for _ in range(2))
    assert first != second and len(first) == len(second) == count
    assert all(max(batch[:2]) < 10 <= min(batch[2:]) for batch in first + second)
    assert len({i for batch in first for i in batch[2:]}) == 2 * count  # none twice in an epoch
    assert all(len({*a[:2], *b[:2]}) == 4 for a, b in zip(first[::2], first[1::2], strict=True))


def test_training_faults_are_named():
    x, labels, _ = anomalyclip_videos()
    with pytest.raises(InputError, match="8 abnormal and 2 normal training videos"):
        fit(anomalyclip(), x[:10], labels[:10], seed=0)
    with pytest.raises(InputError, match="not finite in epoch 0"):
        fit(anomalyclip(), [x[0] * float("nan")] * 8 + x[8:], labels, seed=0)


def test_scores_are_in_time_order_and_windows_independent(monkeypatch):
    model, features = anomalyclip(), random(21, 16)  # 3 windows of 8
    model.selector_model.bn_layer.running_mean[:] = 0.7
    model.train()
    found = VideoScores(*map(torch.from_numpy, score_video(model, features)[:2]))
    assert found.anomaly.shape == (21,) and found.probabilities.shape == (21, 4)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(21))
    torch.testing.assert_close(found.probabilities[:, 2], 1 - found.anomaly)
    # The Selector sees each frame by itself: its conditional probabilities give the order away.
    x = ((features - model.prototype) @ model.directions().T).detach()
    given = ((x - 0.7) / (1 + 1e-5) ** 0.5).softmax(-1)
    torch.testing.assert_close(found.probabilities[:, [0, 1, 3]], given * found.anomaly[:, None])
    second = torch.stack([features[(6 * s + 2 + torch.arange(2)) % 21] for s in range(4)])
    alone = model(second[None], model.directions()).p_anomaly[0]  # the second of 3 windows
    torch.testing.assert_close(found.anomaly[6 * 1 + 2 : 6 * 1 + 4], alone[1].detach())
    monkeypatch.setattr(network, "WINDOWS", 1)
    np.testing.assert_allclose(score_video(model, features).anomaly, found.anomaly, rtol=1e-5)
