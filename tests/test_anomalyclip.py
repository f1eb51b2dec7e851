"""AnomalyCLIP (Zanella et al. 2024): hand computation, float64 derivations, names, invariants."""

import zlib
from itertools import islice
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_clip
import torch
from torch import Tensor, nn

from alertclip.attention import pack_state_dict, split_attention
from alertclip.errors import InputError
from detectors.anomalyclip import losses, scoring, selector, temporal, training
from detectors.anomalyclip.model import AnomalyCLIP, aggregate
from detectors.anomalyclip.scoring import score_video
from detectors.anomalyclip.selector import normality_prototype
from detectors.anomalyclip.settings import PRESETS, AnomalyCLIPSettings, anomalyclip_settings
from detectors.anomalyclip.training import (
    batch_schedule,
    fit,
    learning_rate_factor,
    parameter_groups,
    training_steps,
)
from detectors.checkpoints import load_anomalyclip
from detectors.training_protocol import DetectorParams

START, STOP, END = 47, 48, 49
NAMES = ["abuse", "road_accident", "normal", "riot"]  # normal_id 2
SMALL = AnomalyCLIPSettings(
    normal_id=2,
    segments=4,
    segment_frames=2,
    emb_size=16,
    heads=2,
    context_tokens=3,
    top_k=2,
    bottom_k=2,
    batch_size=4,
    learning_rate=3e-3,
    epochs=20,
    warmup_epochs=2,
)


def small(**changes: Any) -> AnomalyCLIPSettings:
    return AnomalyCLIPSettings(**(SMALL.model_dump() | changes))


def word(text: str) -> int:
    return zlib.crc32(text.encode()) % 46 + 1


def tokenize(texts: list[str], length: int = 12) -> Tensor:
    tokens = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        words = text.removesuffix(".").split()[: length - 3]
        row[: len(words) + 3] = torch.tensor([START, *map(word, words), STOP, END])
    return tokens


def clip(seed: int = 0, embed: int = 16, **text) -> open_clip.CLIP:
    """Random CLIP whose text width (24) is not its embedding dimension (16)."""
    config = tiny_clip.config()
    config["embed_dim"] = embed
    config["text_cfg"] |= {"context_length": 12, "width": 24} | text
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model


def detector(settings=SMALL, seed: int = 0, split: bool = False) -> AnomalyCLIP:
    backbone = clip()
    if split:
        split_attention(backbone)
    torch.manual_seed(seed)
    return AnomalyCLIP(backbone, tokenize, NAMES, torch.linspace(-1, 1, 16), settings)


