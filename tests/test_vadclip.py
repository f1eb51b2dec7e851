"""VadCLIP piece by piece against hand computation, and whole against a float64 derivation."""

import math
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import tiny_clip
import torch
from torch import Tensor

from alertclip.attention import split_attention
from alertclip.errors import InputError
from detectors import __main__ as command
from detectors.benchmarks import load_benchmark
from detectors.checkpoints import load_clip, load_vadclip
from detectors.features import read_features
from detectors.training_protocol import DetectorParams
from detectors.vadclip.graph import (
    GraphConvolution,
    distance_adjacency,
    distance_decay,
    similarity_adjacency,
    valid_positions,
    window_mask,
)
from detectors.vadclip.losses import (
    alignment_loss,
    binary_loss,
    separation_loss,
    top_k_mean,
    total_loss,
)
from detectors.vadclip.model import VadCLIP, layout
from detectors.vadclip.scoring import chunks, score_video
from detectors.vadclip.settings import PRESETS, VadCLIPSettings, vadclip_settings
from detectors.vadclip.training import (
    epoch_batches,
    fit,
    multi_hot,
    steps_per_epoch,
    training_steps,
    training_window,
    uniform_pool,
)

START, END = 48, 49
NAMES = ("normal", "fighting", "car accident")
WIDTH, LENGTH = 16, 16
SMALL = {"length": LENGTH, "window": 4, "prefix": 2, "postfix": 1, "batch_size": 4}


