"""Official detector checkpoints: names and shapes, loading, faults, and the command's scores."""

import os
import shutil
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_clip
import torch
import yaml
from faults.harness import Bomb, refused
from tiny_detectors import SMALL_VAD, VAD_NAMES, anomalyclip, clip, own_state, tokenize, vadclip

from alertclip.attention import pack_state_dict, split_attention
from detectors import __main__ as command
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.benchmarks import load_benchmark
from detectors.checkpoints import load_anomalyclip, load_clip, load_vadclip
from detectors.features import read_features
from detectors.training_protocol import AnomalyCLIPSettings, VadCLIPSettings
from detectors.vadclip.model import VadCLIP, score_video
from media.errors import InputError


def test_names_and_shapes_are_official(root):
    official = yaml.safe_load((root / "tests/official_checkpoints.yaml").read_text())
    backbone = clip(embed=512, context_length=77, width=512, heads=8, layers=1)
    parts = backbone, lambda texts: tokenize(texts, 77)
    vad = VadCLIP(*parts, ("normal", "abuse"), VadCLIPSettings())
    assert {n: [*t.shape] for n, t in own_state(vad).items()} == official["vadclip"]
    names = [f"class{i}" for i in range(14)]
    model = AnomalyCLIP(*parts, names, torch.zeros(512), AnomalyCLIPSettings())
    packed = pack_state_dict(model.state_dict()).items()
    assert {name: [*tensor.shape] for name, tensor in packed} == official["anomalyclip"]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 10_110_977 + 512 * 512 + 14 * 8 * 512 + 1  # temporal first


def test_vadclip_files_load_and_faulty_ones_load_nothing(tmp_path: Path):
    model, other, path = vadclip(), vadclip(seed=5, stirred=False), tmp_path / "model.pth"
    state = {name: t.clone() for name, t in own_state(model).items()}
    state["disAdj.sigma"] = torch.tensor([0.1])
    theirs = clip(seed=9)
    torch.save(state | {f"clipmodel.{n}": t for n, t in theirs.state_dict().items()}, path)
    load_vadclip(other, path)
    assert all(torch.equal(t, own_state(other)[name]) for name, t in state.items())
    split = clip()
    split_attention(split)
    load_clip(split, path)
    tokens = tokenize(list(VAD_NAMES))
    torch.testing.assert_close(split.encode_text(tokens), theirs.encode_text(tokens))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    faults = {
        "gc2.weight missing, not": {k: v + 1 for k, v in state.items() if k != "gc2.weight"},
        "gc9 (2,), not known": state | {"gc9": torch.ones(2)},
        "linear.bias (3,), not (16,)": state | {"linear.bias": torch.ones(3)},
        "holds no state dict": {"epoch": 3},
        "no state dict, names": {"linear.bias": Path("x")},  # a placeholder
    }
    for message, faulty in faults.items():
        torch.save(faulty, path)
        assert message in refused(load_vadclip, other, path)
    assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())
    path.write_bytes(b"")
    for file in (path, tmp_path / "missing.pth"):
        assert file.name in refused(load_vadclip, other, file)


def test_what_lies_beside_the_weights_runs_nothing(tmp_path):
    """Lightning's settings and an optimiser are skipped, calls are not executed, os is refused."""
    path, mark = tmp_path / "model.ckpt", tmp_path / "mark"
    state, other = own_state(vadclip()), vadclip(seed=5)
    command = f"open({str(mark)!r}, 'w').write('x')"
    settings = {
        "net": torch.nn.Linear(2, 2),
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "cache": defaultdict(dict),
        "root": Path("x"),
        "ap": np.float64(0.8),
        "evil": [Bomb(exec, command), Bomb(shutil.copy, __file__, str(mark))],
    }
    optimizer = torch.optim.AdamW(other.parameters()).state_dict()
    for entry in ("state_dict", "model_state_dict"):
        torch.save({entry: state, "optimizer_state_dict": optimizer, "hyper": settings}, path)
        load_vadclip(other, path)
        assert not mark.exists()
        assert all(torch.equal(t, own_state(other)[name]) for name, t in state.items())
    torch.load(path, weights_only=False)
    assert mark.exists()  # the file does run what it holds, where it may
    mark.unlink()
    torch.save({"state_dict": state, "evil": Bomb(os.system, f"touch {mark}")}, path)
    assert "posix" in refused(load_vadclip, other, path)
    assert not mark.exists()


def test_anomalyclip_files_load_into_stock_and_split_attention(tmp_path):
    trained, path = anomalyclip(split=True, seed=1), tmp_path / "last.ckpt"
    tiny_clip.stir(trained)
    trained.selector_model.bn_layer.running_mean += 1
    trained.prototype += 0.5
    state = {f"net.{name}": t for name, t in pack_state_dict(trained.state_dict()).items()}
    frozen = {"net.image_encoder.proj": torch.ones(2), "net.token_embedding.weight": torch.ones(3)}
    torch.save({"state_dict": state | frozen, "epoch": 50}, path)  # as the authors' files
    for split in (False, True):
        fresh = anomalyclip(split=split)
        with pytest.raises(InputError, match="prototype must be a vector of 16"):
            load_anomalyclip(fresh, path, torch.zeros(3))
        load_anomalyclip(fresh, path, trained.prototype)
        ours, theirs = (pack_state_dict(m.state_dict()) for m in (fresh, trained))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert torch.equal(fresh.prototype, trained.prototype)


def test_the_command_scores_feature_files(tmp_path, monkeypatch):
    """The CLIP comes from the checkpoint; a row per feature, with each class's probability."""
    settings, benchmark = VadCLIPSettings(**SMALL_VAD), load_benchmark("ucf_crime")
    monkeypatch.setattr(command, "load_backbone", lambda *_: tiny_clip.backbone())
    monkeypatch.setattr(command, "detector_settings", lambda *_: settings)
    names = command.class_prompts(benchmark, benchmark.classes)
    source, theirs = tiny_clip.backbone(seed=3), tiny_clip.clip(seed=3)
    model = VadCLIP(source.model, source.tokenizer, names, settings).eval()
    frozen = {f"clipmodel.{name}": t for name, t in theirs.state_dict().items()}
    torch.save(own_state(model) | frozen, tmp_path / "model.pth")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(20, 16)))
    weights, feature, out = (str(tmp_path / n) for n in ("model.pth", "a.npy", "scores.csv"))
    command.main(["vadclip", weights, feature, "--out", out])
    table = pd.read_csv(tmp_path / "scores.csv")
    expected = score_video(model, read_features(tmp_path / "a.npy"), model.encode_text())
    assert table.columns.tolist() == ["video", "feature", "anomaly", *benchmark.classes]
    assert table["video"].tolist() == ["a"] * 20 and table["feature"].tolist() == list(range(20))
    np.testing.assert_allclose(table["anomaly"], expected.anomaly, rtol=1e-4)
    np.testing.assert_allclose(table.iloc[:, 3:], expected.probabilities, rtol=1e-4)
    with pytest.raises(SystemExit, match="--prototype"):
        command.main(["anomalyclip", weights, feature, "--out", out])
