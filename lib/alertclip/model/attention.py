"""Split the packed attention of open_clip into plain projections, so that LoRA can reach them.

PEFT cannot adapt q, k and v of ``nn.MultiheadAttention`` separately and applies its output
projection twice; on plain ``nn.Linear`` it is exact. Splitting changes no number.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from alertclip.errors import InputError

PARTS = ("q_proj", "k_proj", "v_proj")


class SplitAttention(nn.Module):
    """Multi-head self-attention with separate q, k, v and out projections, batch first."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        if packed.in_proj_weight is None or packed.in_proj_bias is None or not packed.batch_first:
            raise InputError("only packed, biased, batch-first attention can be split")
        self.num_heads, self.dropout = packed.num_heads, packed.dropout
        weights, biases = packed.in_proj_weight.chunk(3), packed.in_proj_bias.chunk(3)
        for name, weight, bias in zip(PARTS, weights, biases, strict=True):
            setattr(self, name, _linear(weight, bias))
        self.out_proj = _linear(packed.out_proj.weight, packed.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """query, key, value (B, N, width) -> (B, N, width), None; attn_mask is additive (N, N)."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in (
                (self.q_proj, query),
                (self.k_proj, key),
                (self.v_proj, value),
            )
        )  # (B, heads, N, width / heads)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        dropout = self.dropout if self.training else 0.0
        x = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2)), None


@contextmanager
def attention_kernel(device: torch.device, precision: str) -> Iterator[None]:
    """Plain bf16 products for bf16 training on a CPU, three times as fast as fused attention there.

    Hold it around forward and backward together: checkpointing computes blocks again in the
    backward, and the kernel must be the same.
    """
    if device.type != "cpu" or precision != "bf16":
        yield
        return
    settings = torch.backends.cuda  # despite the name, it holds for the CPU too
    before = settings.fp16_bf16_reduction_math_sdp_allowed()
    settings.allow_fp16_bf16_reduction_math_sdp(True)  # else the products are upcast to fp32
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        settings.allow_fp16_bf16_reduction_math_sdp(before)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(*weight.shape[::-1], device=weight.device, dtype=weight.dtype)
    linear.weight.data.copy_(weight.data)
    linear.bias.data.copy_(bias.data)
    return linear.requires_grad_(weight.requires_grad)


def split_attention(model: nn.Module) -> int:
    """Replace every packed attention of an open_clip model in place; return how many."""
    packed = [
        block
        for block in model.modules()
        if isinstance(getattr(block, "attn", None), nn.MultiheadAttention)
    ]
    for block in packed:
        block.attn = SplitAttention(block.attn)
    return len(packed)


def pack_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a split model under stock open_clip keys: q, k, v stacked in in_proj."""
    packed = {}
    for name, tensor in state.items():
        stem, _, tail = name.rpartition(".")
        owner, _, part = stem.rpartition(".")
        if part == "q_proj":
            parts = [state[f"{owner}.{p}.{tail}"] for p in PARTS]
            packed[f"{owner}.in_proj_{tail}"] = torch.cat(parts)
        elif part not in PARTS:
            packed[name] = tensor
    return packed