def random(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Prompts and text encoder


def test_prompt_slots_are_exact():
    model, table = detector(), clip().token_embedding.weight
    prompts = model.prompt_learner()
    assert prompts.shape == (4, 12, 24) and model.prompt_learner.ctx.std() < 0.03
    for row, ctx, words in zip(
        prompts, model.prompt_learner.ctx, (name.split("_") for name in NAMES), strict=True
    ):
        assert torch.equal(row[0], table[START]) and torch.equal(row[1:4], ctx)
        tail = [*map(word, words), STOP, END]
        tail += [0] * (8 - len(tail))
        assert torch.equal(row[4:], table[tail])
    assert model.end.tolist() == [6, 7, 6, 6]  # [EOT] of each


@pytest.mark.parametrize("split", [False, True])
def test_text_features_are_those_of_clip(split):
    model, stock = detector(split=split), clip()
    ids = [3, 1, 4]
    model.prompt_learner.ctx.data[:] = stock.token_embedding.weight[ids]
    tokens = tokenize([f"{name.replace('_', ' ')}." for name in NAMES])
    tokens = torch.cat([tokens[:, :1], torch.tensor(ids).expand(4, -1), tokens[:, 1:9]], dim=1)
    text = model.text_encoder(model.prompt_learner(), model.end)
    torch.testing.assert_close(text, stock.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_only_context_projection_and_heads_train():
    model = detector()
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in names if not n.startswith("temporal_model.")} == {
        "prompt_learner.ctx",
        "text_encoder.text_projection",
        "selector_model.logit_scale",
    }
    grouped = [p for group in parameter_groups(model) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("names", "prototype", "message"),
    [
        (["a b c d e f g h", "normal"], 16, "class a b c d e f g h"),
        (["fight", "normal"], 15, r"prototype .*\(15,\).* 16 dim"),
        (["normal"], 16, "normal_id is 1"),
        (["fight", "normal", "fight"], 16, "fight is given twice"),
    ],
)
def test_misfits_are_named(names, prototype, message):
    settings = AnomalyCLIPSettings(normal_id=1, context_tokens=3)
    with pytest.raises(InputError, match=message):
        AnomalyCLIP(clip(), tokenize, names, torch.zeros(prototype), settings)


# Selector


def test_prototype_weighs_frames_not_videos():
    videos = [torch.tensor([[0.0, 3.0]]), torch.tensor([[3.0, 0.0], [6.0, 3.0]])]
    assert normality_prototype(videos).tolist() == [3.0, 2.0]
    with pytest.raises(InputError, match="no frames"):
        normality_prototype([])


def test_selector_projects_on_unit_directions():
    text, m = torch.tensor([[4.0, 5.0], [9.0, 9.0], [1.0, 3.0]]), torch.tensor([1.0, 1.0])
    directions = selector.class_directions(text, m, normal_id=1)
    torch.testing.assert_close(directions, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    layer = selector.Selector(2, torch.tensor(1.0)).eval()
    x = torch.tensor([[6.0, 1.0], [1.0, 11.0]]) - m  # [5, 0], [0, 10]
    raw = torch.tensor([[3.0, 0.0], [8.0, 10.0]])
    torch.testing.assert_close(layer(x, directions), raw / (1 + 1e-5) ** 0.5)
    layer.bn_layer.running_mean[:] = torch.tensor([1.0, 2.0])
    layer.bn_layer.running_var[:] = torch.tensor([4.0, 9.0])
    expected = (raw - torch.tensor([1.0, 2.0])) / torch.tensor([2.0, 3.0])
    torch.testing.assert_close(layer(x, directions), expected, atol=1e-4, rtol=1e-4)


def test_batch_norm_is_over_all_frames_and_without_affine():
    layer = selector.Selector(3, torch.tensor(1.0)).train()
    x = random(4, 5, 2, 6)
    directions = torch.nn.functional.normalize(random(3, 6, seed=1), dim=-1)
    raw = (x @ directions.T).flatten(0, 2)
    expected = (raw - raw.mean(0)) / (raw.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x, directions), expected.view(4, 5, 2, 3))
    torch.testing.assert_close(layer.bn_layer.running_mean, 0.1 * raw.mean(0))
    torch.testing.assert_close(layer.bn_layer.running_var, 0.9 + 0.1 * raw.var(0))
    assert [name for name, _ in layer.named_parameters()] == ["logit_scale"]


def test_columns_skip_the_normal_class():
    assert selector.abnormal_column(torch.tensor([0, 1, 3, 4]), 2).tolist() == [0, 1, 2, 3]


def selection_logits() -> Tensor:
    """(4, 5, 2, 2): two abnormal and two normal videos, 5 segments of 2 frames, 2 classes."""
    logits = torch.zeros(4, 5, 2, 2)
    # Sums 10, 9, 8, 7, 1 in column 0; segment 4 has the highest single frame.
    logits[0, :, :, 0] = torch.tensor([[5, 5], [4, 5], [4, 4], [3, 4], [9, -8]])
    logits[0, :, :, 1] = -logits[0, :, :, 0]
    logits[1] = logits[0].flip(2)  # the other column
    # Sums over classes 6, 5, 4, 3, 2; the maximum over classes would put segment 4 first.
    logits[2, :, 0] = torch.tensor([[3, 3], [2, 3], [2, 2], [1, 2], [9, -7]])
    logits[3] = logits[2].flip(0)
    return logits


def chosen(mask: Tensor, k: int = 3) -> list[list[list[int]]]:
    labels = torch.tensor([0, 2])  # normal_id 1: columns 0 and 1
    found = selector.select_segments(selection_logits(), labels, mask, 1, k, k)
    return [part.tolist() for part in found]


def test_selection_by_hand():
    top, bottom, normal = chosen(torch.ones(4, 5, dtype=torch.bool))
    assert top == [[0, 1, 2]] * 2 and bottom == [[4, 3, 2]] * 2
    assert normal == [[0, 1, 2], [4, 3, 2]]


def test_selection_only_among_open_segments():
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 0]]).bool()
    top, bottom, normal = chosen(mask)
    assert top == [[1, 3, 4], [0, 2, 3]] and bottom == [[4, 3, 1], [4, 3, 2]]
    assert normal == [[1, 2, 4], [3, 2, 1]]


