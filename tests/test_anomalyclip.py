"""The AnomalyCLIP network (Zanella et al. 2024): hand computation and float64 derivations."""

import pytest
import tiny_clip
import torch
from tiny_detectors import END, NAMES, START, STOP, anomalyclip, clip, random, tokenize, word
from torch import Tensor

from alertclip.errors import InputError
from detectors.anomalyclip.model import (
    AnomalyCLIP,
    Selector,
    aggregate,
    class_directions,
    normality_prototype,
)
from detectors.anomalyclip.settings import AnomalyCLIPSettings
from detectors.anomalyclip.temporal import TemporalModel


def test_prompt_slots_are_exact():
    model, table = anomalyclip(), clip().token_embedding.weight
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
    model, stock = anomalyclip(split=split), clip()
    ids = [3, 1, 4]
    model.prompt_learner.ctx.data[:] = stock.token_embedding.weight[ids]
    tokens = tokenize([f"{name.replace('_', ' ')}." for name in NAMES])
    tokens = torch.cat([tokens[:, :1], torch.tensor(ids).expand(4, -1), tokens[:, 1:9]], dim=1)
    text = model.text_encoder(model.prompt_learner(), model.end)
    torch.testing.assert_close(text, stock.encode_text(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "prototype", "message"),
    [
        (["a b c d e f g h", "normal"], 16, "class a b c d e f g h"),
        (["fight", "normal"], 15, r"prototype .*\(15,\).* 16 dim"),
        (["normal"], 16, "give each once, and the normal one at place 1"),
        (["fight", "normal", "fight"], 16, "classes fight, normal, fight: give each once"),
    ],
)
def test_misfits_are_named(names, prototype, message):
    settings = AnomalyCLIPSettings(normal_id=1, context_tokens=3)
    with pytest.raises(InputError, match=message):
        AnomalyCLIP(clip(), tokenize, names, torch.zeros(prototype), settings)


def test_prototype_weighs_frames_not_videos():
    videos = [torch.tensor([[0.0, 3.0]]), torch.tensor([[3.0, 0.0], [6.0, 3.0]])]
    assert normality_prototype(videos).tolist() == [3.0, 2.0]
    with pytest.raises(InputError, match="no frames"):
        normality_prototype([])


def test_directions_are_of_unit_length_and_leave_the_normal_class_out():
    text, m = torch.tensor([[4.0, 5.0], [9.0, 9.0], [1.0, 3.0]]), torch.tensor([1.0, 1.0])
    directions = class_directions(text, m, normal_id=1)
    torch.testing.assert_close(directions, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))


def test_batch_norm_is_over_all_frames_and_without_affine():
    layer = Selector(3, torch.tensor(1.0)).train()
    x = random(4, 5, 2, 6)
    directions = torch.nn.functional.normalize(random(3, 6, seed=1), dim=-1)
    raw = (x @ directions.T).flatten(0, 2)
    expected = (raw - raw.mean(0)) / (raw.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x, directions), expected.view(4, 5, 2, 3))
    torch.testing.assert_close(layer.bn_layer.running_mean, 0.1 * raw.mean(0))
    torch.testing.assert_close(layer.bn_layer.running_var, 0.9 + 0.1 * raw.var(0))
    assert [name for name, _ in layer.named_parameters()] == ["logit_scale"]


def test_probabilities_sum_to_one_and_abnormal_ones_to_p():
    logits = random(6, 5, 3, 4, dtype=torch.float64)
    p = random(6, 5, 3, seed=1, dtype=torch.float64).sigmoid()
    for normal_id in (0, 2, 4):
        joint = aggregate(logits, p, normal_id)
        torch.testing.assert_close(joint.sum(-1), torch.ones_like(p))
        torch.testing.assert_close(joint[..., normal_id], 1 - p)
        abnormal = torch.cat([joint[..., :normal_id], joint[..., normal_id + 1 :]], dim=-1)
        torch.testing.assert_close(abnormal.sum(-1), p)
        torch.testing.assert_close(abnormal / p[..., None], logits.softmax(-1))


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
    settings = AnomalyCLIPSettings(emb_size=8, heads=2, segments=4, segment_frames=3)
    model = TemporalModel(6, settings).double()
    tiny_clip.stir(model)
    x = random(2, 4, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(model(x), temporal_by_definition(model.state_dict(), x, 2))


def test_features_are_recentred_and_logits_come_first_when_concatenated():
    model = anomalyclip(concat_logits=True, depth=1).eval()
    assert model.temporal_model.projection.in_features == 3 + 16
    seen = []
    model.temporal_model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features, directions = random(2, 4, 2, 16), model.directions()
    out = model(features, directions)
    x = features - torch.linspace(-1, 1, 16)
    torch.testing.assert_close(out.logits, x @ directions.T / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(seen[0], torch.cat([out.logits, x], dim=-1))
    assert torch.equal(out.probabilities, aggregate(out.logits, out.p_anomaly, 2))
