"""Training, features, detectors and explanation on a pretended GPU: none mixes its devices."""

import numpy as np
import pytest
import tiny_clip
import torch
from pretended_gpu import CUDA, OnGPU, PretendedGPU
from test_detector_training import fit, scorer
from test_training import TRAINING, Clips, tiny_model
from tiny_detectors import anomalyclip, training_videos, vadclip

from alertclip.attention_maps import attention_maps
from alertclip.clips import collate
from alertclip.lora import parameter_groups
from alertclip.objective import StageObjective
from detectors.features import SnippetRule, embed_crops


@pytest.fixture
def gpu(monkeypatch):
    """Inside the test, device="cuda" is there."""
    make = torch.tensor  # it copies to the device without a way to step in

    def tensor(values, dtype=None, device="cpu"):
        return make(values, dtype=dtype).to(device)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
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


def test_a_training_step(gpu):
    batches = [collate([Clips(8)[i] for i in range(4 * k, 4 * k + 4)]) for k in range(2)]
    on_cpu, model = tiny_model(dropout=0.0), tiny_model(dropout=0.0).to("cuda")
    for negatives in ("micro", "accumulated"):
        training = TRAINING.model_copy(update={"negatives": negatives})
        pairs = (on_cpu, torch.device("cpu")), (model, CUDA)
        objectives = [StageObjective(m, training, "fp32", True, device) for m, device in pairs]
        expected, losses = (objective.backward(batches, 2) for objective in objectives)
        assert all(isinstance(loss, OnGPU) for loss in losses)
        torch.testing.assert_close([loss.cpu() for loss in losses], [*expected])
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3, 1e-3, 1e-3, 0.01))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(isinstance(p.grad, OnGPU) for p in trained if p.grad is not None)


@torch.no_grad()
def test_features_and_explanation(gpu):
    # inference_mode, taken off here, does not go with wrapped tensors
    embed, explain = embed_crops.__wrapped__, attention_maps.__wrapped__
    frames = torch.randint(256, (4, 27, 37, 3), dtype=torch.uint8)
    on_cpu, on_gpu = tiny_clip.alertclip(), tiny_clip.alertclip().to("cuda")
    rule = SnippetRule(2, 2, 10)
    same = embed(on_cpu, frames, rule)
    np.testing.assert_allclose(embed(on_gpu, frames, rule), same, atol=1e-5)
    shown = tiny_clip.frames(3)
    maps = explain(on_gpu, shown.to("cuda"))
    torch.testing.assert_close(maps, explain(on_cpu, shown))


@pytest.mark.parametrize("make", [vadclip, anomalyclip])
def test_detectors(gpu, make):
    videos, kinds, _ = training_videos(8)
    model = make(epochs=1, **({"warmup_epochs": 0} if make is anomalyclip else {})).to("cuda")
    history = fit(model, videos, kinds)
    assert np.isfinite(history["total"]).all()
    assert np.isfinite(scorer(model)(videos[0]).anomaly).all()