def test_fewer_open_than_selected_are_filled_with_masked():
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[:, 2], mask[1, 3] = True, True
    top, bottom, normal = chosen(mask)
    assert top[0][0] == bottom[0][0] == normal[0][0] == normal[1][0] == 2
    assert top[1][:2] == [2, 3] and bottom[1][:2] == [3, 2]
    assert all(len(set(row)) == 3 for part in (top, bottom, normal) for row in part)


def test_mask_keeps_its_share():
    mask = selector.draw_mask(400, 50, 0.3, torch.Generator().manual_seed(0))
    assert mask.shape == (400, 50) and abs(mask.float().mean().item() - 0.3) < 0.02


# Losses


def loss_case():
    """Float64 batch of 3 abnormal and 3 normal videos; labels below and above normal_id 2."""
    logits = random(6, 5, 3, 4, dtype=torch.float64)
    p = random(6, 5, 3, seed=1, dtype=torch.float64).sigmoid()
    labels = torch.tensor([0, 3, 4])
    picks = selector.Selection(
        torch.tensor([[0, 3], [4, 1], [2, 0]]),
        torch.tensor([[1, 2], [0, 3], [3, 4]]),
        torch.tensor([[4, 0], [1, 2], [3, 1]]),
    )
    return logits, p, labels, picks


def terms_by_definition(logits, p, labels, picks, variant) -> list[float]:
    """The seven terms from the equations, frame by frame."""
    s, p = logits.numpy(), p.numpy()
    top, bottom, normal = (part.tolist() for part in picks)
    F, column = range(s.shape[2]), [label if label < 2 else label - 1 for label in labels]
    given = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    where = [(v, i, j) for v in range(3) for i in top[v] for j in F]
    smooth = 0.0
    if variant == "official":
        frames = [p[v, i, j] for v in range(3) for i in range(5) for j in F]
        smooth = sum((b - a) ** 2 for a, b in zip(frames[:-1], frames[1:], strict=True))
    else:
        for v in range(3):
            frames = [p[v, i, j] for i in range(5) for j in F]
            smooth += sum(frames[n] - frames[n - 1] for n in range(1, 15)) / 3
    normals = [s[v, i, j] for v in range(3, 6) for i in range(5) for j in F]
    return [
        -np.mean([s[v, i, j, column[v]] for v, i, j in where]),
        np.mean([max(x) if variant == "official" else sum(x) / 4 for x in normals]),
        -np.mean([np.log(p[v, i, j] * given[v, i, j, column[v]]) for v, i, j in where]),
        -np.mean([np.log(1 - p[v, i, j]) for v in range(3) for i in bottom[v] for j in F]),
        -np.mean([np.log(1 - p[v + 3, i, j]) for v in range(3) for i in normal[v] for j in F]),
        np.mean([p[v, i, j] for v in range(3) for i in range(5) for j in F]),
        smooth,
    ]


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_losses_are_their_definitions(variant):
    logits, p, labels, picks = loss_case()
    settings = AnomalyCLIPSettings(normal_id=2, variant=variant)
    found = losses.total_loss(logits, p, aggregate(logits, p, 2), labels, picks, settings)
    expected = terms_by_definition(logits, p, labels.tolist(), picks, variant)
    assert [term.item() for term in found[1:]] == pytest.approx(expected, rel=1e-12)
    weights = [1, 1, 1, 1, 1, 8e-3, 8e-4]
    assert found.total.item() == pytest.approx(np.dot(weights, expected), rel=1e-12)


def test_gradients_have_the_signs_of_the_method():
    logits, p, labels, picks = loss_case()
    z = p.logit().requires_grad_()
    total = losses.total_loss(
        logits, z.sigmoid(), aggregate(logits, z.sigmoid(), 2), labels, picks, SMALL
    )
    (total.abnormal_top + total.abnormal_bottom + total.normal_top).backward()
    for v in range(3):
        assert (z.grad[v, picks.abnormal_top[v]] < 0).all()  # towards abnormal
        assert (z.grad[v, picks.abnormal_bottom[v]] > 0).all()
        assert (z.grad[v + 3, picks.normal_top[v]] > 0).all()


