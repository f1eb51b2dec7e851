"""Memory of a step: what is counted, foreseen from small steps, and chosen by it."""

from dataclasses import replace

import pytest
import tiny_clip
import torch

from alertclip import footprint
from alertclip.footprint import (
    SHARE,
    Footprint,
    fit_into_memory,
    foreseen_bytes,
    least_checkpointing,
    step_bytes,
)
from alertclip.lora import add_lora
from alertclip.model import AlertCLIP
from alertclip.stage_settings import stage_settings
from alertclip.tower import checkpoint_every
from companion.profiles import load_params

SETTINGS = replace(stage_settings(load_params("mini"), 2), batch_size=16)
FRAMES = 8


@pytest.fixture
def model() -> AlertCLIP:
    model = tiny_clip.alertclip()
    model.adapted = add_lora(model.adapted, 2, 4, 0.1)
    return model.train()


def test_a_tensor_counts_once_and_until_it_is_freed():
    x = torch.zeros(1000)
    with Footprint() as counted:
        counted.count(x)
        counted.count(x[10:])
        y = x + 1
        z = y.view(10, 100)
        assert counted.held == 8000
        del y
        assert counted.held == 8000  # its view still holds it
        del z
        assert counted.held == 4000
        x.add_(1)
    assert (counted.held, counted.peak) == (4000, 8000)


@pytest.mark.parametrize("policy", ["none", "all"])
@pytest.mark.parametrize("regions", [False, True])
def test_small_steps_tell_the_peak_of_the_whole(regions, policy, model):
    model.checkpoint_every = checkpoint_every(policy)
    whole = step_bytes(model, SETTINGS, 16, FRAMES, regions)
    foreseen = foreseen_bytes(model, SETTINGS, 16, FRAMES, regions)
    assert foreseen == pytest.approx(whole, rel=0.03)


def test_activations_are_kept_as_far_as_memory_allows(model):
    peaks = {}
    for policy in ("none", "4", "all"):  # of two blocks: none, the first, both recomputed
        model.checkpoint_every = checkpoint_every(policy)
        peaks[policy] = foreseen_bytes(model, SETTINGS, 16, FRAMES, True)
    assert peaks["none"] > peaks["4"] > peaks["all"]
    for policy, peak in peaks.items():
        chosen, foreseen = least_checkpointing(model, SETTINGS, FRAMES, True, peak / SHARE)
        assert (chosen, foreseen) == (policy, peak)
        assert model.checkpoint_every == checkpoint_every(policy)
    chosen, peak = least_checkpointing(model, SETTINGS, FRAMES, True, 1000)
    assert chosen == "all" and peak > 1000  # the caller says what does not fit


def test_noise_teaches_nothing_even_where_memory_does_not_do(model, monkeypatch):
    def runs_out(batches, embed, objective):
        objective(embed(batches[0]), batches)[0].backward()
        raise torch.OutOfMemoryError

    monkeypatch.setattr(footprint, "micro_backward", runs_out)
    assert foreseen_bytes(model, SETTINGS, 16, FRAMES, True) == float("inf")
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("clips, tried", [(1, [1]), (2, [2]), (16, [2, 4])])
def test_no_more_clips_are_tried_than_a_step_has(clips, tried, model, monkeypatch):
    sizes = []
    monkeypatch.setattr(footprint, "step_bytes", lambda m, s, n, *_: sizes.append(n) or 10 * n)
    assert foreseen_bytes(model, SETTINGS, clips, FRAMES, True) == 10 * clips
    assert sizes == tried


def test_on_a_cpu_all_is_recomputed(model, capsys):
    fit_into_memory(model, SETTINGS, FRAMES, True, "stage2")
    assert model.checkpoint_every == 1 and capsys.readouterr().out == ""


def test_looking_ahead_leaves_no_trace(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model.eval()
    least_checkpointing(model, SETTINGS, FRAMES, True, 1e12)
    assert torch.equal(torch.rand(3), expected) and not model.training
    assert all(p.grad is None for p in model.parameters())
