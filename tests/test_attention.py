"""Split attention changes no number, LoRA on it is exact, packing restores stock open_clip.

Maps use the model's own probabilities and right gradients; what has no map says so.
"""

from unittest.mock import patch

import pytest
import tiny_clip
import torch
from faults.harness import refused
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import linear, normalize

from alertclip.attention import split_attention
from alertclip.attention_maps import attention_maps, keep_probabilities, rollout, token_maps
from alertclip.backbone import from_clip
from alertclip.lora import add_lora, merge_lora, parameter_groups, target_pattern
from alertclip.model import AlertCLIP
from companion.relevance import frame_gradients, frame_maps, gradient_weighted, relevance

PIXELS = torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(0))
TOKENS = tiny_clip.tokenize(["a man runs", "two cars crash here", "fire"])


def towers(model) -> torch.Tensor:
    return torch.cat([model.encode_image(PIXELS), model.encode_text(TOKENS)])


def adapted(targets=("q", "k", "v")):
    model = tiny_clip.clip()
    split_attention(model)
    return add_lora(model, 2, 4.0, 0.0, targets).eval()


def test_adapter_adds_alpha_over_rank_b_a_and_merges_exactly_through_two_stages():
    model, split = adapted(), tiny_clip.clip()
    split_attention(split)
    assert torch.equal(towers(model), towers(split))  # B starts at zero
    tiny_clip.stir(model)
    layer = model.get_base_model().visual.transformer.resblocks[1].attn.k_proj
    x = torch.randn(4, 32)
    a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
    expected = linear(x, layer.base_layer.weight + 2.0 * b @ a, layer.base_layer.bias)
    torch.testing.assert_close(layer(x), expected)
    first = towers(model)
    merged = merge_lora(model)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(towers(merged), first, atol=1e-5, rtol=1e-5)
    second = add_lora(merged, 3, 6.0, 0.0).eval()  # another rank, as in Table 4
    torch.testing.assert_close(towers(second), first, atol=1e-5, rtol=1e-5)
    tiny_clip.stir(second, seed=2)
    expected = towers(second)
    assert (expected - first).abs().max() > 1e-3
    torch.testing.assert_close(towers(merge_lora(second)), expected, atol=1e-5, rtol=1e-5)


def test_token_embedding_is_adapted_where_it_is_asked_for():
    model = adapted(targets=("q", "embedding"))
    layer = model.get_base_model().token_embedding
    with torch.no_grad():  # 2.0 = alpha / rank; one word moves, the others stay
        layer.lora_embedding_A.default.zero_()
        layer.lora_embedding_A.default[0, TOKENS[0, 1]] = 1.0
        layer.lora_embedding_B.default.zero_()[0, 0] = 0.5
    word = layer.base_layer.weight[TOKENS[0, 1]] + torch.eye(16)[0]
    torch.testing.assert_close(layer(TOKENS[0, 1:2])[0], word)
    tuned = towers(model)
    torch.testing.assert_close(towers(merge_lora(model)), tuned, atol=1e-5, rtol=1e-5)
    assert "add text" in refused(target_pattern, model, ["embedding"], ["visual"])


def test_parameter_groups_partition_what_is_trained():
    model = tiny_clip.alertclip()
    model.adapted = add_lora(model.adapted, 2, 4, 0.0)
    model.logit_scale.requires_grad_(True)
    groups = {g["name"]: g for g in parameter_groups(model, 1.0, 2.0, 3.0, 0.1)}
    names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
    members = {name: [names[id(p)] for p in g["params"]] for name, g in groups.items()}
    assert sorted(n for ns in members.values() for n in ns) == sorted(names.values())
    assert {n: (g["lr"], g["weight_decay"]) for n, g in groups.items()} == {
        "base": (1.0, 0.1), "base_no_decay": (1.0, 0.0), "text": (2.0, 0.1),
        "temporal": (3.0, 0.1), "temporal_no_decay": (3.0, 0.0),
    }  # fmt: skip
    assert all(".visual." in n for n in members["base"]) and len(members["base"]) == 12
    assert all("lora_" in n and ".visual." not in n for n in members["text"])
    assert [n.rpartition(".")[2] for n in members["base_no_decay"]] == ["logit_scale"]
    assert any("norm1.weight" in n for n in members["temporal_no_decay"])
    assert any(n == "pooling.score.0.weight" for n in members["temporal"])


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_the_explicit_tower_is_the_fused_one(pool):
    model = tiny_clip.alertclip(pool)
    tiny_clip.stir(model)
    frames = tiny_clip.frames(5)
    fused = model.image_features(frames)
    with keep_probabilities(model.clip.visual) as blocks:
        explicit = model.image_features(frames)
    assert not torch.equal(explicit, fused)  # another computation of the same
    torch.testing.assert_close(explicit, fused, rtol=1e-4, atol=1e-5)
    assert [tuple(block.shape) for block in blocks] == [(5, 4, 13, 13)] * 2
    torch.testing.assert_close(blocks[1].sum(-1), torch.ones(5, 4, 13))
    assert torch.equal(model.image_features(frames), fused)  # as before


