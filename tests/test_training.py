"""Training of a tiny CLIP on synthetic clips: schedule, order, gradients, checkpoints, resume."""

from contextlib import contextmanager, suppress
from copy import deepcopy
from unittest.mock import patch

import numpy as np
import pytest
import tiny_clip
import torch
from torch.utils.data import Dataset

from alertclip import distributed
from alertclip.checkpoint import checkpoints, trainable
from alertclip.clips import collate
from alertclip.hyperparameters import StageParams, TrainingParams
from alertclip.lora import add_lora
from alertclip.model import AlertCLIP
from alertclip.objective import StageObjective, recall_at_1, signed_gap
from alertclip.training import Run, fit, learning_rate_factor, micro_batches
from companion.profiles import load_params

TRAINING = TrainingParams()
STAGE = StageParams(
    batch_size=4, accumulation=1, base_lr=1e-2, text_lr=1e-2, temporal_lr=1e-2, warmup_ratio=0.0,
    steps=4, save_steps=2, save_limit=2, lora_dropout=0.1,
)  # fmt: skip
CPU = torch.device("cpu")


def changed(**values) -> StageParams:
    return STAGE.model_copy(update=values)


def test_schedule_by_hand():
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.5)  # half-way down the cosine
    assert factors[9] == pytest.approx(0.5 * (1 + np.cos(np.pi * 7 / 8)))
    assert learning_rate_factor(0, 1, 0.05) == 1.0  # a single step still moves
    # Table 4: 100 epochs of 29.1 optimiser steps
    assert load_params("paper").stage1.total_steps(3726) == 2910


def test_order_depends_on_seed_and_epoch_only():
    stage = changed(batch_size=2, accumulation=2, steps=6)
    batches = micro_batches(10, stage, 7, 0)
    assert len(batches) == 12 and batches[6:] == micro_batches(10, stage, 7, 3)
    epochs = np.array(batches).reshape(-1)
    assert sorted(epochs[:10]) == sorted(epochs[10:20]) == list(range(10))
    assert epochs[:10].tolist() == np.random.default_rng([7, 0]).permutation(10).tolist()
    assert epochs[:10].tolist() != epochs[10:20].tolist()
    assert micro_batches(10, stage, 8, 0) != batches


def tiny_model(seed: int = 0, dropout: float = 0.1) -> AlertCLIP:
    """An untrained AlertCLIP with adapters."""
    model = tiny_clip.alertclip(seed=seed, temporal_dropout=dropout)
    model.adapted = add_lora(model.adapted, 4, 8, dropout)
    model.logit_scale.requires_grad_(True)
    return model


class Clips(Dataset):
    """Synthetic samples in ClipDataset's format; the caption names the colour of the frames."""

    def __init__(self, number: int = 10, frames: int = 2) -> None:
        self.number, self.frames = number, frames

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, i: int) -> dict:
        rng = np.random.default_rng(i)
        frames = rng.integers(0, 40, (self.frames, 24, 32, 3), dtype=np.uint8)
        frames[..., i % 3] += np.uint8(20 * i)
        boxes = np.tile(np.array([0.1, 0.2, 0.8, 0.9]), (self.frames, 1))
        mask = np.ones(self.frames, dtype=bool)
        negatives = [f"colour {i} absent", f"no {i}", f"never {i}"][: 1 + i % 3]
        return {
            "frames": frames,
            "mask": mask,
            "global_caption": f"colour {i}",
            "regions": [(boxes, mask, f"part of colour {i}", negatives)],
            "label": i % 2,
            "key": f"clip{i}",
        }


def train(out, stage=STAGE, model=None):
    model = model or tiny_model()
    options = {"regions": True, "seed": 3, "device": "cpu"}
    return model, fit(model, Clips(), Clips(4), stage, TRAINING, out, **options)


def test_loss_falls_and_only_adapters_head_and_temperature_move(tmp_path):
    model = tiny_model()
    before = deepcopy(model.state_dict())
    _, history = train(tmp_path, changed(steps=16, batch_size=8), model=model)
    kept = ["checkpoint-000014", "checkpoint-000016"]  # save_limit
    assert [path.name for path in checkpoints(tmp_path)] == kept
    losses = [row["loss"] for row in history.steps]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    logged = {"lr_base", "lr_text", "lr_temporal", "loss_global", "loss_region", "loss_hard"}
    assert logged | {"grad_norm", "logit_scale", "epoch"} <= history.steps[0].keys()
    assert {"validation_loss", "recall_at_1", "signed_gap"} <= history.validation[-1].keys()
    moved = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert moved <= trainable(model).keys()
    for part in ("visual", "lora_B", "temporal.", "pooling.", "logit_scale"):
        assert any(part in name for name in moved), part
    assert any("lora_B" in name and "visual" not in name for name in moved)