def test_probabilities_sum_to_one_and_abnormal_ones_to_p():
    logits, p, *_ = loss_case()
    for normal_id in (0, 2, 4):
        joint = aggregate(logits, p, normal_id)
        torch.testing.assert_close(joint.sum(-1), torch.ones_like(p))
        torch.testing.assert_close(joint[..., normal_id], 1 - p)
        abnormal = torch.cat([joint[..., :normal_id], joint[..., normal_id + 1 :]], dim=-1)
        torch.testing.assert_close(abnormal.sum(-1), p)
        torch.testing.assert_close(abnormal / p[..., None], logits.softmax(-1))


# Sampling


@pytest.mark.parametrize(
    ("frames", "distance", "last"), [(100, 15, 0), (511, 15, 0), (512, 15, 0), (5000, 155, 140)]
)
def test_start_indices(frames, distance, last):
    rng = np.random.default_rng(0)
    offsets = [
        training.start_indices(frames, 32, 16, rng) - distance * np.arange(32) for _ in range(200)
    ]
    assert np.min(offsets) == 0 and np.max(offsets) == last
    assert last == 0 or len(np.unique(offsets)) == last + 1
    assert max(frames, 512) >= 31 * distance + last + 16


def test_training_sample_is_consecutive_and_loops():
    ramp = torch.arange(100.0)[:, None]
    sample = training.training_sample(ramp, 32, 16, np.random.default_rng(0))
    expected = (15 * torch.arange(32)[:, None] + torch.arange(16)) % 100
    assert torch.equal(sample[..., 0], expected.float())


@pytest.mark.parametrize(("frames", "windows"), [(1, 1), (24, 1), (25, 2), (47, 2), (72, 3)])
def test_windows_and_back_to_time_order(frames, windows):
    ramp = torch.arange(frames)[:, None] + 0.5
    parts = scoring.video_windows(ramp, 6, 4)
    assert parts.shape == (windows, 6, 4, 1)
    for j in range(windows):
        for s in range(6):
            first = (s * windows + j) * 4  # window j holds the j-th 4 frames of block s
            expected = (torch.arange(first, first + 4) % frames) + 0.5
            assert torch.equal(parts[j, s, :, 0], expected)
    assert torch.equal(scoring.time_order(parts, frames), ramp)
    assert torch.equal(scoring.time_order(parts[..., 0], frames), ramp[:, 0])


# Temporal model


@pytest.mark.parametrize("axis", [2, 3])
def test_attention_reaches_along_the_named_axis_only(axis):
    torch.manual_seed(0)
    layer = temporal.AlongAxis(axis, temporal.PreNorm(8, temporal.SelfAttention(8, 2)))
    x = random(2, 8, 5, 3)
    moved = x.clone()
    moved[1, :, 2, 1] += random(8, seed=1)
    changed = (layer(moved) - layer(x)).abs().sum(dim=1) > 1e-7
    expected = torch.zeros(2, 5, 3, dtype=torch.bool)
    expected[1][(slice(None), 1) if axis == 2 else (2, slice(None))] = True
    assert torch.equal(changed, expected)
    for other in (2, 3):  # no positions inside: it commutes with any order
        order = torch.randperm(x.shape[other], generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(
            layer(x.index_select(other, order)), layer(x).index_select(other, order)
        )


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.forward = function


def test_streams_by_hand():
    model = temporal.AxialTransformer(1, 1, 1, 2, 2)
    model.pos_emb.param_0.data = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1)
    model.pos_emb.param_1.data = torch.tensor([0.0, 10.0]).view(1, 1, 1, 2)
    # From 3: y1 = 3 + 2 * 3 = 9, y2 = 3 + 9^2 = 84; then 9 + 84 / 4 = 30, 84 + 3 * 30 = 174.
    model.layers["blocks"] = nn.ModuleList(
        [
            temporal.Coupling(Function(lambda x: 2 * x), Function(lambda x: x**2)),
            temporal.Coupling(Function(lambda x: x / 4), Function(lambda x: 3 * x)),
        ]
    )

    def by_hand(x: float) -> float:
        y1 = x + 2 * x
        y2 = x + y1**2
        z1 = y1 + y2 / 4
        return (z1 + y2 + 3 * z1) / 2

    assert by_hand(3.0) == (30 + 174) / 2
    out = model(torch.full((1, 1, 2, 2), 2.0))[0, 0]
    expected = [[by_hand(3.0), by_hand(13.0)], [by_hand(4.0), by_hand(14.0)]]
    torch.testing.assert_close(out, torch.tensor(expected))


