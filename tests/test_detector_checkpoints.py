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
from detectors.anomalyclip.settings import PRESETS as ANOMALYCLIP
from detectors.vadclip.settings import PRESETS as VADCLIP
from tiny_detectors import SMALL_VAD, VAD_NAMES, WIDTH, anomalyclip, clip, random, tokenize, vadclip
from torch import Tensor

from alertclip.attention import pack_state_dict, split_attention
from alertclip.errors import InputError
from detectors import __main__ as command
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.anomalyclip.model import score_video as score_anomalyclip
from detectors.benchmarks import load_benchmark
from detectors.checkpoints import load_anomalyclip, load_clip, load_vadclip
from detectors.features import read_features
from detectors.training_protocol import VadCLIPSettings
from detectors.vadclip.model import VadCLIP
from detectors.vadclip.model import score_video as score_vadclip


def layers(*names: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Weight and bias of layers of the same weight shape."""
    return {f"{n}.{part}": shape[:k] for n in names for part, k in (("weight", 9), ("bias", 1))}


def block(name: str) -> dict[str, tuple[int, ...]]:
    """A residual attention block of width 512."""
    attn = {f"{name}.attn.in_proj_weight": (1536, 512), f"{name}.attn.in_proj_bias": (1536,)}
    attn |= layers(f"{name}.attn.out_proj", shape=(512, 512)) | mlp(f"{name}.mlp")
    return attn | layers(f"{name}.ln_1", f"{name}.ln_2", shape=(512,))


def mlp(name: str) -> dict[str, tuple[int, ...]]:
    return layers(f"{name}.c_fc", shape=(2048, 512)) | layers(f"{name}.c_proj", shape=(512, 2048))


def official_vadclip() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official UCF-Crime checkpoint, less CLIP: width 512, 2 layers."""
    table = {
        "disAdj.sigma": (1,),
        "frame_position_embeddings.weight": (256, 512),
        "text_prompt_embeddings.weight": (77, 512),
        **{"gc1.weight": (512, 256), "gc3.weight": (512, 256)},
        **{"gc2.weight": (256, 256), "gc4.weight": (256, 256)},
    }
    table |= layers("gc1.residual", "gc3.residual", shape=(256, 512, 5))
    table |= layers("linear", shape=(512, 512)) | layers("classifier", shape=(1, 512))
    table |= block("temporal.resblocks.0") | block("temporal.resblocks.1")
    return table | mlp("mlp1") | mlp("mlp2")


def official_anomalyclip() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official UCF-Crime model, with one layer in the text tower."""
    text, axial = "text_encoder", "temporal_model.axial_attn"
    selector, blocks = "selector_model.bn_layer", f"{axial}.layers.blocks"
    table = {
        "prompt_learner.ctx": (14, 8, 512),
        "prompt_learner.token_prefix": (14, 1, 512),
        "prompt_learner.token_suffix": (14, 68, 512),
        f"{text}.positional_embedding": (77, 512),
        f"{text}.text_projection": (512, 512),
        "selector_model.logit_scale": (),
        **{f"{selector}.running_mean": (13,), f"{selector}.running_var": (13,)},
        f"{selector}.num_batches_tracked": (),
        **{
            f"{axial}.pos_emb.param_0": (1, 256, 32, 1),
            f"{axial}.pos_emb.param_1": (1, 256, 1, 16),
        },
    }
    table |= block(f"{text}.transformer.resblocks.0") | layers(f"{text}.ln_final", shape=(512,))
    table |= layers("temporal_model.projection", shape=(256, 512))
    table |= layers("temporal_model.classifier.linear", shape=(1, 256))
    table |= layers("temporal_model.classifier.layer_norm", shape=(256,))
    for side in "fg":
        attend, conv = f"{blocks}.0.{side}.net.fn", f"{blocks}.1.{side}.net"
        table |= layers(f"{attend}.norm", shape=(256,))
        table |= {f"{attend}.fn.to_q.weight": (256, 256), f"{attend}.fn.to_kv.weight": (512, 256)}
        table |= layers(f"{attend}.fn.to_out", shape=(256, 256))
        table |= {f"{conv}.0.g": (1, 256, 1, 1), f"{conv}.0.b": (1, 256, 1, 1)}
        table |= layers(f"{conv}.1", shape=(1024, 256, 3, 3))
        table |= layers(f"{conv}.3", shape=(256, 1024, 3, 3))
    return table


def own_state(model: VadCLIP) -> dict[str, Tensor]:
    return {name: t for name, t in model.state_dict().items() if not name.startswith("text.")}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_names_and_shapes_are_official():
    backbone = clip(embed=512, context_length=77, width=512, heads=8, layers=1)
    parts = backbone, lambda texts: tokenize(texts, 77)
    vad = VadCLIP(*parts, ("normal", "abuse"), VADCLIP["ucf", "official"])
    assert shapes(own_state(vad)) == official_vadclip()
    names = [f"class{i}" for i in range(14)]
    model = AnomalyCLIP(*parts, names, torch.zeros(512), ANOMALYCLIP["ucf"])
    assert shapes(pack_state_dict(model.state_dict())) == official_anomalyclip()
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
        r"gc9 \(2,\), not known": state | {"gc9": torch.ones(2)},
        r"linear.bias \(3,\), not \(16,\)": state | {"linear.bias": torch.ones(3)},
        "holds no state dict": {"epoch": 3},
        "no state dict, names": {"linear.bias": Path("x")},  # a placeholder
    }
    for message, faulty in faults.items():
        torch.save(faulty, path)
        with pytest.raises(InputError, match=message):
            load_vadclip(other, path)
    assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())
    path.write_bytes(b"")
    for file in (path, tmp_path / "missing.pth"):
        with pytest.raises(InputError, match=file.name):
            load_vadclip(other, file)


class Evil:
    """Unpickled by pickle, it would write a file."""

    def __init__(self, call, *arguments) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def test_what_lies_beside_the_weights_runs_nothing(tmp_path):
    """Lightning's settings and an optimiser are skipped, calls are not made, os is refused."""
    path, mark = tmp_path / "model.ckpt", tmp_path / "mark"
    state, other = own_state(vadclip()), vadclip(seed=5)
    command = f"open({str(mark)!r}, 'w').write('x')"
    settings = {
        "net": torch.nn.Linear(2, 2),
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "cache": defaultdict(dict),
        "root": Path("x"),
        "ap": np.float64(0.8),
        "evil": [Evil(exec, command), Evil(shutil.copy, __file__, str(mark))],
    }
    for entry in ("state_dict", "model_state_dict"):
        optimizer = torch.optim.AdamW(other.parameters()).state_dict()
        torch.save({entry: state, "optimizer_state_dict": optimizer, "hyper": settings}, path)
        load_vadclip(other, path)
        assert not mark.exists()
        assert all(torch.equal(t, own_state(other)[name]) for name, t in state.items())
    torch.load(path, weights_only=False)
    assert mark.exists()  # the file does run what it holds, where it may
    mark.unlink()
    torch.save({"state_dict": state, "evil": Evil(os.system, f"touch {mark}")}, path)
    with pytest.raises(InputError, match="posix"):
        load_vadclip(other, path)
    assert not mark.exists()


def official(model: AnomalyCLIP) -> dict[str, Tensor]:
    """The model's weights as the authors' files hold them."""
    state = {f"net.{name}": t for name, t in pack_state_dict(model.state_dict()).items()}
    frozen = {"net.image_encoder.proj": torch.ones(2), "net.token_embedding.weight": torch.ones(3)}
    return state | frozen


def test_anomalyclip_files_load_into_stock_and_split_attention(tmp_path):
    trained, path, x = anomalyclip(split=True, seed=1), tmp_path / "last.ckpt", random(11, 16)
    tiny_clip.stir(trained)
    trained.selector_model.bn_layer.running_mean += 1
    trained.prototype += 0.5
    torch.save({"state_dict": official(trained), "epoch": 50}, path)
    expected = score_anomalyclip(trained, x).probabilities
    for split in (False, True):
        fresh = anomalyclip(split=split)
        load_anomalyclip(fresh, path, trained.prototype)
        found = score_anomalyclip(fresh, x).probabilities
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        ours, theirs = (pack_state_dict(m.state_dict()) for m in (fresh, trained))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_anomalyclip_faults_are_named_and_load_nothing(tmp_path):
    path, fresh, state = tmp_path / "model.pt", anomalyclip(seed=1), official(anomalyclip())
    m, before = torch.zeros(16), {n: t.clone() for n, t in fresh.state_dict().items()}
    for content, prototype, message in [
        ({"state_dict": state | {"net.extra": torch.zeros(1)}}, m, r"extra \(1,\), not known"),
        ({"epoch": 3}, m, "holds no state dict"),
        ({"state_dict": state}, m[:3], "prototype must be a vector of 16"),
    ]:
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            load_anomalyclip(fresh, path, prototype)
    assert all(torch.equal(before[name], t) for name, t in fresh.state_dict().items())


def test_the_command_scores_feature_files(tmp_path, monkeypatch, capsys):
    """The CLIP comes from the checkpoint; a row per feature, with each class's probability."""
    settings, classes = VadCLIPSettings(**SMALL_VAD), load_benchmark("ucf_crime").classes
    monkeypatch.setattr(command, "load_backbone", lambda *_: tiny_clip.backbone())
    monkeypatch.setattr(command, "vadclip_settings", lambda _: settings)
    names = command.class_prompts(load_benchmark("ucf_crime"), classes)
    source, theirs = tiny_clip.backbone(seed=3), tiny_clip.clip(seed=3)
    model = VadCLIP(source.model, source.tokenizer, names, settings)
    frozen = {f"clipmodel.{name}": t for name, t in theirs.state_dict().items()}
    torch.save(own_state(model) | frozen, tmp_path / "model.pth")
    np.save(tmp_path / "a.npy", random(20, WIDTH).numpy())
    out = ["--out", str(tmp_path / "scores.csv")]
    files = [str(tmp_path / "model.pth"), str(tmp_path / "a.npy")]
    assert command.main(["vadclip", *files, *out]) == 0
    table = pd.read_csv(tmp_path / "scores.csv")
    expected = score_vadclip(model, read_features(tmp_path / "a.npy"))
    assert table.columns.tolist() == ["video", "feature", "anomaly", *classes]
    assert table["video"].tolist() == ["a"] * 20 and table["feature"].tolist() == list(range(20))
    np.testing.assert_allclose(table["anomaly"], expected.anomaly, rtol=1e-4)
    np.testing.assert_allclose(table.iloc[:, 3:], expected.probabilities, rtol=1e-4)
    assert command.main(["anomalyclip", *files, *out]) == 1
    assert "--prototype" in capsys.readouterr().err