@contextmanager
def interrupted(number):
    """Interrupt the training inside before optimiser step ``number`` (0-based)."""
    step = Run.step

    def stopped(self, n, *args):
        if n == number:
            raise KeyboardInterrupt
        step(self, n, *args)

    with patch.object(Run, "step", stopped), suppress(KeyboardInterrupt):
        yield


def test_finished_stage_is_loaded_and_another_run_set_aside(tmp_path):
    first, _ = train(tmp_path / "stage")
    log = (tmp_path / "stage/log.jsonl").stat().st_mtime_ns
    again, history = train(tmp_path / "stage")
    assert len(history.steps) == 4
    assert (tmp_path / "stage/log.jsonl").stat().st_mtime_ns == log
    train(tmp_path / "stage", changed(base_lr=2e-2))
    assert len(list(tmp_path.glob("stage-*"))) == 1
    back, _ = train(tmp_path / "stage")
    assert len(list(tmp_path.glob("stage-*"))) == 1
    for model in (again, back):
        torch.testing.assert_close(model.state_dict(), first.state_dict(), atol=0, rtol=0)


def gradients(batches, negatives):
    """Losses and gradients of one step, summed over all processes."""
    model = tiny_model().eval()
    # Adapters start at zero output; moved, every one of them has a gradient to compare.
    tiny_clip.stir(model, scale=0.02)
    objective = StageObjective(model, TrainingParams(negatives=negatives), "fp32", True, CPU)
    losses = objective.backward(iter(batches), len(batches))
    distributed.sum_gradients(list(trainable(model).values()), model.logit_scale)
    grads = {name: p.grad for name, p in trainable(model).items() if p.grad is not None}
    return list(losses), grads


def test_accumulated_negatives_equal_the_big_batch():
    samples = [Clips()[i] for i in range(8)]
    samples[7]["regions"][0][3].extend(["one more", "and another"])  # the other half is padded
    halves = [collate(samples[:4]), collate(samples[4:])]
    loss, big = gradients([collate(samples)], "micro")
    cached_loss, cached = gradients(halves, "accumulated")
    torch.testing.assert_close(cached_loss, loss)
    torch.testing.assert_close(cached, big, atol=1e-5, rtol=1e-4)
    micro_loss, micro = gradients(halves, "micro")
    (first_loss, first), (second_loss, second) = (gradients([half], "micro") for half in halves)
    means = [(a + b) / 2 for a, b in zip(first_loss, second_loss, strict=True)]
    torch.testing.assert_close(micro_loss, means)  # each half contrasted by itself
    means = {name: (first[name] + second[name]) / 2 for name in micro}
    torch.testing.assert_close(micro, means, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("negatives", "order"), [("micro", "lele"), ("accumulated", "lleeee")])
def test_only_accumulated_negatives_wait_for_all_clips_and_replay_dropout(negatives, order):
    model, done, embeddings = tiny_model(dropout=0.5).train(), [], []
    objective = StageObjective(model, TrainingParams(negatives=negatives), "fp32", True, CPU)
    embed = objective.embed

    def noted(batch):
        done.append("e")
        embeddings.append(embed(batch))
        return embeddings[-1]

    objective.embed = noted
    loaded = (done.append("l") or collate([Clips()[i], Clips()[i + 1]]) for i in (0, 2))
    objective.backward(loaded, 2)
    assert "".join(done) == order
    if negatives == "accumulated":
        assert torch.equal(embeddings[0].v, embeddings[2].v)
        assert torch.equal(embeddings[1].t_neg, embeddings[3].t_neg)


def test_signed_gap_is_the_sign_score():
    similarity = torch.tensor([[0.1, 0.5], [0.2, 0.3]])  # clips: normal, abnormal
    gap = signed_gap(similarity, torch.tensor([0, 1]))
    assert gap == pytest.approx(((0.1 - 0.5) + (0.3 - 0.2)) / 2)
    assert signed_gap(similarity, torch.tensor([1, 1])) is None
    assert recall_at_1(similarity, ["a", "b"]) == 0.5
    assert recall_at_1(similarity, ["a", "a"]) == 1.0