def tokenize(texts: list[str]) -> Tensor:
    tokens = torch.zeros(len(texts), 8, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        words = [zlib.crc32(word.encode()) % (START - 1) + 1 for word in text.split()]
        row[: len(words) + 2] = torch.tensor([START, *words, END])
    return tokens


def clip(seed: int = 0, **text) -> open_clip.CLIP:
    """The tiny CLIP with text width 24, unlike its feature width 16."""
    config = tiny_clip.config()
    config["text_cfg"] |= {"width": 24} | text
    config["embed_dim"] = config["text_cfg"].pop("embed", 16)
    torch.manual_seed(seed)
    return open_clip.CLIP(**config).eval()


def detector(seed: int = 0, stirred: bool = True, **changes) -> VadCLIP:
    torch.manual_seed(seed)
    settings = VadCLIPSettings(**{**SMALL, **changes})
    model = VadCLIP(clip(), tokenize, NAMES, settings)
    if stirred:
        tiny_clip.stir(model, scale=0.1)
    return model.eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Prompt ---------------------------------------------------------------------------------------


def test_prompt_slots_of_the_official_layout():
    tokens = torch.zeros(2, 77, dtype=torch.long)
    tokens[0, :3] = torch.tensor([9000, 10, 9999])
    tokens[1, :4] = torch.tensor([9000, 10, 20, 9999])

    def ordinal(tokens):
        return tokens[..., None].float()  # the embedding of a token is its number

    prompts = layout(tokens, ordinal, ["normal", "car accident"], 10, 10)
    learned = -torch.arange(77.0)[:, None]  # slot s holds -s
    one, two = prompts.fill(learned).squeeze(-1).int().tolist()
    assert one == [9000, *range(-1, -11, -1), 10, *range(-12, -22, -1), 9999, *range(-23, -77, -1)]
    assert two[:11] == one[:11] and two[11:13] == [10, 20]
    assert two[13:23] == list(range(-13, -23, -1)) and two[23] == 9999 and two[24] == -24
    assert prompts.eot.tolist() == [1 + 21, 2 + 21]


def test_prompt_that_does_not_fit_is_named():
    names, embedding = ["a b c", "a b c d"], clip().token_embedding
    assert layout(tokenize(names[:1]), embedding, names[:1], 2, 1).eot.tolist() == [7]  # just fits
    with pytest.raises(InputError, match="class a b c d: 4 tokens, prefix 2, postfix 1.* 8 of"):
        layout(tokenize(names), embedding, names, 2, 1)


def test_context_after_end_is_not_seen_and_before_it_is():
    model = detector()
    text = model.encode_text()
    end = int(model.prompt_eot[0])
    model.text_prompt_embeddings.weight.data[end + 1 :] += random(8 - end - 1, 24)
    torch.testing.assert_close(model.encode_text()[0], text[0])
    model.text_prompt_embeddings.weight.data[end - 1] += random(24)
    assert (model.encode_text()[0] - text[0]).abs().max() > 1e-3


# Graph ----------------------------------------------------------------------------------------


def test_window_mask_is_block_diagonal():
    mask = window_mask(256, 8)
    expected = np.kron(np.eye(32), np.ones((8, 8))) == 1
    assert ((mask == 0).numpy() == expected).all()
    assert (mask[torch.from_numpy(~expected)] == float("-inf")).all()
    assert not window_mask(6, 0).any() and VadCLIPSettings(window=0).window == 0
    with pytest.raises(ValueError, match="window must divide length"):
        VadCLIPSettings(window=7)


def test_weak_similarities_become_zero_not_minus_infinity():
    # Cosines of row 0 to itself, 1, 2: 1, .8 (kept), -.6 (filtered); 3 is padding.
    x = torch.tensor([[[2.0, 0], [4, 3], [-3, 4], [1, 0]]])
    adjacency = similarity_adjacency(x, valid_positions(torch.tensor([3]), 4), 0.7)
    row = np.array([math.exp(1), math.exp(0.8), 1.0, 0.0])
    last = np.array([1.0, 1.0, math.exp(1), 0.0])  # 2 is orthogonal to 1
    np.testing.assert_allclose(adjacency[0, 0], row / row.sum(), rtol=1e-6)
    np.testing.assert_allclose(adjacency[0, 2], last / last.sum(), rtol=1e-6)
    assert adjacency[0, 3].abs().max() == 0


def test_padding_has_no_say_in_the_similarity_of_valid_positions():
    x, valid = random(3, 6, 4), valid_positions(torch.tensor([6, 4, 0]), 6)
    adjacency = similarity_adjacency(x, valid, 0.7)
    other = torch.where(valid[..., None], x, 7 * random(3, 6, 4, seed=1))
    assert torch.equal(adjacency, similarity_adjacency(other, valid, 0.7))
    torch.testing.assert_close(adjacency.sum(-1), valid.float())
    assert adjacency.isfinite().all()


def test_distances():
    decay = distance_decay(256)
    assert decay[5, 5] == 1 and decay[0, 255] == pytest.approx(math.exp(-255 / math.e))
    assert decay[7, 4] == decay[4, 7] == pytest.approx(math.exp(-3 / math.e))
    paper = distance_adjacency(valid_positions(torch.tensor([2]), 3), torch.tensor([0.5]))
    near = 1 / (1 + math.exp(-2))  # softmax(0, -1 / 0.5)
    expected = torch.tensor([[[near, 1 - near, 0], [1 - near, near, 0], [0, 0, 0]]])
    torch.testing.assert_close(paper, expected)


def test_graph_convolution_by_hand():
    same = GraphConvolution(2, 2)
    same.weight.data = torch.tensor([[1.0, 2], [0, 1]])
    x, adjacency = torch.tensor([[[1.0, 0], [0, 3]]]), torch.tensor([[0.0, 2], [0, 0]])
    # x W = [[1, 2], [0, 3]]; A takes twice the second row into the first; plus x.
    assert same(x, adjacency).tolist() == [[[1, 6], [0, 3]]]
    narrow = GraphConvolution(2, 1)
    narrow.weight.data.zero_()
    narrow.residual.bias.data.fill_(0.5)
    narrow.residual.weight.data = torch.tensor([[[0.0, 0, 0, 1, 0], [0, 0, 1, 0, 0]]])
    # The next position's first feature plus the own second one, plus the bias.
    x = torch.tensor([[[1.0, 10], [2, 20], [3, 30]]])
    assert narrow(x, torch.eye(3)).tolist() == [[[12.5], [23.5], [30.5]]]


# Losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "k"), [(15, 1), (16, 2), (31, 2), (256, 17)])
def test_k_of_top_k(length, k):
    values = torch.arange(256.0).flip(0)[None, :, None]  # descending
    values[0, length:] = 1e6  # padding would win
    first = 255 - np.arange(k)
    assert top_k_mean(values, torch.tensor([length])).item() == pytest.approx(first.mean())


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
    losses = total_loss(logits1, logits2, text, targets, lengths, settings)
    expected = losses_by_definition(logits1, logits2, text, targets, lengths, variant == "official")
    assert losses[1:] == pytest.approx(expected, rel=1e-5)
    assert losses.total.item() == pytest.approx(np.dot([1, 1, 0.3], expected), rel=1e-5)


def test_loss_gradients_point_the_right_way():
    logits1, logits2 = torch.zeros(2, 16).requires_grad_(), torch.zeros(2, 16, 3).requires_grad_()
    targets, lengths = torch.tensor([[1.0, 0, 0], [0, 1, 1]]), torch.tensor([10, 16])
    binary_loss(logits1, targets, lengths).backward()
    assert (logits1.grad[0] >= 0).all() and logits1.grad[0].sum() > 0  # normal: downwards
    assert (logits1.grad[1] <= 0).all() and logits1.grad[1].sum() < 0
    assert logits1.grad[0, 10:].abs().max() == 0
    alignment_loss(logits2, targets, lengths).backward()
    signs = logits2.grad.sum(1).sign().tolist()
    assert signs == [[-1, 1, 1], [1, -1, -1]]
    text = torch.tensor([[1.0, 0], [0.6, 0.8]]).requires_grad_()
    separation_loss(text, "official").backward()
    assert text.grad[1, 0] > 0  # descent turns the abnormal text away from the normal one


# Features -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "lengths"), [(3, [3]), (256, [256, 0]), (257, [256, 1]), (512, [256, 256, 0])]
)
def test_chunks(n, lengths):
    features = torch.arange(1.0, n + 1)[:, None].expand(n, 2)
    parts, valid = chunks(features, 256)
    assert parts.shape == (n // 256 + 1, 256, 2) and valid.tolist() == lengths
    assert torch.equal(parts.flatten(0, 1)[:n], features)
    assert parts.flatten(0, 1)[n:].abs().sum() == 0


@pytest.mark.parametrize("n", [257, 300, 511, 5000])
def test_uniform_pooling_has_the_official_edges(n):
    features = random(n, 2).double()
    edges = [int(edge) for edge in np.linspace(0, n, 257)]
    expected = [features[a:b].numpy().mean(0) for a, b in zip(edges, edges[1:], strict=False)]
    np.testing.assert_allclose(uniform_pool(features, 256), expected)


def test_training_window_pools_the_long_and_pads_the_short():
    ramp = torch.arange(1.0, 8)[:, None]  # 1 ... 7
    pooled, length = training_window(ramp, 3)  # edges 0, 2, 4, 7
    assert pooled.tolist() == [[1.5], [3.5], [6.0]] and length == 3
    assert training_window(ramp[:4], 3)[0].tolist() == [[1], [2], [3.5]]
    padded, length = training_window(ramp[:2], 3)
    assert padded.tolist() == [[1], [2], [0]] and length == 2
    assert training_window(ramp[:3], 3)[0].tolist() == ramp[:3].tolist()


# Model ----------------------------------------------------------------------------------------


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


class ByDefinition:
    """The forward pass of one video in float64 numpy, from the official state dict."""

    def __init__(self, model: VadCLIP, variant: str) -> None:
        self.w = {k: v.double().numpy() for k, v in model.state_dict().items()}
        self.official, self.settings = variant == "official", model.settings

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def mlp(self, name, x):
        return self.linear(f"{name}.c_proj", quick_gelu(self.linear(f"{name}.c_fc", x)))

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def block(self, name, x):
        h = self.norm(f"{name}.ln_1", x)
        packed = h @ self.w[f"{name}.attn.in_proj_weight"].T + self.w[f"{name}.attn.in_proj_bias"]
        attended = np.zeros_like(x)
        for start in range(0, len(x), self.settings.window):
            part = slice(start, start + self.settings.window)
            q, k, v = np.split(packed[part], 3, axis=1)
            attended[part] = softmax(q @ k.T / np.sqrt(q.shape[1])) @ v
        x = x + self.linear(f"{name}.attn.out_proj", attended)
        return x + self.mlp(f"{name}.mlp", self.norm(f"{name}.ln_2", x))

    def convolution(self, name, x, adjacency):
        out = adjacency @ (x @ self.w[f"{name}.weight"])
        if f"{name}.residual.weight" not in self.w:
            return out + x
        kernel, padded = self.w[f"{name}.residual.weight"], np.pad(x, ((2, 2), (0, 0)))
        taps = [padded[k : k + len(x)] @ kernel[:, :, k].T for k in range(5)]
        return out + sum(taps) + self.w[f"{name}.residual.bias"]

    def graph(self, x, n):
        unit = x[:n] / np.linalg.norm(x[:n], axis=1, keepdims=True)
        cosine, similar = unit @ unit.T, np.zeros((len(x), len(x)))
        similar[:n, :n] = softmax(np.where(cosine > 0.7, cosine, 0.0))
        gaps = np.abs(np.subtract.outer(np.arange(len(x)), np.arange(len(x))))
        if self.official:
            near = np.exp(-gaps / np.e)
            h1 = quick_gelu(self.convolution("gc1", x, similar))
            h1 = quick_gelu(self.convolution("gc2", h1, similar))
            h2 = quick_gelu(self.convolution("gc3", x, near))
            h2 = quick_gelu(self.convolution("gc4", h2, near))
            return np.concatenate([h1, h2], axis=1)
        near = np.zeros_like(similar)
        near[:n, :n] = softmax(-gaps[:n, :n].astype(float))
        h = x @ self.w["gc.weight"].T
        return x + quick_gelu(np.concatenate([similar @ h, near @ h], axis=1))

    def __call__(self, x, n, text):
        x = x + self.w["frame_position_embeddings.weight"]
        for i in range(self.settings.layers):
            x = self.block(f"temporal.resblocks.{i}", x)
        f = self.linear("linear", self.graph(x, n))
        logits1 = self.linear("classifier", f + self.mlp("mlp2", f))[:, 0]
        attention = (
            logits1 if self.official else 1 / (1 + np.exp(-logits1)) * (np.arange(len(x)) < n)
        )
        v = attention @ f
        both = text + v / np.linalg.norm(v)
        t = (both if self.official else text) + self.mlp("mlp1", both)
        t /= np.linalg.norm(t, axis=1, keepdims=True)
        return logits1, f / np.linalg.norm(f, axis=1, keepdims=True) @ t.T / 0.07


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_forward_is_its_definition(variant):
    model = detector(variant=variant).double()
    x, lengths = random(3, LENGTH, WIDTH).double(), torch.tensor([LENGTH, 5, 1])
    x[1] = x[1] + 2 * x[1, :1]  # alike enough to pass the similarity threshold
    with torch.no_grad():
        text = model.encode_text()
        logits1, logits2, _ = model(x, lengths, text)
    reference = ByDefinition(model, variant)
    for i, n in enumerate(lengths.tolist()):
        expected1, expected2 = reference(x[i].numpy(), n, text.numpy())
        assert (
            variant == "official" or np.abs(expected1).max() < 10
        )  # or sigmoid would hide what it is given
        np.testing.assert_allclose(logits1[i], expected1, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(logits2[i], expected2, rtol=1e-6, atol=1e-6)


def official_table() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official UCF-Crime checkpoint, less CLIP: width 512, 2 layers."""
    table = {
        "disAdj.sigma": (1,),
        "frame_position_embeddings.weight": (256, 512),
        "text_prompt_embeddings.weight": (77, 512),
        "linear.weight": (512, 512),
        "linear.bias": (512,),
        "classifier.weight": (1, 512),
        "classifier.bias": (1,),
    }
    for gc in ("gc1", "gc3"):
        table |= {f"{gc}.weight": (512, 256)}
        table |= {f"{gc}.residual.weight": (256, 512, 5), f"{gc}.residual.bias": (256,)}
    table |= {"gc2.weight": (256, 256), "gc4.weight": (256, 256)}
    blocks = ["temporal.resblocks.0", "temporal.resblocks.1"]
    for mlp in ["mlp1", "mlp2", *(f"{block}.mlp" for block in blocks)]:
        table |= {f"{mlp}.c_fc.weight": (2048, 512), f"{mlp}.c_fc.bias": (2048,)}
        table |= {f"{mlp}.c_proj.weight": (512, 2048), f"{mlp}.c_proj.bias": (512,)}
    for block in blocks:
        table |= {
            f"{block}.attn.in_proj_weight": (1536, 512),
            f"{block}.attn.in_proj_bias": (1536,),
        }
        table |= {f"{block}.attn.out_proj.weight": (512, 512)}
        table |= {f"{block}.attn.out_proj.bias": (512,)}
        for norm in ("ln_1", "ln_2"):
            table |= {f"{block}.{norm}.weight": (512,), f"{block}.{norm}.bias": (512,)}
    return table


def own_state(model: VadCLIP) -> dict[str, Tensor]:
    return {name: t for name, t in model.state_dict().items() if not name.startswith("text.")}


def test_names_and_shapes_are_the_official_ones():
    backbone = clip(embed=512, context_length=77, width=512, heads=8, layers=1)

    def long(texts):
        return torch.nn.functional.pad(tokenize(texts), (0, 77 - 8))

    model = VadCLIP(backbone, long, ("normal", "abuse"), PRESETS["ucf", "official"])
    assert {name: tuple(t.shape) for name, t in own_state(model).items()} == official_table()


def test_new_embeddings_are_small():
    model = detector(stirred=False)
    for embedding in (model.frame_position_embeddings, model.text_prompt_embeddings):
        assert 0.007 < embedding.weight.std() < 0.013  # std 0.01


def test_official_checkpoints_load_and_faulty_ones_load_nothing(tmp_path: Path):
    model, other, path = detector(), detector(seed=5, stirred=False), tmp_path / "model.pth"
    state = {name: t.clone() for name, t in own_state(model).items()}
    state["disAdj.sigma"] = torch.tensor([0.1])
    frozen = {f"clipmodel.{name}": t for name, t in clip(seed=9).state_dict().items()}
    torch.save(state | frozen, path)
    load_vadclip(other, path)
    x = random(1, LENGTH, WIDTH), torch.tensor([7])
    for ours, theirs in zip(
        model(*x, model.encode_text()), other(*x, other.encode_text()), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert other.disAdj.sigma.item() == pytest.approx(0.1)
    split = clip()
    split_attention(split)
    load_clip(split, path)
    torch.testing.assert_close(
        split.encode_text(tokenize(NAMES)), clip(seed=9).encode_text(tokenize(NAMES))
    )
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    faults = {
        "gc2.weight missing, not": {k: v + 1 for k, v in state.items() if k != "gc2.weight"},
        r"gc9 \(2,\), not known": state | {"gc9": torch.ones(2)},
        r"linear.bias \(3,\), not \(16,\)": state | {"linear.bias": torch.ones(3)},
        "holds no state dict": {"epoch": 3},
        "plain tensors": {"linear.bias": Path("x")},  # would need unpickling
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


def test_the_command_scores_feature_files(tmp_path, monkeypatch, capsys):
    """The CLIP comes from the checkpoint; a row per feature, with each class's probability."""
    settings = VadCLIPSettings(**SMALL)
    monkeypatch.setattr(command, "load_backbone", lambda *_: tiny_clip.backbone())
    monkeypatch.setattr(command, "vadclip_settings", lambda _: settings)
    names = command.class_prompts(load_benchmark("ucf_crime"), load_benchmark("ucf_crime").classes)
    source, theirs = tiny_clip.backbone(seed=3), tiny_clip.clip(seed=3)
    model = VadCLIP(source.model, source.tokenizer, names, settings)
    frozen = {f"clipmodel.{name}": t for name, t in theirs.state_dict().items()}
    torch.save(own_state(model) | frozen, tmp_path / "model.pth")
    np.save(tmp_path / "a.npy", random(20, WIDTH).numpy())
    out = ["--out", str(tmp_path / "scores.csv")]
    files = [str(tmp_path / "model.pth"), str(tmp_path / "a.npy")]
    assert command.main(["vadclip", *files, *out]) == 0
    table = pd.read_csv(tmp_path / "scores.csv")
    expected = score_video(model, read_features(tmp_path / "a.npy"))
    assert table["video"].tolist() == ["a"] * 20 and table["feature"].tolist() == list(range(20))
    np.testing.assert_allclose(table["anomaly"], expected.prob1, rtol=1e-4)
    np.testing.assert_allclose(table.iloc[:, 3:], expected.probabilities, rtol=1e-4)
    assert command.main(["anomalyclip", *files, *out]) == 1
    assert "--prototype" in capsys.readouterr().err


# Scores ---------------------------------------------------------------------------------------


def test_scores_of_both_branches_per_snippet():
    model, features = detector(), random(2 * LENGTH + 5, WIDTH)
    scores = score_video(model, features.numpy())
    probabilities = scores.probabilities
    assert probabilities.shape == (37, 3) and scores.prob1.shape == scores.prob2.shape == (37,)
    # The second chunk on its own: nothing passes between chunks.
    middle = features[LENGTH : 2 * LENGTH]
    with torch.no_grad():
        logits1, logits2, _ = model(middle[None], torch.tensor([LENGTH]), model.encode_text())
    inside = slice(LENGTH, 2 * LENGTH)
    torch.testing.assert_close(scores.prob1[inside], logits1[0].sigmoid())
    torch.testing.assert_close(probabilities[inside], logits2[0].softmax(-1))
    torch.testing.assert_close(scores.prob2, probabilities[:, 1:].sum(-1))
    # A whole number of chunks: the chunk that is all padding is computed, and cut off.
    exact = score_video(model, middle)
    torch.testing.assert_close(exact.prob1, scores.prob1[inside])


def test_bad_features_are_named():
    model, bad = detector(), random(4, WIDTH)
    bad[2, 3] = float("nan")
    for features, message in [
        (bad, "not finite"),
        (random(4, WIDTH + 1), "snippets x 16"),
        (random(0, WIDTH), "at least one"),
    ]:
        with pytest.raises(InputError, match=message):
            score_video(model, features)


# Training -------------------------------------------------------------------------------------


def toy(count: int = 12) -> tuple[list[np.ndarray], Tensor]:
    """Normal noise; abnormal videos of either class have 4 snippets moved along its direction."""
    rng, videos, labels = np.random.default_rng(0), [], []
    for i in range(count):
        video = rng.normal(size=(int(rng.integers(8, 30)), WIDTH)).astype(np.float32)
        if i % 2:
            video[2:6, i % 4] += 8
        videos.append(video)
        labels.append([NAMES[(i % 4 + 1) // 2] if i % 2 else "normal"])
    return videos, multi_hot(labels, NAMES)


def trained() -> tuple:
    model = detector(stirred=False, learning_rate=3e-3, epochs=20, milestones=(15,))
    videos, targets = toy()
    return model, videos, fit(model, videos, targets, seed=3)


def test_training_learns_and_repeats_itself():
    model, videos, history = trained()
    assert [row["epoch"] for row in history] == list(range(20))
    assert [row["lr"] for row in history] == pytest.approx([3e-3] * 15 + [3e-4] * 5)
    assert history[-1]["binary"] < 0.5 * history[0]["binary"]
    assert history[-1]["alignment"] < 0.5 * history[0]["alignment"]
    scores = [score_video(model, video) for video in videos]
    for branch in ("prob1", "prob2"):
        top = [float(getattr(scores[i], branch).max()) for i in range(len(videos))]
        assert min(top[1::2]) > max(top[::2])
    assert scores[1].probabilities[3].argmax() == 1 and scores[3].probabilities[3].argmax() == 2
    again, _, repeated = trained()
    assert repeated == history and not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_training_moves_all_but_the_text_tower():
    model, before = detector(stirred=False), detector(stirred=False).state_dict()
    videos, targets = toy()
    row = next(training_steps(model, videos, targets))
    assert row.keys() == {"epoch", "lr", "total", "binary", "alignment", "separation"}
    still = {name for name, t in model.state_dict().items() if torch.equal(t, before[name])}
    tower = {name for name in before if name.startswith("text.")}
    assert still == tower | {"disAdj.sigma"}
    assert model.training and not any(module.training for module in model.text.modules())


def test_batches_are_balanced_or_complete():
    targets = multi_hot([["normal"]] * 7 + [["fighting"]] * 5, NAMES)
    rng, settings = np.random.default_rng(0), VadCLIPSettings(batch_size=4)
    epochs = [list(epoch_batches(targets, settings, rng)) for _ in range(2)]
    assert epochs[0] != epochs[1]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [4, 4]  # 5 // 2 of the scarcer kind
        assert all(max(batch[:2]) < 7 <= min(batch[2:]) for batch in batches)
        assert len({i for batch in batches for i in batch}) == 8
    settings = VadCLIPSettings(batch_size=5, balanced=False)
    unbalanced = list(epoch_batches(targets, settings, rng))
    assert steps_per_epoch(targets, settings) == 3
    assert [len(batch) for batch in unbalanced] == [5, 5, 2]
    assert sorted(i for batch in unbalanced for i in batch) == list(range(12))


def test_multi_label_targets():
    labels = [["normal"], ["car accident", "fighting"]]
    assert multi_hot(labels, NAMES).tolist() == [[1, 0, 0], [0, 1, 1]]
    with pytest.raises(InputError, match="video 1: class riot"):
        multi_hot([["normal"], ["riot"]], NAMES)


def test_training_refuses_what_does_not_fit():
    model, (videos, targets) = detector(), toy()
    both, none = targets.clone(), targets.clone()
    both[1, 0], none[2] = 1, 0
    bad = [*videos[:3], videos[3][:, 1:], *videos[4:]]
    for arguments, message in [
        ((videos, both), "video 1: targets"),
        ((videos, none), "video 2: targets"),
        ((videos, targets[:, :2]), "shape .12, 2. for 12 videos and 3 classes"),
        ((videos[::2], targets[::2]), "6 normal and 0 abnormal"),
        ((bad, targets), "video 3: features"),
    ]:
        with pytest.raises(InputError, match=message):
            fit(model, *arguments)
    huge = [video * np.float32(1e30) for video in videos]
    with pytest.raises(InputError, match="logits of videos .* are not finite"):
        fit(model, huge, targets)


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
    with pytest.raises(InputError, match="no setting windows; did you mean window"):
        vadclip_settings(DetectorParams(vadclip_changes={"windows": 8}))
    with pytest.raises(InputError, match="vadclip_changes: epochs"):
        vadclip_settings(DetectorParams(vadclip_changes={"epochs": 0}))
