"""AnomalyCLIP's Temporal model against its definition, and what those of its Table 10 see."""

import pytest
import tiny_clip
import torch
import torch.nn.functional as F
from tiny_detectors import random
from torch import Tensor

from detectors.anomalyclip.temporal import TemporalModel
from detectors.training_protocol import AnomalyCLIPSettings


def temporal_by_definition(w: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    """One layer from the official names alone, in float64: x (B, S, F, D) -> p_A (B, S, F)."""
    a, places = "axial_attn.layers.blocks", "axial_attn.pos_emb.param_"

    def own(name: str) -> tuple[Tensor, Tensor]:
        return w[f"{name}.weight"], w[f"{name}.bias"]

    def attend(name: str, h: Tensor, pattern: str) -> Tensor:
        n = f"{a}.0.{name}.net.fn"
        z = F.layer_norm(h, h.shape[-1:], *own(f"{n}.norm"))
        maps = w[f"{n}.fn.to_q.weight"], *w[f"{n}.fn.to_kv.weight"].chunk(2)
        q, k, v = (F.linear(z, m).unflatten(-1, (heads, -1)) for m in maps)
        i, j, out = pattern.split()
        score = torch.einsum(f"b{i}he,b{j}he->bh{out}", q, k) / q.shape[-1] ** 0.5
        mixed = torch.einsum(f"bh{out},b{j}he->b{i}he", score.softmax(-1), v).flatten(-2)
        return F.linear(mixed, *own(f"{n}.fn.to_out"))

    def convolve(name: str, h: Tensor) -> Tensor:
        n, h = f"{a}.1.{name}.net", h.movedim(-1, 1)
        z = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True).sqrt() + 1e-5)
        z = torch.conv2d(z * w[f"{n}.0.g"] + w[f"{n}.0.b"], *own(f"{n}.1"), padding=1)
        z = torch.where(z > 0, z, 0.01 * z)
        return torch.conv2d(z, *own(f"{n}.3"), padding=1).movedim(1, -1)

    h = F.linear(x, *own("projection")) + (w[places + "0"] + w[places + "1"]).movedim(1, -1)
    y1 = h + attend("f", h, "sf tf fst")
    y2 = h + attend("g", y1, "sf sg sfg")
    z1 = y1 + convolve("f", y2)
    h = (z1 + y2 + convolve("g", z1)) / 2
    h = F.layer_norm(h, h.shape[-1:], *own("classifier.layer_norm"))
    return F.linear(h, *own("classifier.linear"))[..., 0].sigmoid()


def test_temporal_model_is_its_definition():
    torch.manual_seed(0)
    settings = AnomalyCLIPSettings(emb_size=8, heads=2, segments=4, segment_frames=3)
    model = TemporalModel(6, settings).double()
    tiny_clip.stir(model)
    x = random(2, 4, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(model(x), temporal_by_definition(model.state_dict(), x, 2))


# By the frame (segment 1, frame 0 of 4 x 2) that changes: which frames' probabilities change.
FRAME, SEGMENT, ALL = [(1, 0)], [(1, 0), (1, 1)], [(s, f) for s in range(4) for f in range(2)]


@pytest.mark.parametrize(("kind", "reached", "pooled"), [
    ("axial", ALL, False), ("mlp", FRAME, False), ("short", SEGMENT, False), ("long", ALL, True),
    ("mtn", ALL, True),
])  # fmt: skip
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
    models = (
        TemporalModel(512, AnomalyCLIPSettings(temporal=k)) for k in ("axial", "short", "long")
    )
    axial, *plain = (sum(p.numel() for p in model.parameters()) for model in models)
    assert plain == pytest.approx([axial] * 2, rel=0.05)
