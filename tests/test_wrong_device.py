"""Training, features, detectors and explanation give the same on a simulated GPU as on the CPU."""

import numpy as np
import pytest
import tiny_clip
import torch
from pretended_gpu import CUDA, OnGPU, PretendedGPU
from safetensors.torch import load_file
from test_detector_training import HEADS, KINDS, fit, made, scorer
from test_training import TRAINING, Clips, changed, tiny_model
from tiny_detectors import training_videos

from alertclip.anomaly_curve import _score_frames, embed_prompts
from alertclip.attention_maps import attention_maps
from alertclip.clips import collate
from alertclip.embeddings import embed_clips
from alertclip.export import HEAD, export_open_clip
from alertclip.objective import StageObjective, validate
from alertclip.prompts import load_prompts
from alertclip.training import Run
from companion.profiles import ROOT
from detectors.features import SnippetRule, embed_crops


@pytest.fixture
def gpu(monkeypatch):
    """device="cuda" is available in the test."""
    make = torch.tensor  # it copies to the device without a way to step in

    def tensor(values, dtype=None, device="cpu"):
        return make(values, dtype=dtype).to(device)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    # inference mode does not go with wrapped tensors
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    state = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    with PretendedGPU():
        yield


def test_it_finds_what_a_gpu_would_refuse(gpu):
    x = torch.ones(2, 3).to("cuda")
    assert x.device == CUDA and (2 * x).sum().item() == 12 and isinstance(x[0], OnGPU)
    assert x.cpu().numpy().sum() == 6 and not isinstance(x.cpu(), OnGPU)
    for wrong in (lambda: x + torch.ones(2, 3), lambda: torch.cat([x, torch.ones(1, 3)]), x.numpy):
        with pytest.raises(RuntimeError, match="of the processor|not supported"):
            wrong()


def test_a_training_step_its_validation_and_export(gpu, tmp_path):
    batches = [collate([Clips(8)[i] for i in range(4 * k, 4 * k + 4)]) for k in range(2)]
    on_cpu, model = tiny_model(dropout=0.0), tiny_model(dropout=0.0).to("cuda")
    pairs = (on_cpu, torch.device("cpu")), (model, CUDA)
    for negatives in ("micro", "accumulated"):
        training = TRAINING.model_copy(update={"negatives": negatives})
        objectives = [StageObjective(m, training, "fp32", True, device) for m, device in pairs]
        expected, losses = (objective.backward(batches, 2) for objective in objectives)
        assert all(isinstance(loss, OnGPU) for loss in losses)
        torch.testing.assert_close([loss.cpu() for loss in losses], [*expected])
        for m, _ in pairs:
            m.zero_grad()
    stage, results = changed(accumulation=2), []
    for m, device in pairs:
        run = Run(m, stage, TRAINING, tmp_path / device.type, True, device)
        run.out.mkdir()
        run.step(0, 4, batches, 0.0)
        results.append(validate(batches, run.objective))
    assert run.optimizer.defaults["fused"] and results[1] == pytest.approx(results[0], abs=1e-4)
    weights = model.temporal.out.weight
    assert isinstance(weights, OnGPU)
    torch.testing.assert_close(weights.cpu(), on_cpu.temporal.out.weight, atol=1e-5, rtol=1e-3)
    export_open_clip(model, tmp_path / "exported", {})
    head = load_file(tmp_path / "exported" / HEAD)
    assert torch.equal(head["temporal.out.weight"], model.temporal.out.weight.cpu())


@torch.no_grad()
def test_features_explanation_clips_and_curves(gpu):
    """Their results are on the CPU, and the same."""
    prompts, results = load_prompts(ROOT / "params/prompts.yaml"), []
    clips = [Clips(3)[i] | {"times": [0, 1], "class_name": ""} for i in range(3)]
    frames = torch.randint(256, (4, 27, 37, 3), dtype=torch.uint8)
    for device in ("cpu", "cuda"):
        model = tiny_clip.alertclip().to(device)
        embedded = embed_clips(model, clips, 2, device)
        texts = embed_prompts.__wrapped__(model, prompts)
        curve = _score_frames(model, clips[0]["frames"], texts, 4)
        features = embed_crops.__wrapped__(model, frames, SnippetRule(2, 2, 10))
        maps = attention_maps.__wrapped__(model, tiny_clip.frames(3).to(device))
        results.append([embedded.embedding, embedded.z, *curve, features, maps])
    for on_cpu, on_gpu in zip(*results, strict=True):
        np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, *HEADS])
def test_detectors(gpu, kind):
    videos, kinds, _ = training_videos(8)
    head = {"epoch_steps": 2, "batch_size": 2}
    changes = head if kind in HEADS else {"warmup_epochs": 0} if kind == "anomalyclip" else {}
    model = made(kind, epochs=1, **changes).to("cuda")
    history, score = fit(model, videos, kinds), scorer(model)(videos[0])
    assert np.isfinite(history["total"]).all() and np.isfinite(score.anomaly).all()
