"""AnomalyCLIP's Temporal model against its definition, and what those of its Table 10 see."""

import pytest
import tiny_clip
import torch
from tiny_detectors import random
from torch import Tensor

from detectors.anomalyclip.temporal import TemporalModel
from detectors.training_protocol import AnomalyCLIPSettings


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


# By the frame (segment 1, frame 0 of 4 x 2) that changes: which frames' probabilities change.
FRAME, SEGMENT, ALL = [(1, 0)], [(1, 0), (1, 1)], [(s, f) for s in range(4) for f in range(2)]


@pytest.mark.parametrize(
    ("kind", "reached", "pooled"),
    [
        ("axial", ALL, False),
        ("mlp", FRAME, False),
        ("short", SEGMENT, False),
        ("long", ALL, True),
        ("mtn", ALL, True),
    ],
)
def test_what_a_temporal_model_sees(kind, reached, pooled):
    """Of Table 10: the long-term ones see the mean of a segment, whatever the order in it."""
    settings = AnomalyCLIPSettings(emb_size=16, heads=2, segments=4, segment_frames=2)
    torch.manual_seed(0)
    model = TemporalModel(6, settings.model_copy(update={"temporal": kind})).eval()
    x = random(1, 4, 2, 6)
    changed = x.clone()
    changed[0, 1, 0] += 1
    p = model(x)
    assert p.shape == (1, 4, 2)
    assert (model(changed) - p)[0].abs().gt(1e-7).nonzero().tolist() == [*map(list, reached)]
    assert torch.allclose(model(x.flip(2)), p) is pooled


def test_the_plain_transformers_are_about_as_large_as_the_axial_one():
    def size(kind: str) -> int:
        model = TemporalModel(512, AnomalyCLIPSettings(temporal=kind))
        return sum(parameter.numel() for parameter in model.parameters())

    assert size("short") / size("axial") == pytest.approx(1, abs=0.05)
    assert size("long") / size("axial") == pytest.approx(1, abs=0.05)
