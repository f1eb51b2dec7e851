"""VadCLIP losses against their definitions, scoring and training."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_detectors import LENGTH, WIDTH, random, vadclip, vadclip_videos
from tiny_detectors import VAD_NAMES as NAMES

from alertclip.errors import InputError
from detectors.training_protocol import DetectorParams
from detectors.vadclip.model import VadCLIP, VadCLIPOutput, chunks, score_video
from detectors.vadclip.settings import PRESETS, VadCLIPSettings, vadclip_settings
from detectors.vadclip.training import (
    epoch_batches,
    fit,
    multi_hot,
    total_loss,
    training_window,
)


def losses_by_definition(logits1, logits2, text, targets, lengths, official):
    """L_bce, L_nce and L_cts in float64 numpy, video by video."""
    logits1, logits2, text, y = (t.double().numpy() for t in (logits1, logits2, text, targets))
    binary, alignment = [], []
    for b, n in enumerate(lengths.tolist()):
        k = int(n / 16 + 1)
        p = np.mean(sorted(1 / (1 + np.exp(-logits1[b, :n])))[-k:])
        binary.append(-np.log(1 - p if y[b, 0] else p))
        s = np.array([np.mean(sorted(curve)[-k:]) for curve in logits2[b, :n].T])
        log_p = s - np.log(np.exp(s).sum())
        alignment.append(-sum(log_p[c] for c in np.flatnonzero(y[b])) / y[b].sum())
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    cosine = [unit[0] @ other for other in unit[1:]]
    if official:
        return np.mean(binary), np.mean(alignment), sum(map(abs, cosine)) / len(cosine)
    return np.mean(binary), np.mean(alignment), sum(max(0, c) for c in cosine)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_losses_are_their_definitions(variant):
    logits1, logits2, text = random(4, 256), 3 * random(4, 256, 5, seed=1), random(5, 8, seed=2)
    text[1] = -text[0]  # one cosine is negative for sure
    targets = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    lengths = torch.tensor([15, 16, 256, 40])
    settings = VadCLIPSettings(variant=variant, separation_weight=0.3)
    output = VadCLIPOutput(logits1, logits2, adapted=None)
    total, *terms = total_loss(output, text, targets, lengths, settings).values()
    expected = losses_by_definition(logits1, logits2, text, targets, lengths, variant == "official")
    assert terms == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(np.dot([1, 1, 0.3], expected), rel=1e-5)


@pytest.mark.parametrize(
    ("n", "lengths"), [(3, [3]), (256, [256, 0]), (257, [256, 1]), (512, [256, 256, 0])]
)
def test_chunks(n, lengths):
    features = torch.arange(1.0, n + 1)[:, None].expand(n, 2)
    parts, valid = chunks(features, 256)
    assert parts.shape == (n // 256 + 1, 256, 2) and valid.tolist() == lengths
    assert torch.equal(parts.flatten(0, 1)[:n], features)
    assert parts.flatten(0, 1)[n:].abs().sum() == 0


def test_training_window_pools_the_long_and_pads_the_short():
    for n in (257, 511, 5000):
        features, edges = random(n, 2).double(), np.linspace(0, n, 257).astype(int)  # official
        expected = np.add.reduceat(features.numpy(), edges[:-1]) / np.diff(edges)[:, None]
        np.testing.assert_allclose(training_window(features, 256)[0], expected)
    ramp = torch.arange(1.0, 4)[:, None]
    padded, length = training_window(ramp[:2], 3)
    assert padded.tolist() == [[1], [2], [0]] and length == 2
    assert training_window(ramp, 3)[0].tolist() == ramp.tolist()


def test_scores_of_both_branches_per_snippet():
    model, features = vadclip(), random(2 * LENGTH + 5, WIDTH)
    one, two = (score_video(model, features.numpy(), aligned) for aligned in (False, True))
    assert one.probabilities.shape == (37, 3) and one.anomaly.shape == two.anomaly.shape == (37,)
    # The second chunk on its own: nothing passes between chunks.
    middle, inside = features[LENGTH : 2 * LENGTH], slice(LENGTH, 2 * LENGTH)
    with torch.no_grad():
        logits1, logits2, _ = model(middle[None], torch.tensor([LENGTH]), model.encode_text())
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(one.anomaly[inside], logits1[0].sigmoid())
    close(one.probabilities[inside], logits2[0].softmax(-1))
    close(two.anomaly, one.probabilities[:, 1:].sum(-1))
    # A whole number of chunks: the chunk that is all padding is computed, and cut off.
    close(score_video(model, middle).anomaly, one.anomaly[inside])


def test_bad_features_are_named():
    model, bad = vadclip(), random(4, WIDTH)
    bad[2, 3] = float("nan")
    for features, message in [
        (bad, "not finite"),
        (random(4, WIDTH + 1), "give n x 16"),
        (random(0, WIDTH), "n > 0"),
    ]:
        with pytest.raises(InputError, match=message):
            score_video(model, features)


def trained() -> tuple[VadCLIP, pd.DataFrame]:
    model = vadclip(stirred=False, learning_rate=3e-3, epochs=20, milestones=(15,))
    videos, labels = vadclip_videos()
    return model, fit(model, videos, multi_hot(labels, NAMES), seed=3)


def test_training_learns_and_repeats_itself():
    model, history = trained()
    assert history.index.tolist() == list(range(20))
    assert history["lr"].tolist() == pytest.approx([3e-3] * 15 + [3e-4] * 5)
    assert history["binary"][19] < 0.5 * history["binary"][0]
    assert history["alignment"][19] < 0.5 * history["alignment"][0]
    for aligned in (False, True):
        scores = [score_video(model, video, aligned) for video in vadclip_videos()[0]]
        top = [score.anomaly.max() for score in scores]
        assert min(top[1::2]) > max(top[::2])
    assert scores[1].probabilities[3].argmax() == 1 and scores[3].probabilities[3].argmax() == 2
    again, repeated = trained()
    assert repeated.equals(history) and not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    before = vadclip(stirred=False).state_dict()
    still = {name for name, t in model.state_dict().items() if torch.equal(t, before[name])}
    assert still == {name for name in before if name.startswith("text.")} | {"disAdj.sigma"}


@pytest.mark.parametrize(("size", "balanced", "sizes"), [(4, True, [4, 4]), (5, False, [5, 5, 2])])
def test_batches_are_balanced_or_complete(size, balanced, sizes):
    settings = VadCLIPSettings(batch_size=size, balanced=balanced)
    batches = list(epoch_batches([True] * 7 + [False] * 5, settings, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == sizes  # 4: 5 // 2 of the scarcer kind
    assert len({i for batch in batches for i in batch}) == sum(sizes)
    assert not balanced or all(max(batch[:2]) < 7 <= min(batch[2:]) for batch in batches)


def test_multi_label_targets():
    labels = [["normal"], ["car accident", "fighting"]]
    assert multi_hot(labels, NAMES).tolist() == [[1, 0, 0], [0, 1, 1]]
    with pytest.raises(InputError, match="video 1: class riot"):
        multi_hot([["normal"], ["riot"]], NAMES)


def test_training_refuses_what_does_not_fit():
    model, (videos, labels) = vadclip(), vadclip_videos()
    targets = multi_hot(labels, NAMES)
    both, none = targets.clone(), targets.clone()
    both[1, 0], none[2] = 1, 0
    bad = [*videos[:3], videos[3][:, 1:], *videos[4:]]
    huge = [video * np.float32(1e30) for video in videos]
    for arguments, message in [
        ((videos, both), "video 1: give the normal"),
        ((videos, none), "video 2: give the normal"),
        ((videos[::2], targets[::2]), "0 abnormal and 6 normal"),
        ((bad, targets), "video 3: features"),
        ((huge, targets), "logits are not finite"),
    ]:
        with pytest.raises(InputError, match=message):
            fit(model, *arguments)


def test_presets_are_the_published_ones():
    def row(name, variant):
        s = PRESETS[name, variant]
        return (
            *(s.learning_rate, s.epochs, s.batch_size, s.balanced, s.milestones),
            *(s.window, s.layers, s.separation_weight, s.variant),
        )

    assert row("ucf", "official") == (2e-5, 10, 128, True, (4, 8), 8, 2, 1e-1, "official")
    assert row("ucf", "paper") == (1e-5, 10, 64, True, (), 8, 1, 1e-1, "paper")
    assert row("xd", "official") == (1e-5, 10, 96, False, (3, 6, 10), 64, 1, 1e-4, "official")
    assert row("xd", "paper") == (2e-5, 20, 64, False, (), 64, 1, 1e-4, "paper")
    changed = DetectorParams(vadclip_preset="xd", vadclip_changes={"window": 32})
    assert vadclip_settings(changed).window == 32
    for bad, message in [
        ({"windows": 8}, "no setting windows; did you mean window"),
        ({"epochs": 0}, "vadclip_changes: epochs"),
        ({"window": 7}, "window must divide length"),
    ]:
        with pytest.raises(InputError, match=message):
            vadclip_settings(DetectorParams(vadclip_changes=bad))