def temporal_by_definition(w: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """One layer from the official names alone, in float64: x (B, S, F, D) -> p_A (B, S, F)."""
    a = "axial_attn.layers.blocks"
    h = torch.einsum("bsfd,ed->besf", x, w["projection.weight"])
    h = h + w["projection.bias"][:, None, None]
    h = h + w["axial_attn.pos_emb.param_0"] + w["axial_attn.pos_emb.param_1"]

    def attend(name: str, h: Tensor, pattern: str) -> Tensor:
        n, width = f"{a}.0.{name}.net.fn", h.shape[1] // heads
        z = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        z = z * w[f"{n}.norm.weight"][:, None, None] + w[f"{n}.norm.bias"][:, None, None]
        to_k, to_v = w[f"{n}.fn.to_kv.weight"].chunk(2)
        q, k, v = (
            torch.einsum("besf,oe->bosf", z, m).unflatten(1, (heads, width))
            for m in (w[f"{n}.fn.to_q.weight"], to_k, to_v)
        )
        i, j, out = pattern.split()
        score = torch.einsum(f"bhe{i},bhe{j}->bh{out}", q, k) / width**0.5
        mixed = torch.einsum(f"bh{out},bhe{j}->bhe{i}", score.softmax(-1), v).flatten(1, 2)
        mixed = torch.einsum("besf,oe->bosf", mixed, w[f"{n}.fn.to_out.weight"])
        return mixed + w[f"{n}.fn.to_out.bias"][:, None, None]

    def convolve(name: str, h: Tensor) -> Tensor:
        n = f"{a}.1.{name}.net"
        z = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True).sqrt() + 1e-5)
        z = z * w[f"{n}.0.g"] + w[f"{n}.0.b"]
        z = torch.conv2d(z, w[f"{n}.1.weight"], w[f"{n}.1.bias"], padding=1)
        z = torch.where(z > 0, z, 0.01 * z)
        return torch.conv2d(z, w[f"{n}.3.weight"], w[f"{n}.3.bias"], padding=1)

    y1 = h + attend("f", h, "sf tf fst")
    y2 = h + attend("g", y1, "sf sg sfg")
    z1 = y1 + convolve("f", y2)
    h = (z1 + y2 + convolve("g", z1)) / 2
    h = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    scale, shift = w["classifier.layer_norm.weight"], w["classifier.layer_norm.bias"]
    h = h * scale[:, None, None] + shift[:, None, None]
    z = torch.einsum("besf,e->bsf", h, w["classifier.linear.weight"][0])
    return 1 / (1 + (-z - w["classifier.linear.bias"]).exp())


