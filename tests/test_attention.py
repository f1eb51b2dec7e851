"""Splitting changes no number, LoRA is exact on it, and packing gives stock open_clip back."""

import pytest
import tiny_clip
import torch
from peft import PeftModel
from torch.nn.functional import linear

from alertclip.attention import SplitAttention, pack_state_dict, split_attention
from alertclip.lora import add_lora, merge_lora, parameter_groups, target_pattern
from media.errors import InputError

PIXELS = torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(0))
TOKENS = tiny_clip.tokenize(["a man runs", "two cars crash here", "fire"])


def towers(model) -> torch.Tensor:
    return torch.cat([model.encode_image(PIXELS), model.encode_text(TOKENS)])


def adapted(targets=("q", "k", "v")):
    model = tiny_clip.clip()
    split_attention(model)
    return add_lora(model, 2, 4.0, 0.0, targets).eval()


def test_bf16_backward_on_cpu_equals_fp32_roughly():
    attention = SplitAttention(tiny_clip.clip().visual.transformer.resblocks[0].attn)
    x = torch.randn(2, 13, 32, generator=torch.Generator().manual_seed(1))
    causal = torch.full((13, 13), float("-inf")).triu(1)
    gradients = []
    for enabled in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            attention(leaf, leaf, leaf, causal)[0].float().square().sum().backward()
        gradients.append(leaf.grad)
    assert 0 < (gradients[0] - gradients[1]).norm() < 0.03 * gradients[0].norm()


def test_adapter_adds_alpha_over_rank_b_a_and_starts_at_zero():
    model = adapted()
    split = tiny_clip.clip()
    split_attention(split)
    assert torch.equal(towers(model), towers(split))  # B starts at zero
    tiny_clip.stir(model)
    layer = model.get_base_model().visual.transformer.resblocks[1].attn.k_proj
    x = torch.randn(4, 32)
    a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
    expected = linear(x, layer.base_layer.weight + 2.0 * b @ a, layer.base_layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_merged_equals_unmerged_through_two_stages():
    model = adapted()
    tiny_clip.stir(model)
    first = towers(model)
    merged = merge_lora(model)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(towers(merged), first, atol=1e-5, rtol=1e-5)

    second = add_lora(merged, 3, 6.0, 0.0).eval()  # another rank, as in Table 4
    torch.testing.assert_close(towers(second), first, atol=1e-5, rtol=1e-5)
    tiny_clip.stir(second, seed=2)
    expected = towers(second)
    assert (expected - first).abs().max() > 1e-3
    stock = tiny_clip.clip(seed=9)
    stock.load_state_dict(pack_state_dict(merge_lora(second).state_dict()), strict=True)
    torch.testing.assert_close(towers(stock), expected, atol=1e-5, rtol=1e-5)


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
    with pytest.raises(InputError, match="add text"):
        target_pattern(model, ["embedding"], ["visual"])


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
