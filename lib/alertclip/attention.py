"""Split packed attention layers into separate linear projections, so that LoRA can adapt each.

PEFT cannot adapt q, k and v of ``nn.MultiheadAttention`` separately and applies its output
projection twice; a fused qkv layer (timm, BLIP) would get one adapter for all three. On plain
``nn.Linear`` PEFT is exact. Splitting does not change results.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Attention, AttentionPoolLatent
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

from media.errors import InputError

PARTS = ("q_proj", "k_proj", "v_proj")
OUT = ("out_proj",)
LAYOUTS = {  # pattern of a module's name -> {stem of a stock key: projections packed under it};
    # the first match applies
    r"\btrunk\.blocks\.\d+\.attn$": {"qkv.": PARTS, "proj.": OUT},  # timm
    r"\btrunk\.attn_pool$": {"q.": PARTS[:1], "kv.": PARTS[1:], "proj.": OUT},  # timm
    r"\bself_attn$": {"qkv.": PARTS, "projection.": OUT},  # BLIP
    "": {"in_proj_": PARTS, "out_proj.": OUT},  # torch
}


class Projections(nn.Module):
    """Multi-head attention with separate q, k, v and out projections, batch first.

    ``kept``: a list to which each pass appends its probabilities (B, heads, M, N), not fused then.
    ``local``: each token attends to itself only.
    """

    kept: list[Tensor] | None = None
    local = False

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        out: nn.Linear,
        num_heads: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if any(bias is None for bias in (*biases, out.bias)):
            raise InputError("only biased attention can be split")
        for name, weight, bias in zip(PARTS, weights, biases, strict=True):
            setattr(self, name, _linear(weight, bias))
        self.out_proj = _linear(out.weight, out.bias)
        self.num_heads, self.dropout = num_heads, dropout

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """query (B, M, width), key, value (B, N, width), additive mask (M, N) -> (B, M, width)."""
        if self.local:
            return self.out_proj(self.v_proj(value))
        projected = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        # (B, heads, M or N, width / heads)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in projected)
        mask = None if mask is None else mask.to(q.dtype)
        rate = self.dropout if self.training else 0.0
        # On a CPU the fused kernel's backward pass in bf16 takes six times as long.
        slow = self.training and q.is_cpu and q.dtype == torch.bfloat16
        if self.kept is None and not slow:
            x = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
            return self.out_proj(x.transpose(1, 2).flatten(2))
        dtype = v.dtype
        if self.kept is not None:  # probabilities are kept in fp32
            q, k, v = q.float(), k.float(), v.float()
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        probabilities = (scores if mask is None else scores + mask).softmax(dim=-1).to(v.dtype)
        if self.kept is not None:
            if torch.is_grad_enabled() and not probabilities.requires_grad:
                probabilities.requires_grad_()
            self.kept.append(probabilities)
        x = (dropout(probabilities, rate) @ v).to(dtype)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class SplitAttention(Projections):
    """Replaces ``nn.MultiheadAttention`` in open_clip's own towers."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        weight, bias = packed.in_proj_weight, packed.in_proj_bias
        if weight is None or bias is None or not packed.batch_first:
            raise InputError("only packed, biased, batch-first attention can be split")
        dropout = packed.dropout
        super().__init__(weight.chunk(3), bias.chunk(3), packed.out_proj, packed.num_heads, dropout)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """query, key, value (B, N, width) -> (B, N, width), None; attn_mask is additive (N, N)."""
        return self.attend(query, key, value, attn_mask), None


class SplitSelfAttention(Projections):
    """Replaces the fused-qkv self-attention of timm and BLIP, which uses no mask."""

    def __init__(self, qkv: nn.Linear, out: nn.Linear, num_heads: int, dropout: float) -> None:
        biases = (None,) * 3 if qkv.bias is None else qkv.bias.chunk(3)
        super().__init__(qkv.weight.chunk(3), biases, out, num_heads, dropout)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """x (B, N, width) -> the same shape; timm's blocks pass a mask too, always None."""
        return self.attend(x, x, x)


class SplitPool(Projections):
    """SigLIP's attention pooling (timm): a learned query attends to the tokens, then an MLP."""

    def __init__(self, packed: AttentionPoolLatent) -> None:
        q, kv = packed.q, packed.kv
        plain = isinstance(q, nn.Linear) and isinstance(packed.k_norm, nn.Identity)
        if not plain or kv.bias is None or packed.pos_embed is not None or packed.latent_len != 1:
            raise InputError("only attention pooling as in SigLIP can be split")
        weights, biases = (q.weight, *kv.weight.chunk(2)), (q.bias, *kv.bias.chunk(2))
        super().__init__(weights, biases, packed.proj, packed.num_heads)
        self.latent, self.norm, self.mlp = packed.latent, packed.norm, packed.mlp

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, width) -> (B, width)."""
        pooled = self.attend(self.latent.expand(len(x), -1, -1), x, x)
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]

    def values(self, x: Tensor) -> Tensor:
        """Each token pooled by itself: x (B, N, width) -> the same shape."""
        pooled = self.out_proj(self.v_proj(x))  # a single token has attention weight 1
        return pooled + self.mlp(self.norm(pooled))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(*weight.shape[::-1], device=weight.device, dtype=weight.dtype)
    linear.weight.data.copy_(weight.data)
    linear.bias.data.copy_(bias.data)
    return linear.requires_grad_(weight.requires_grad)


def split_attention(model: nn.Module) -> int:
    """Replace every packed attention of an open_clip model in place; return how many.

    Raises InputError on timm attention with query or key normalisation or a gate.
    """
    packed = [(name, module) for name, module in model.named_modules() if type(module) in SPLIT]
    for name, module in packed:
        model.set_submodule(name, SPLIT[type(module)](module))
    return len(packed)


def _split_timm(attention: Attention) -> SplitSelfAttention:
    norms = (attention.q_norm, attention.k_norm, attention.norm)
    if attention.gate is not None or not all(isinstance(norm, nn.Identity) for norm in norms):
        raise InputError("only timm's plain attention can be split: no norms, no gate")
    dropout = attention.attn_drop.p
    return SplitSelfAttention(attention.qkv, attention.proj, attention.num_heads, dropout)


SPLIT = {  # packed attention -> its replacement
    nn.MultiheadAttention: SplitAttention,
    Attention: _split_timm,
    AttentionPoolLatent: SplitPool,
}


def pack_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A split model's state dict under the stock keys of its library (see ``LAYOUTS``)."""
    packed = {}
    for name, tensor in state.items():
        module, _, tail = name.rpartition(".")
        attention, _, projection = module.rpartition(".")
        if projection not in PARTS + OUT:
            packed[name] = tensor
            continue
        layout = next(stems for pattern, stems in LAYOUTS.items() if re.search(pattern, attention))
        for stem, projections in layout.items():
            if projection == projections[0]:
                tensors = [state[f"{attention}.{p}.{tail}"] for p in projections]
                packed[f"{attention}.{stem}{tail}"] = torch.cat(tensors)
    return packed
