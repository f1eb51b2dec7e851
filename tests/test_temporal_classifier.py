"""VA-GPT's effective tokens: the temporal classifier with its interval, and the kept patches."""

import itertools

import numpy as np
import pandas as pd
import pytest
import tiny_clip
import torch
from faults.harness import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import qa_tables
from companion.figures.catalogue import draw
from companion.figures.images import kept_patches
from media.errors import InputError
from vagpt import effective_tokens, temporal_classifier
from vagpt.effective_tokens import embed_frames
from vagpt.qa_protocol import QAParams
from vagpt.questions import Footage, QuestionSet
from vagpt.temporal_classifier import best_interval, frame_logits, train_classifier


def data(n=400, seed=0):
    """Frames that are abnormal where the first coordinate is above 5."""
    x = np.random.default_rng(seed).normal(5, 1, (n, 4)).astype(np.float32)
    return x, x[:, 0] > 5


def test_learns_on_new_frames_standardised_with_the_training_ones_and_is_frozen():
    x, y = data()
    model = train_classifier(x, y, QAParams(learning_rate=0.05, epochs=20, hidden=16))
    fresh, truth = data(seed=1)
    assert ((frame_logits(model, fresh) > 0) == truth).mean() > 0.93
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    standard = torch.from_numpy((x[:3] - x.mean(0)) / x.std(0, ddof=1))
    expected = model.layers(standard)[:, 0].numpy()
    assert np.allclose(frame_logits(model, x[:3]), expected, atol=1e-5)


def test_same_seed_same_classifier_and_each_frame_counts_once_an_epoch():
    x, y = data(70)
    one, two = (train_classifier(x, y, QAParams(epochs=2, hidden=4)) for _ in range(2))
    other = train_classifier(x, y, QAParams(epochs=2, hidden=4), seed=1)
    assert np.array_equal(frame_logits(one, x), frame_logits(two, x))
    assert not np.array_equal(frame_logits(one, x), frame_logits(other, x))
    for label in (False, True):
        assert "same label" in refused(train_classifier, x, np.full(70, label), QAParams())
    # One epoch of one whole batch is one step of gradient descent, whatever the order.
    whole = QAParams(epochs=1, batch_size=70, hidden=4)
    stepped = train_classifier(x, y, whole)
    torch.manual_seed(42)
    by_hand = temporal_classifier.FrameClassifier(stepped.mean, stepped.std, 4)
    p = torch.sigmoid(by_hand(torch.from_numpy(x)).double())
    (-torch.where(torch.from_numpy(y), p, 1 - p).log()).mean().backward()
    for new, old in zip(stepped.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(new, old - 1e-3 * old.grad, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=12))
def test_interval_maximises_the_likelihood(values):
    """Against the likelihood itself: abnormal inside, normal outside, in float64."""
    logits = np.array(values, float)
    log_p, log_q = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)

    def likelihood(a, b):
        return log_q[:a].sum() + log_p[a:b].sum() + log_q[b:].sum()

    interval = best_interval(logits)
    best = max(likelihood(a, b) for a, b in itertools.combinations(range(len(logits) + 1), 2))
    assert likelihood(*interval) == pytest.approx(best) and interval[0] < interval[1]


def test_intervals_are_in_seconds_of_the_joined_footage():
    x, y = data()
    model = train_classifier(x, y, QAParams(learning_rate=0.05, epochs=20, hidden=16))
    calm, wild = (np.full((4, 4), value, np.float32) for value in (3, 7))
    video = Footage("v", 4.0, ((2.5, 4.0),), ("Fire",))
    asked = QuestionSet([], [[0, 1]], [video], [], 0.5, [])
    assert qa_tables.classifier_spans(asked, model, [calm, wild])["v"] == (2.0, 4.0)
    assert temporal_classifier.text_prior(["RoadAccidents", "People_falling"], 2.5, 8).startswith(
        "Known crime types are: road accidents, people falling. One of them occurs from 2.5 s to 8"
    )
    curve = qa_tables.interval_curves(asked, model, [calm, wild], "m")
    assert curve["truth"].tolist() == [0] * 5 + [1] * 3 and curve["time_s"][1] == 0.5
    assert curve["picked"].tolist() == [0] * 4 + [1] * 4 and set(curve["video"]) == {"v (Fire)"}


