"""Alert-CLIP: CLIP's towers, a temporal transformer, and regions (document 001, Method).

Axis letters: B clips, T frames, R regions, K hard negatives, C texts, D embedding dimension.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from alertclip.data.clips import Batch
from alertclip.model.backbone import Backbone
from alertclip.model.regions import region_sequence
from alertclip.model.temporal import AttentionPooling, TemporalTransformer


K = 3  # hard negatives per region (supplementary A.4)


@dataclass(frozen=True)
class Frames:
    """Frame embeddings v (B, T, D), unit length, and projected patch grids (B*T, D, h, w)."""

    v: Tensor
    patches: Tensor


@dataclass(frozen=True)
class ClipEmbedding:
    """Unit clip embedding (B, D), frames after the temporal transformer z (B, T, D), alpha."""

    embedding: Tensor
    z: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Output:
    """Unit embeddings of a batch: clips v (B, D) with texts t, and for regions v_r (R, D), t_r,
    t_neg (R, K, D) with negative_mask (R, K) True where a hard negative exists."""

    v: Tensor
    t: Tensor
    v_r: Tensor | None = None
    t_r: Tensor | None = None
    t_neg: Tensor | None = None
    negative_mask: Tensor | None = None


class AlertCLIP(nn.Module):
    """The model of both stages. At the start it is mean-pooled CLIP, to the last bit of rounding.

    ``checkpointing``: none, all, or a number k (every k-th block is recomputed in the backward).
    """

    def __init__(
        self,
        backbone: Backbone,
        temporal_layers: int = 2,
        temporal_heads: int = 8,
        temporal_dropout: float = 0.1,
        region_pooling: Literal["mean", "temporal"] = "mean",
        patch_tokens: Literal["plain", "value"] = "plain",
        checkpointing: str = "none",
    ) -> None:
        super().__init__()
        self.backbone, self.adapted = backbone, backbone.model
        self.temporal = TemporalTransformer(
            backbone.embed_dim, temporal_layers, temporal_heads, temporal_dropout
        )
        self.pooling = AttentionPooling(backbone.embed_dim)
        self.region_pooling, self.patch_tokens = region_pooling, patch_tokens
        self.checkpointing = checkpointing
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(shape), persistent=False)

    @property
    def clip(self) -> nn.Module:
        """The open_clip model, with or without adapters around its projections."""
        return self.adapted.get_base_model() if self._has_adapters else self.adapted

    @property
    def _has_adapters(self) -> bool:
        return isinstance(self.adapted, PeftModel)

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the inverse temperature, the backbone's own."""
        return self.clip.logit_scale

    @property
    def image_size(self) -> tuple[int, int]:
        """Frame size (H, W)."""
        return self.backbone.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Patch grid (h, w)."""
        return self.backbone.grid

    def forward(self, batch: Batch, regions: bool = False) -> Output:
        """Embeddings for the global loss and, with ``regions``, for region and hard losses."""
        frames = self.encode_frames(batch.frames)
        v = self.pool_frames(frames.v, batch.mask).embedding
        t = self.encode_text(batch.global_captions)
        if not regions:
            return Output(v, t)
        v_r = self.encode_regions(frames.patches, batch.region_clip, batch.boxes, batch.region_mask)
        t_neg, mask = self._encode_negatives(batch.hard_negatives)
        return Output(v, t, v_r, self.encode_text(batch.region_captions), t_neg, mask)

    def encode_frames(self, frames: Tensor) -> Frames:
        """frames (B, T, 3, H, W) uint8 -> one pass of the vision tower over all of them."""
        x = (frames.flatten(0, 1).to(self.mean.dtype) / 255 - self.mean) / self.std
        pooled, patches = self._visual(x)
        v = normalize(pooled, dim=-1).unflatten(0, frames.shape[:2])
        return Frames(v, patches.transpose(1, 2).unflatten(2, self.grid))

    def pool_frames(self, v: Tensor, mask: Tensor) -> ClipEmbedding:
        """Temporal transformer and attention pooling: v (B, T, D), mask (B, T)."""
        z = self.temporal(v, mask)
        pooled, weights = self.pooling(z, mask)
        return ClipEmbedding(normalize(pooled, dim=-1), z, weights)

    def encode_clip(self, frames: Tensor, mask: Tensor) -> ClipEmbedding:
        """frames (B, T, 3, H, W) uint8, mask (B, T) -> unit clip embeddings."""
        return self.pool_frames(self.encode_frames(frames).v, mask)

    def encode_regions(
        self, patches: Tensor, region_clip: Tensor, boxes: Tensor, region_mask: Tensor
    ) -> Tensor:
        """f^roi, the mean over the frames with a box (or the temporal pooling), unit (R, D)."""
        sequence = region_sequence(patches, region_clip, boxes, region_mask)
        if self.region_pooling == "temporal":
            return self.pool_frames(normalize(sequence, dim=-1), region_mask).embedding
        count = region_mask.sum(dim=1, keepdim=True)
        return normalize(sequence.sum(dim=1) / count, dim=-1)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit embeddings (C, D); a text that occurs twice is encoded once."""
        unique = list(dict.fromkeys(texts))
        tokens = self.backbone.tokenizer(unique).to(self.mean.device)
        embeddings = normalize(self.clip.encode_text(tokens), dim=-1)
        place = {text: i for i, text in enumerate(unique)}
        return embeddings[[place[text] for text in texts]]

    def _encode_negatives(self, negatives: list[list[str]]) -> tuple[Tensor, Tensor]:
        k = max(K, *map(len, negatives))
        # A region with fewer negatives is filled with any text; the mask takes it out again.
        filled = [text for row in negatives for text in [*row, *[""] * (k - len(row))]]
        mask = [[i < len(row) for i in range(k)] for row in negatives]
        embeddings = self.encode_text(filled).unflatten(0, (len(negatives), k))
        return embeddings, torch.tensor(mask, device=embeddings.device)

    def _visual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """open_clip's own steps, with the projected patch tokens kept: (F, D), (F, N, D)."""
        visual = self.clip.visual
        x = visual._embeds(x)
        blocks = visual.transformer.resblocks
        for number, block in enumerate(blocks[:-1]):
            x = self._run(block, number, x)
        last = self._run(blocks[-1], len(blocks) - 1, x)
        pooled, tokens = visual._pool(last)
        if self.patch_tokens == "value":
            _, tokens = visual._pool(_value_path(blocks[-1], x))
        return pooled @ visual.proj, tokens @ visual.proj

    def _run(self, block: nn.Module, number: int, x: Tensor) -> Tensor:
        every = {"none": 0, "all": 1}.get(self.checkpointing) or int(
            self.checkpointing if self.checkpointing.isdigit() else 0
        )
        if self.training and every and number % every == 0:
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


def _value_path(block: nn.Module, x: Tensor) -> Tensor:
    """A block in which each token attends to itself only: sharper patch tokens (FG-CLIP)."""
    attention = block.attn
    x = x + block.ls_1(attention.out_proj(attention.v_proj(block.ln_1(x))))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