def test_temporal_model_is_its_definition():
    torch.manual_seed(0)
    model = temporal.TemporalModel(
        6, AnomalyCLIPSettings(emb_size=8, heads=2, segments=4, segment_frames=3)
    ).double()
    tiny_clip.stir(model)
    x = random(2, 4, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(model(x), temporal_by_definition(model.state_dict(), x, 2))


def test_channel_norm_adds_epsilon_to_the_deviation():
    x = torch.tensor([1e-5, -1e-5]).view(1, 2, 1, 1)  # deviation 1e-5, the size of epsilon
    out = temporal.ChannelNorm(2)(x).flatten()
    torch.testing.assert_close(out, torch.tensor([0.5, -0.5]))


def test_features_are_recentred_and_logits_come_first_when_concatenated():
    model = detector(small(concat_logits=True, depth=1)).eval()
    assert model.temporal_model.projection.in_features == 3 + 16
    seen = []
    model.temporal_model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features, directions = random(2, 4, 2, 16), model.directions()
    out = model(features, directions)
    x = features - torch.linspace(-1, 1, 16)
    torch.testing.assert_close(out.logits, x @ directions.T / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(seen[0], torch.cat([out.logits, x], dim=-1))
    assert torch.equal(out.probabilities, aggregate(out.logits, out.p_anomaly, 2))


# Names and checkpoints


def official_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official UCF-Crime model with a text tower of one layer."""
    t, a = "text_encoder", "temporal_model.axial_attn"
    shapes = {
        "prompt_learner.ctx": (14, 8, 512),
        "prompt_learner.token_prefix": (14, 1, 512),
        "prompt_learner.token_suffix": (14, 68, 512),
        f"{t}.positional_embedding": (77, 512),
        f"{t}.text_projection": (512, 512),
        "selector_model.logit_scale": (),
        "selector_model.bn_layer.running_mean": (13,),
        "selector_model.bn_layer.running_var": (13,),
        "selector_model.bn_layer.num_batches_tracked": (),
        f"{a}.pos_emb.param_0": (1, 256, 32, 1),
        f"{a}.pos_emb.param_1": (1, 256, 1, 16),
    }
    block = f"{t}.transformer.resblocks.0"
    linear = {
        f"{block}.attn.in_proj_": (1536, 512),
        f"{block}.attn.out_proj.": (512, 512),
        f"{block}.mlp.c_fc.": (2048, 512),
        f"{block}.mlp.c_proj.": (512, 2048),
        "temporal_model.projection.": (256, 512),
        "temporal_model.classifier.linear.": (1, 256),
    }
    norms = {f"{block}.ln_1.": 512, f"{block}.ln_2.": 512, f"{t}.ln_final.": 512}
    norms["temporal_model.classifier.layer_norm."] = 256
    for i, side in ((i, side) for i in range(depth) for side in "fg"):
        attend = f"{a}.layers.blocks.{2 * i}.{side}.net.fn"
        norms[f"{attend}.norm."] = 256
        linear[f"{attend}.fn.to_out."] = (256, 256)
        shapes |= {f"{attend}.fn.to_q.weight": (256, 256), f"{attend}.fn.to_kv.weight": (512, 256)}
        conv = f"{a}.layers.blocks.{2 * i + 1}.{side}.net"
        linear |= {f"{conv}.1.": (1024, 256, 3, 3), f"{conv}.3.": (256, 1024, 3, 3)}
        shapes |= {f"{conv}.0.g": (1, 256, 1, 1), f"{conv}.0.b": (1, 256, 1, 1)}
    for name, shape in linear.items():
        shapes |= {f"{name}weight": shape, f"{name}bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}weight": (width,), f"{name}bias": (width,)}
    return shapes


def test_names_and_shapes_are_official():
    backbone = clip(embed=512, context_length=77, width=512, heads=8, layers=1)
    names = [f"class{i}" for i in range(14)]
    model = AnomalyCLIP(
        backbone, lambda texts: tokenize(texts, 77), names, torch.zeros(512), PRESETS["ucf"]
    )
    state = pack_state_dict(model.state_dict())
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert found == official_shapes(depth=1)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 10_110_977 + 512 * 512 + 14 * 8 * 512 + 1  # temporal first


def official(model: AnomalyCLIP) -> dict[str, Tensor]:
    """The model's weights as the authors' files hold them."""
    state = {f"net.{name}": t for name, t in pack_state_dict(model.state_dict()).items()}
    frozen = {"net.image_encoder.proj": torch.ones(2), "net.token_embedding.weight": torch.ones(3)}
    return state | frozen


def test_official_files_load_into_stock_and_split_attention(tmp_path):
    trained, path, features = detector(split=True, seed=1), tmp_path / "last.ckpt", random(11, 16)
    tiny_clip.stir(trained)
    trained.selector_model.bn_layer.running_mean += 1
    trained.prototype += 0.5
    torch.save({"state_dict": official(trained), "epoch": 50}, path)
    for split in (False, True):
        fresh = detector(split=split)
        load_anomalyclip(fresh, path, trained.prototype)
        torch.testing.assert_close(
            score_video(fresh, features).probabilities, score_video(trained, features).probabilities
        )
        ours, theirs = (pack_state_dict(m.state_dict()) for m in (fresh, trained))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_checkpoint_faults_are_named_and_load_nothing(tmp_path):
    path, fresh, state = tmp_path / "model.pt", detector(seed=1), official(detector())
    m, before = torch.zeros(16), {n: t.clone() for n, t in fresh.state_dict().items()}
    lost = {k: v for k, v in state.items() if k != "net.prompt_learner.ctx"}
    shape = state | {"net.selector_model.bn_layer.running_var": torch.ones(5)}
    for content, prototype, message in [
        ({"state_dict": lost}, m, r"prompt_learner.ctx missing"),
        ({"state_dict": state | {"net.extra": torch.zeros(1)}}, m, r"extra \(1,\), not known"),
        ({"state_dict": shape}, m, r"running_var \(5,\), not \(3,\)"),
        ({"epoch": 3}, m, "holds no state dict"),
        ({"state_dict": state}, m[:3], "prototype must be a vector of 16"),
        ({"state_dict": state, "hyper_parameters": Function}, m, "plain tensors"),
    ]:
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            load_anomalyclip(fresh, path, prototype)
    assert all(torch.equal(before[name], t) for name, t in fresh.state_dict().items())
    with pytest.raises(InputError, match="No such file"):
        load_anomalyclip(fresh, tmp_path / "none.pt", m)


# Training and inference


def toy(videos: int = 8, seed: int = 0) -> tuple[list[Tensor], list[int], list[Tensor]]:
    """Features around the prototype; abnormal videos leave it for a quarter of their frames."""
    generator = torch.Generator().manual_seed(seed)
    features, labels, truth = [], [], []
    for i in range(2 * videos):
        x = torch.linspace(-1, 1, 16) + 0.3 * torch.randn(16, 16, generator=generator)
        abnormal, label = torch.zeros(16, dtype=torch.bool), (0, 1, 3)[i % 3]
        if i < videos:
            start = int(torch.randint(0, 12, (), generator=generator))
            abnormal[start : start + 4] = True
            x[abnormal, label] += 3
        features.append(x)
        labels.append(label if i < videos else 2)
        truth.append(abnormal)
    return features, labels, truth


def test_training_ranks_abnormal_frames_above_normal_ones():
    train, labels, _ = toy()
    test, _, truth = toy(seed=1)
    model, backbone = detector(small(epochs=40)), clip()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    history = fit(model, train, labels, seed=0)
    p = torch.cat([score_video(model, x).p_anomaly for x in test])
    abnormal = torch.cat(truth)
    assert (p[abnormal][:, None] > p[~abnormal]).float().mean() > 0.9
    assert len(history) == 40 and history[-1]["total"] < history[0]["total"]
    assert all(torch.equal(frozen[n], p) for n, p in model.named_parameters() if n in frozen)
    assert not torch.equal(model.text_encoder.text_projection, backbone.text_projection)


def test_the_clip_itself_never_changes():
    backbone = clip()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    features, labels, _ = toy()
    settings = small(warmup_epochs=0, learning_rate=0.1)
    model = AnomalyCLIP(backbone, tokenize, NAMES, torch.zeros(16), settings)
    next(training_steps(model, features, labels, seed=0))
    assert all(torch.equal(before[n], t) for n, t in backbone.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in backbone.parameters())


def weights_after(seed: int, variant: str, steps: int) -> Tensor:
    features, labels, _ = toy()
    model = detector(small(variant=variant))
    assert len(list(islice(training_steps(model, features, labels, seed), steps))) == steps
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_is_determined_by_its_seed_and_official_epoch_0_learns_nothing():
    start = weights_after(0, "official", steps=0)
    assert torch.equal(weights_after(0, "official", steps=2), start)  # 2 steps are one epoch
    assert not torch.equal(weights_after(0, "paper", steps=1), start)
    third = weights_after(0, "official", steps=3)
    assert not torch.equal(third, start)
    assert torch.equal(weights_after(0, "official", steps=3), third)
    assert not torch.equal(weights_after(1, "official", steps=3), third)


def test_learning_rate_per_epoch():
    official = [learning_rate_factor(e, AnomalyCLIPSettings(variant="official")) for e in range(50)]
    assert official[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert official[27] == pytest.approx(0.5 * (1 + np.cos(np.pi * 22 / 45)))
    assert 0 < official[49] < 2e-3 and learning_rate_factor(50, PRESETS["ucf"]) == 0
    paper = [learning_rate_factor(e, AnomalyCLIPSettings(variant="paper")) for e in range(50)]
    assert paper[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1]) and paper[5:] == official[5:]


def test_published_settings():
    assert [
        (s.normal_id, s.learning_rate, s.epochs, s.warmup_epochs, s.emb_size, s.depth)
        for s in (PRESETS[name] for name in ("ucf", "xd", "sht"))
    ] == [(7, 1e-5, 50, 5, 256, 1), (4, 5e-6, 50, 5, 128, 1), (8, 5e-4, 100, 10, 256, 2)]
    assert [PRESETS[n].concat_logits for n in ("ucf", "xd", "sht")] == [False, False, True]
    assert PRESETS["ucf"].betas == (0.9, 0.999)
    assert AnomalyCLIPSettings(variant="paper").betas == (0.9, 0.98)
    for bad in ({"emb_size": 12}, {"top_k": 33}, {"epochs": 5}, {"colour": 1}, {"left_out": ["x"]}):
        with pytest.raises(InputError, match="anomalyclip_changes"):
            anomalyclip_settings(DetectorParams(anomalyclip_changes=bad))


def test_batches_are_half_abnormal_and_cycle_the_shorter_half():
    halves = ([0, 1, 2, 3, 4], list(range(10, 23)))  # 2 and 6 whole batches of 2
    settings = small(batch_size=2, epochs=3, warmup_epochs=0)
    steps, other = (
        list(batch_schedule(halves, settings, 6, np.random.default_rng(seed))) for seed in (0, 1)
    )
    assert steps != other and steps[0][1] != steps[6][1]
    assert [epoch for epoch, _ in steps] == [0] * 6 + [1] * 6 + [2] * 6
    assert all(max(batch[:2]) < 10 <= min(batch[2:]) for _, batch in steps)
    first = [batch for epoch, batch in steps if epoch == 0]
    assert len({i for batch in first for i in batch[2:]}) == 12  # none twice in an epoch
    assert all(len({*a[:2], *b[:2]}) == 4 for a, b in zip(first[::2], first[1::2], strict=True))


def test_an_epoch_is_the_longer_half():
    features, labels, _ = toy()
    model = detector(small(epochs=1, warmup_epochs=0))
    fit(model, features[4:], labels[4:], seed=0)  # 4 abnormal, 8 normal, batches of 4
    assert model.selector_model.bn_layer.num_batches_tracked == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:-1]), "15 labels for 16 videos"),
        (lambda x, y: (x, [4, *y[1:]]), "video 0: label 4"),
        (lambda x, y: (x[:10], y[:10]), "2 normal training videos"),
        (lambda x, y: ([x[0] * float("nan")] * 8 + x[8:], y), "not finite in epoch 0"),
    ],
)
def test_training_faults_are_named(change, message):
    features, labels = change(*toy()[:2])
    with pytest.raises(InputError, match=message):
        fit(detector(), features, labels, seed=0)


def test_scores_are_in_time_order_and_windows_independent(monkeypatch):
    model, features = detector(), random(21, 16)  # 3 windows of 8
    model.selector_model.bn_layer.running_mean[:] = 0.7
    model.train()
    found = score_video(model, features)
    assert found.p_anomaly.shape == (21,) and found.probabilities.shape == (21, 4)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(21))
    torch.testing.assert_close(found.probabilities[:, 2], 1 - found.p_anomaly)
    # The Selector sees each frame by itself: its conditional probabilities give the order away.
    x = (features - model.prototype) @ model.directions().T
    given = ((x - 0.7) / (1 + 1e-5) ** 0.5).softmax(-1)
    torch.testing.assert_close(
        found.probabilities[:, [0, 1, 3]], (given * found.p_anomaly[:, None]).detach()
    )
    second = torch.stack([features[(6 * s + 2 + torch.arange(2)) % 21] for s in range(4)])
    alone = model(second[None], model.directions()).p_anomaly[0]  # the second of 3 windows
    torch.testing.assert_close(found.p_anomaly[6 * 1 + 2 : 6 * 1 + 4], alone[1].detach())
    monkeypatch.setattr(scoring, "WINDOWS", 1)
    torch.testing.assert_close(score_video(model, features).p_anomaly, found.p_anomaly)


def test_bad_features_are_named():
    with pytest.raises(InputError, match=r"features of shape \(3, 15\).* x 16"):
        score_video(detector(), random(3, 15))
    with pytest.raises(InputError, match="not finite"):
        score_video(detector(), torch.full((3, 16), float("inf")))