def test_patches_that_changed_are_kept():
    patches = np.zeros((3, 2, 2, 2))
    patches[1, 0, 1] = [1, -2]  # moved by 3, then back by 3
    patches[2, 1, 0] = [4, 0]
    moved = effective_tokens.patch_difference(patches)
    assert np.isinf(moved[0]).all() and moved[1].tolist() == [[0, 3], [0, 0]]
    assert moved[2].tolist() == [[0, 3], [4, 0]]
    kept = effective_tokens.keep_top(moved, 0.25)
    assert kept[0].all() and kept[1].tolist() == [[False, True], [False, False]]
    assert kept[2].tolist() == [[False, False], [True, False]]
    assert effective_tokens.keep_top(moved, 0.5).sum(axis=(1, 2)).tolist() == [4, 2, 2]
    assert effective_tokens.keep_random((3, 2, 2), 0.5, 0).sum(axis=(1, 2)).tolist() == [4, 2, 2]
    fine = np.arange(32.0).reshape(2, 4, 4)
    fine[0] = np.inf
    coarse = effective_tokens.on_grid(fine, (2, 2))
    assert np.isinf(coarse[0]).all()
    assert coarse[1].tolist() == [[18.5, 20.5], [26.5, 28.5]]  # means of 2 x 2 blocks
    for share in (0, 1.1):
        assert "above 0" in refused(effective_tokens.keep_top, moved, share)


def test_all_patches_are_the_image_embedding_of_an_averaging_backbone():
    model = tiny_clip.alertclip("avg")
    frames = tiny_clip.frames(3).permute(0, 2, 3, 1).numpy()
    patches = effective_tokens.backbone_patches(model, frames)
    assert patches.shape == (3, 3, 4, 16)
    v = model.encode_frames(tiny_clip.frames(3)[None]).v[0].detach().numpy()
    assert np.allclose(effective_tokens.pool_kept(patches, np.ones((3, 3, 4), bool)), v, atol=1e-5)
    assert np.allclose(embed_frames(model, frames), v, atol=1e-5)
    one = np.zeros((3, 3, 4), bool)
    one[:, 2, 1] = True
    expected = patches[:, 2, 1] / np.linalg.norm(patches[:, 2, 1], axis=-1, keepdims=True)
    assert np.allclose(effective_tokens.pool_kept(patches, one), expected, atol=1e-5)


def test_timm_patches_lie_where_the_frame_changed():
    encode = effective_tokens.timm_patches("test_vit", pretrained=False)
    frames = np.full((3, 40, 80, 3), 127, np.uint8)
    frames[1, :, :8] = 255  # a strip on the left, a tenth of the frame; then one at the top instead
    frames[2, :4] = 255
    left, top = effective_tokens.patch_difference(encode(frames[[0, 1, 0, 2]]))[[1, 3]]
    assert left.shape == (10, 10)
    assert left.mean(axis=0).argmax() == 0 and top.mean(axis=1).argmax() == 0
    with pytest.raises(InputError, match="timm cannot make no_such_model"):
        effective_tokens.timm_patches("no_such_model", pretrained=False)


def test_frames_are_masked():
    frames = np.full((2, 4, 6, 3), 9, np.uint8)
    kept = np.array([[[True, False, True]], [[False, True, False]]])
    masked = effective_tokens.mask_frames(frames, kept)
    assert masked[0, :, :2].max() == 9 and (masked[0, :, 2:4] == 127).all()
    assert (masked[1, :, 4:] == 127).all() and masked.dtype == np.uint8
    table = pd.DataFrame({"time_s": [0.0, 1.0], "share": [100.0, 50.0]})
    assert len(kept_patches(frames, kept, table).axes) == 4


def test_a_short_interval_has_a_bar_of_its_length():
    curve = pd.DataFrame({"video": "v", "time_s": [0.0, 0.5, 1.0, 1.5], "model": "m", "score": 0.5,
                          "truth": 0, "picked": [0, 1, 0, 0]})  # fmt: skip
    lines = draw("qa_interval_curves", curve).axes[0].collections[-1].get_segments()
    assert [segment[:, 0].tolist() for segment in lines] == [[0.5, 1.0]]
