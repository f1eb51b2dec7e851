"""Rollout: rows sum to 1, uniform attention gives a uniform map, probabilities are right."""

import open_clip
import pytest
import torch
from torch import nn

from alertclip.errors import InputError
from alertclip.explain import attention_maps, attention_probabilities, patch_maps, rollout
from alertclip.model.alertclip import AlertCLIP
from alertclip.model.backbone import from_clip


class Projections(nn.Module):
    def __init__(self, dim: int = 8, heads: int = 2):
        super().__init__()
        self.num_heads = heads
        self.q_proj, self.k_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)


def test_probabilities_equal_torch_attention():
    torch.manual_seed(0)
    stock = nn.MultiheadAttention(8, 2, batch_first=True)
    split = Projections()
    weight, bias = stock.in_proj_weight.chunk(3), stock.in_proj_bias.chunk(3)
    for projection, w, b in zip((split.q_proj, split.k_proj), weight, bias, strict=False):
        projection.load_state_dict({"weight": w, "bias": b})
    x = torch.randn(3, 5, 8)
    expected = stock(x, x, x, need_weights=True)[1]
    torch.testing.assert_close(attention_probabilities(split, x), expected)


def test_rollout_rows_sum_to_one():
    attention = torch.rand(4, 2, 7, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.testing.assert_close(rollout(attention).sum(-1), torch.ones(2, 7))


@pytest.mark.parametrize("pool, tokens", [("tok", 7), ("avg", 7), ("avg", 6)])
def test_uniform_attention_gives_a_uniform_map(pool, tokens):
    uniform = torch.full((3, 2, tokens, tokens), 1 / tokens)
    maps = patch_maps(rollout(uniform), (2, 3), pool)
    torch.testing.assert_close(maps, torch.full((2, 2, 3), 1 / 6))


def test_attention_to_one_patch_is_found():
    attention = torch.zeros(1, 1, 7, 7)
    attention[..., 5] = 1  # every token looks at patch 4 (token 0 is the class token)
    maps = patch_maps(rollout(attention), (2, 3), "tok")
    assert maps.flatten().argmax() == 4 and maps.sum() == pytest.approx(1)
    with pytest.raises(InputError, match="3 x 3"):
        patch_maps(rollout(attention), (3, 3), "tok")


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_maps_of_a_vision_tower_sum_to_one(pool):
    config = {
        "vision_cfg": {
            "layers": 2,
            "width": 32,
            "head_width": 8,
            "patch_size": 8,
            "image_size": [32, 48],
            "pool_type": pool,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
    }
    clip = open_clip.CLIP(embed_dim=16, **config)
    model = AlertCLIP(from_clip(clip, lambda _: None, "tiny", config)).eval()
    frames = torch.randint(0, 255, (3, 3, 32, 48), dtype=torch.uint8)
    maps = attention_maps(model, frames)
    assert maps.shape == (3, 4, 6)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
