"""Losses against their definitions in float64; MSS by hand, its intervals, prompt files."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from alertclip import mss
from alertclip.intervals import bootstrap_interval
from alertclip.losses import Embeddings, hard_negative_loss, info_nce, total_loss
from alertclip.prompts import load_prompts
from alertclip.score import PROMPTS
from media.errors import InputError

SCALE = torch.tensor(5.0)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


def info_nce_by_definition(x, t, scale, captions) -> float:
    """InfoNCE written out in float64: pairs that share a caption leave the denominators."""
    s = scale * np.asarray(x, np.float64) @ np.asarray(t, np.float64).T
    terms = []
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j == i or captions[j] != captions[i]]
        terms.append(-s[i, i] + np.log(np.exp(s[i, others]).sum()))
        terms.append(-s[i, i] + np.log(np.exp(s[others, i]).sum()))
    return float(np.mean(terms))


def hard_by_definition(v, t, negatives, scale, mask) -> float:
    terms, (v, t, negatives) = [], (x.detach().numpy() for x in (v, t, negatives))
    for n in range(len(v)):
        positive = np.exp(scale * v[n] @ t[n])
        others = np.exp(scale * negatives[n][mask[n]] @ v[n])
        if len(others):
            terms.append(-np.log(positive / (positive + others.sum())))
    return float(np.mean(terms)) if terms else 0.0


@settings(max_examples=30, deadline=None)
@given(
    captions=st.lists(st.sampled_from("abcd"), min_size=1, max_size=6),
    seed=st.integers(0, 10_000),
    scale=st.floats(0.1, 100),
)
def test_info_nce_is_its_definition(captions, seed, scale):
    x, t = (unit(len(captions), 4, seed=seed + i).double() for i in range(2))
    s = torch.tensor(scale, dtype=torch.float64)
    loss, expected = info_nce(x, t, s, captions), info_nce_by_definition(x, t, scale, captions)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(loss, info_nce(t, x, s, captions))


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    seed=st.integers(0, 10_000),
    scale=st.floats(0.1, 50),
)
@example([3, 1, 0], 0, 5.0)
@example([0, 0], 0, 5.0)  # no hard negative at all
def test_ragged_hard_loss_is_its_definition(counts, seed, scale):
    regions = len(counts)
    v, t = (unit(regions, 4, seed=seed + i).double().requires_grad_() for i in range(2))
    negatives = unit(regions, 4, 4, seed=seed + 2).double().requires_grad_()
    mask = torch.arange(4) < torch.tensor(counts)[:, None]
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    loss = hard_negative_loss(v, t, negatives, s, mask)
    expected = hard_by_definition(v, t, negatives, scale, mask)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    other = torch.where(mask[..., None], negatives, -negatives)  # what is masked has no say
    assert torch.equal(loss, hard_negative_loss(v, t, other, s, mask))
    grads = torch.autograd.grad(loss, (v, negatives, s), allow_unused=True, materialize_grads=True)
    assert all(grad.isfinite().all() for grad in grads)
    assert not grads[0][~mask.any(dim=1)].any() and not grads[1][~mask].any()
    assert ((grads[1] * v[:, None]).sum(-1)[mask] > 0).all()  # pushed away
    assert grads[0].any(dim=1).equal(mask.any(dim=1)) and grads[2].ne(0) == mask.any()


def test_total_is_the_weighted_sum_and_stage_1_the_global_term():
    weights, names = (1.0, 0.1, 0.5), list("abc")
    v, t = unit(3, 8), unit(3, 8, seed=1)
    first = total_loss(Embeddings(v, t, names), SCALE, weights)
    assert torch.equal(first.total, info_nce(v, t, SCALE, names))
    assert first.region is None and first.hard is None
    regions, mask = ["r", "s", "r", "u"], torch.ones(4, 3, dtype=torch.bool)
    v_r, t_r, t_neg = unit(4, 8, seed=2), unit(4, 8, seed=3), unit(4, 3, 8, seed=4)
    second = total_loss(Embeddings(v, t, names, v_r, t_r, t_neg, mask, regions), SCALE, weights)
    assert torch.equal(second.global_, first.global_)
    assert torch.equal(second.region, info_nce(v_r, t_r, SCALE, regions))
    assert torch.equal(second.hard, hard_negative_loss(v_r, t_r, t_neg, SCALE, mask))
    expected = second.global_ + 0.1 * second.region + 0.5 * second.hard
    torch.testing.assert_close(second.total, expected)


def test_set_similarities_are_means_of_cosines():
    x, normal, abnormal = (unit(n, 8, seed=n).double().numpy() for n in (4, 3, 5))
    expected = np.stack([(x @ normal.T).mean(1), (x @ abnormal.T).mean(1)], axis=1)
    np.testing.assert_allclose(mss.set_similarities(x, normal, abnormal), expected, atol=1e-12)


def test_mss_table_per_class():
    similarities = np.array([[0.0, 0.2], [0.1, 0.0], [0.3, 0.0], [0.5, 0.1]])
    classes = ["Fire", "Fire", "Normal", "Normal"]
    table = mss.mss_table(similarities, [1, 1, 0, 0], classes, n_boot=50)
    assert table["class_name"].tolist() == ["all", "Fire", "Normal"]
    assert table["n"].tolist() == [4, 2, 2]
    assert table["mss"].tolist() == pytest.approx([0.2, 0.05, 0.35])
    assert table["right_signed"].tolist() == [0.75, 0.5, 1.0]
    assert ((table["low"] <= table["mss"]) & (table["mss"] <= table["high"])).all()


def test_bootstrap_interval_covers_and_repeats():
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval(rng.normal(size=60), n_boot=300, seed=s) for s in range(100)]
    assert 0.85 <= np.mean([i.low <= 0 <= i.high for i in intervals]) <= 1.0
    values = rng.normal(size=60)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)


def test_the_prompt_file_names_every_class():
    prompts = load_prompts(PROMPTS)
    world = "Normal Fighting Robbery Shooting Vandalism RoadAccidents Fire Explosion People_falling"
    ucf = "Abuse Arrest Arson Assault Burglary Shoplifting Stealing"
    msad = "Object_falling Traffic_accident Water_incident"
    assert set(prompts.classes) == set(f"{world} {ucf} {msad}".split())
    assert not set(prompts.sets.normal) & set(prompts.sets.abnormal)


@pytest.mark.parametrize("rest, message", [
    ("abnormal: []", "abnormal: .*at least 1 item"),
    ("abnormal: [fire, ' ']", "abnormal.1: "),
    ("abnormal: [fire]\nabnormals: [x]", "abnormals: "),
    ("abnormal: [fire]\nclasses: {Fire: fire}", "classes.Fire: "),
])  # fmt: skip
def test_a_bad_prompt_file_names_the_entry(tmp_path, rest, message):
    (tmp_path / "p.yaml").write_text(f"normal: [calm]\n{rest}\n")
    with pytest.raises(InputError, match=rf"p\.yaml: {message}"):
        load_prompts(tmp_path / "p.yaml")