def test_relevance_rollout_and_their_maps_by_hand():
    attention = torch.tensor([[[[0.5, 0.5], [0.2, 0.8]], [[1.0, 0.0], [0.4, 0.6]]]])
    gradient = torch.tensor([[[[2.0, -4.0], [0.0, 1.0]], [[-1.0, 9.0], [1.0, -1.0]]]])
    weighted = gradient_weighted(attention, gradient)
    torch.testing.assert_close(weighted, torch.tensor([[[0.5, 0.0], [0.2, 0.4]]]))
    later = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    # (I + later) (I + weighted): the order of the blocks matters
    expected = torch.tensor([[[1.7, 1.4], [0.2, 1.4]]])
    torch.testing.assert_close(relevance(torch.stack([weighted, later])), expected)
    expected = (later + torch.eye(2)) / 2 @ (weighted + torch.eye(2)) / 2
    torch.testing.assert_close(rollout(torch.stack([weighted, later])), expected)
    rows = torch.tensor([[9.0, 0, 0, 0, 0], [9.0, 0, 3, 1, 0]])  # the class token is no patch
    expected = torch.tensor([[[0.25, 0.25], [0.25, 0.25]], [[0, 0.75], [0.25, 0]]])
    torch.testing.assert_close(token_maps(rows, (2, 2)), expected)  # nothing positive: uniform


def by_definition(model: AlertCLIP, frame: Tensor, direction: Tensor) -> Tensor:
    """Relevance map (h, w) of a one-block tower in fp64, from a function of the probabilities."""
    visual, pixels = model.clip.visual.double(), model.normalise_pixels(frame).double()
    attention = visual.transformer.resblocks[0].attn
    with torch.no_grad(), keep_probabilities(visual) as blocks:
        visual(pixels)

    def score(probabilities: Tensor, tokens: Tensor) -> Tensor:
        """(heads, N, N) and a factor per pooled token (N,) -> similarity."""

        def attend(_q: Tensor, _k: Tensor, value: Tensor, _mask: None) -> Tensor:
            v = attention.v_proj(value).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            return attention.out_proj((probabilities @ v).transpose(1, 2).flatten(2))

        hook = visual.ln_post.register_forward_hook(lambda _m, _args, y: y * tokens[:, None])
        with hook, patch.object(attention, "attend", attend):
            return normalize(visual(pixels)[0], dim=-1) @ direction.double()

    a = blocks[0][0].double()
    slope, pooled = torch.autograd.functional.jacobian(score, (a, torch.ones_like(a[0, 0])))
    total = torch.eye(a.shape[-1]) + (slope * a).clamp(min=0).mean(dim=0)
    row = pooled.clamp(min=0) @ total if visual.pool_type == "avg" else total[0]
    visual.float()
    return (row[1:] / row[1:].sum()).unflatten(0, model.grid).float()


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_relevance_is_its_definition(pool):
    clip, frame = tiny_clip.clip(pool), tiny_clip.frames(1)
    del clip.visual.transformer.resblocks[1]
    tiny_clip.stir(clip, scale=0.2)
    model = AlertCLIP(from_clip(clip, tiny_clip.tokenize, "tiny", tiny_clip.config(pool))).eval()
    direction = 30 * torch.randn(16, generator=torch.Generator().manual_seed(1))
    expected = by_definition(model, frame, direction)
    actual = frame_maps(model, frame, direction[None]).relevance[0]
    torch.testing.assert_close(actual, expected, rtol=1e-2, atol=2e-4)
    other = frame_maps(model, frame, -direction[None]).relevance[0]
    assert (other - actual).abs().max() > 0.05  # the direction decides


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_frames_do_not_see_each_other_and_maps_sum_to_one(pool):
    model = tiny_clip.alertclip(pool)
    frames, directions = tiny_clip.frames(3), torch.randn(3, 16)
    together = frame_maps(model, frames, directions)
    for many, one in zip(together, frame_maps(model, frames[1:2], directions[1:2]), strict=True):
        assert many.shape == (3, 3, 4)
        torch.testing.assert_close(many.sum((1, 2)), torch.ones(3))
        torch.testing.assert_close(many[1:2], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention_maps(model, frames), together.rollout)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frame_gradients_follow_the_scores_of_real_frames():
    model = tiny_clip.alertclip()
    v = normalize(torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    direction = torch.randn(16, generator=torch.Generator().manual_seed(2))
    tiny_clip.stir(model)
    step = 1e-2 * torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(3))

    def total(x: Tensor) -> Tensor:
        z = normalize(model.pool_frames(x, mask).z, dim=-1)
        return model.logit_scale.exp() * (z @ direction)[mask].sum()

    with torch.no_grad():
        slope = (total(v + step) - total(v - step)) / 2
    change = (frame_gradients(model, v, mask, direction) * step).sum()
    assert float(change) == pytest.approx(float(slope), rel=0.02)
