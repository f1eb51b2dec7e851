"""Training of the detectors: it learns, repeats itself, leaves CLIP alone and names faults."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from faults.harness import refused
from tiny_detectors import anomalyclip, clip, mil_head, training_videos, vadclip
from torch import Tensor, nn
from torch.nn.functional import one_hot

from detectors import fitting, mil
from detectors import training_protocol as protocol
from detectors.anomalyclip import training as anomalyclip_training
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.benchmarks import load_benchmark
from detectors.detector_parts import paired_batches
from detectors.vadclip import training as vadclip_training
from detectors.vadclip.model import VadCLIP
from media.errors import InputError

VAD = "learning_rate epochs batch_size balanced milestones window layers separation_weight variant"
ANOMALY = "normal_id learning_rate epochs warmup_epochs emb_size depth inputs betas"
KINDS = ["vadclip", "anomalyclip"]
HEADS = {"sultani": {"epochs": 10}, "rtfm": {"epochs": 3, "dropout": 0.3}}
STILL = {
    "vadclip": ("text.", "disAdj.sigma"),
    "anomalyclip": ("text_encoder.", "prompt_learner.token", "selector_model.logit_scale"),
}


def fit(model: nn.Module, videos: list[Tensor], kinds: list[int], seed: int = 0) -> pd.DataFrame:
    """Train on videos that are normal (0) or of one of two classes."""
    if isinstance(model, VadCLIP):
        return vadclip_training.fit(model, videos, one_hot(torch.tensor(kinds), 3).float(), seed)
    if isinstance(model, AnomalyCLIP):
        return anomalyclip_training.fit(model, videos, [(2, 0, 1)[kind] for kind in kinds], seed)
    return mil.fit(model, videos, [kind > 0 for kind in kinds], seed)


def scorer(model: nn.Module) -> fitting.Score:
    if isinstance(model, VadCLIP):
        return fitting.vadclip_score(model, load_benchmark("ucf_crime"))
    if isinstance(model, AnomalyCLIP):
        return fitting.anomalyclip_score(model)
    return partial(mil.score_video, model)


def made(kind: str, backbone: nn.Module | None = None, **changes) -> nn.Module:
    if kind == "vadclip":
        changes = {"learning_rate": 3e-3, "milestones": (15,), "epochs": 20} | changes
        return vadclip(stirred=False, backbone=backbone, **changes)
    if kind in mil.HEADS:
        return mil_head(kind, **HEADS[kind] | changes)
    return anomalyclip(backbone=backbone, **{"epochs": 40} | changes)


@pytest.mark.parametrize("kind", [*KINDS, *HEADS])
def test_training_ranks_abnormal_above_normal(kind):
    videos, kinds, _ = training_videos()
    test, test_kinds, abnormal = training_videos(seed=1)
    model, backbone = made(kind, before := clip()), clip()
    history = fit(model, videos, kinds)
    scores = [scorer(model)(x) for x in test]
    p = np.concatenate([score.anomaly for score in scores])
    assert (p[abnormal][:, None] > p[~abnormal]).mean() > 0.9
    assert history["total"].iloc[-1] < history["total"].iloc[0]
    assert history.index.tolist() == list(range(model.settings.epochs)) and not model.training
    for ours, theirs in zip(before.parameters(), backbone.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.requires_grad and ours.grad is None
    if kind == "vadclip":
        assert history["lr"].tolist() == pytest.approx([3e-3] * 15 + [3e-4] * 5)
        losses = history[["binary", "alignment"]]
        assert (losses.iloc[-1] < 0.5 * losses.iloc[0]).all()
        assert [score.probabilities[4:8].mean(axis=0).argmax() for score in scores] == test_kinds


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_determined_by_seed_and_variant(kind):
    changes = {"epochs": 2} | ({"warmup_epochs": 1} if kind == "anomalyclip" else {})
    videos, kinds, _ = training_videos()

    def weights(seed: int, variant: str) -> dict[str, Tensor]:
        model = made(kind, variant=variant, **changes)
        fit(model, videos, kinds, seed)
        return model.state_dict()

    def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
        return {name for name in one if name in other and torch.equal(one[name], other[name])}

    first, before = weights(0, "official"), made(kind).state_dict()
    assert same(first, weights(0, "official")) == first.keys()
    still = {name for name in before if name.startswith(STILL[kind])}
    still -= {"text_encoder.text_projection"}
    assert same(first, before) == still
    still.add("selector_model.bn_layer.num_batches_tracked")
    for seed, variant in ((1, "official"), (0, "paper")):
        assert same(first, weights(seed, variant)) <= still


def test_training_faults_are_named():
    videos, kinds, _ = training_videos()
    first, *rest = videos
    for kind, (x, k), message in (
        ("vadclip", (videos[8:], kinds[8:]), "0 abnormal and 8 normal training videos"),
        ("vadclip", ([first[:, 1:], *rest], kinds), "video 0: features of shape"),
        ("vadclip", ([v * 1e30 for v in videos], kinds), "logits are not finite"),
        ("anomalyclip", (videos[:10], kinds[:10]), "8 abnormal and 2 normal training videos"),
        ("anomalyclip", ([first * np.nan, *rest], kinds), "loss is not finite in epoch 0"),
    ):
        assert message in refused(fit, made(kind), x, k)
    for row, change in ((1, 1.0), (8, 0.0)):
        targets = one_hot(torch.tensor(kinds), 3).float()
        targets[row, 0] = change  # a video is either normal or of other classes
        with pytest.raises(InputError, match=f"video {row}: give the normal"):
            vadclip_training.fit(made("vadclip"), videos, targets, 0)


@pytest.mark.parametrize(("metric", "plain"), [("AUC", False), ("AP", True)])
def test_a_branch_that_is_not_trained_gives_no_score(metric, plain):
    benchmark = load_benchmark("miniworld").model_copy(update={"metric": metric})
    for left_out, aligned in (("", plain), ("binary_weight", True), ("alignment_weight", False)):
        model = vadclip(**{left_out: 0} if left_out else {})
        score = fitting.vadclip_score(model, benchmark)(training_videos()[0][0])
        assert np.allclose(score.anomaly, 1 - score.probabilities[:, 0], atol=1e-6) is aligned


@pytest.mark.parametrize("count", [6, 2])
def test_batches_are_paired_and_cycle_the_shorter_pool(count):
    pools, rng = ([0, 1, 2, 3, 4], list(range(10, 23))), np.random.default_rng(0)
    first, second = (list(paired_batches(pools, 2, count, rng)) for _ in range(2))
    assert first != second and len(first) == len(second) == count
    assert all(max(batch[:2]) < 10 <= min(batch[2:]) for batch in first + second)
    assert len({i for batch in first for i in batch[2:]}) == 2 * count  # none twice in an epoch
    assert all(len({*a[:2], *b[:2]}) == 4 for a, b in zip(first[::2], first[1::2], strict=True))


@pytest.mark.parametrize(("size", "balanced", "sizes"), [(4, True, [4, 4]), (5, False, [5, 5, 2])])
def test_batches_of_vadclip_are_balanced_or_complete(size, balanced, sizes):
    settings = protocol.VadCLIPSettings(batch_size=size, balanced=balanced)
    is_normal, rng = [True] * 7 + [False] * 5, np.random.default_rng(0)
    batches = list(vadclip_training.epoch_batches(is_normal, settings, rng))
    assert [len(batch) for batch in batches] == sizes  # 4: 5 // 2 of the scarcer kind
    assert len({i for batch in batches for i in batch}) == sum(sizes)
    assert not balanced or all(max(batch[:2]) < 7 <= min(batch[2:]) for batch in batches)


def test_learning_rate_of_anomalyclip_per_epoch():
    variants = [protocol.AnomalyCLIPSettings(variant=name) for name in ("official", "paper")]
    factor = anomalyclip_training.learning_rate_factor
    official, paper = ([factor(epoch, variant) for epoch in range(51)] for variant in variants)
    assert official[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert official[27] == pytest.approx(0.5 * (1 + np.cos(np.pi * 22 / 45)))
    assert 0 < official[49] < 2e-3 and official[50] == 0
    assert paper[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1]) and paper[5:] == official[5:]


@pytest.mark.parametrize(("kind", "preset", "variant", "expected"), [
    ("vadclip", "ucf", "official", (2e-5, 10, 128, True, (4, 8), 8, 2, 1e-1, "official")),
    ("vadclip", "ucf", "paper", (1e-5, 10, 64, True, (), 8, 1, 1e-1, "paper")),
    ("vadclip", "xd", "official", (1e-5, 10, 96, False, (3, 6, 10), 64, 1, 1e-4, "official")),
    ("vadclip", "xd", "paper", (2e-5, 20, 64, False, (), 64, 1, 1e-4, "paper")),
    ("anomalyclip", "ucf", "official", (7, 1e-5, 50, 5, 256, 1, "features", (0.9, 0.999))),
    ("anomalyclip", "xd", "official", (4, 5e-6, 50, 5, 128, 1, "features", (0.9, 0.999))),
    ("anomalyclip", "sht", "paper", (8, 5e-4, 100, 10, 256, 2, "both", (0.9, 0.98))),
])  # fmt: skip
def test_presets_are_the_published_ones(kind, preset, variant, expected):
    params = protocol.DetectorParams(**{f"{kind}_preset": preset, "variant": variant})
    settings = protocol.detector_settings(kind, params)
    names = (VAD if kind == "vadclip" else ANOMALY).split()
    assert tuple(getattr(settings, name) for name in names) == expected
    changed = params.model_copy(update={f"{kind}_changes": {"epochs": 33}})
    assert protocol.detector_settings(kind, changed) == settings.model_copy(update={"epochs": 33})


@pytest.mark.parametrize(("kind", "changes", "message"), [
    ("vadclip", {"windows": 8}, "no setting windows; did you mean window"),
    ("vadclip", {"window": 7}, "window must divide length"),
    ("anomalyclip", {"emb_size": 12}, "heads must divide"),
    ("anomalyclip", {"top_k": 33}, "must be at most segments"),
    ("anomalyclip", {"epochs": 5}, "warmup_epochs must be less"),
    ("rtfm", {"top_k": 9, "segments": 8}, "top_k must be at most segments"),
])  # fmt: skip
def test_misfit_settings_are_named(kind, changes, message):
    with pytest.raises(InputError, match=f"{kind}_changes: .*{message}"):
        protocol.detector_settings(kind, protocol.DetectorParams(**{f"{kind}_changes": changes}))
