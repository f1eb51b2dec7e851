"""Alert-CLIP: CLIP's towers, a temporal transformer, and regions (Alert-CLIP paper, Method).

Axis letters: B clips, T frames, R regions, K hard negatives, C texts, D embedding dimension,
h w patch grid. Every embedding that leaves this module is a unit vector in fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from alertclip.backbone import Backbone
from alertclip.clips import Batch
from alertclip.errors import InputError
from alertclip.lora import has_lora
from alertclip.losses import Embeddings
from alertclip.pooling import AttentionPooling, TemporalTransformer, region_sequence
from alertclip.tower import PatchTokens, checkpoint_every, image_and_patches

K = 3  # hard negatives per region (supplementary A.4)


@dataclass(frozen=True)
class Frames:
    """Frame embeddings v (B, T, D), unit length; projected patch grids (B*T, D, h, w) or None."""

    v: Tensor
    patches: Tensor | None = None


@dataclass(frozen=True)
class ClipEmbedding:
    """Unit clip embedding (B, D), frames after the temporal transformer z (B, T, D), alpha."""

    embedding: Tensor
    z: Tensor
    weights: Tensor


class AlertCLIP(nn.Module):
    """The model of both stages. Untrained it is CLIP: the mean of a clip's unit frame embeddings.

    ``checkpointing``: none, all, or a number k (recompute every k-th block of the vision tower in
    the backward pass).
    """

    def __init__(
        self,
        backbone: Backbone,
        temporal_layers: int = 2,
        temporal_heads: int = 8,
        temporal_dropout: float = 0.1,
        region_pooling: Literal["mean", "temporal"] = "mean",
        patch_tokens: PatchTokens = "plain",
        checkpointing: str | int = "none",
    ) -> None:
        super().__init__()
        self.backbone, self.adapted = backbone, backbone.model
        self.temporal = TemporalTransformer(
            backbone.embed_dim, temporal_layers, temporal_heads, temporal_dropout
        )
        self.pooling = AttentionPooling(backbone.embed_dim)
        self.region_pooling, self.patch_tokens = region_pooling, patch_tokens
        self.checkpoint_every = checkpoint_every(checkpointing)
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(shape), persistent=False)

    @property
    def clip(self) -> nn.Module:
        """The backbone's model, with or without adapters around its projections."""
        return self.adapted.get_base_model() if has_lora(self.adapted) else self.adapted

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the inverse temperature: the backbone's own."""
        return self.clip.logit_scale

    @property
    def image_size(self) -> tuple[int, int]:
        """Frame size (H, W)."""
        return self.backbone.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Patch grid (h, w)."""
        return self.backbone.grid

    def forward(self, batch: Batch, regions: bool = False) -> Embeddings:
        """Embeddings for the global loss and, with ``regions``, for region and hard losses."""
        regions = regions and bool(batch.region_captions)
        frames = self.encode_frames(batch.frames, patches=regions)
        v = self.pool_frames(frames.v, batch.mask).embedding
        if not regions:
            return Embeddings(v, self.encode_text(batch.global_captions), batch.global_captions)
        v_r = self.encode_regions(frames.patches, batch.region_clip, batch.boxes, batch.region_mask)
        return self.pair_with_captions(v, v_r, batch)

    def encode_frames(self, frames: Tensor, patches: bool = False) -> Frames:
        """frames (B, T, 3, H, W) uint8 -> v, and patch grids: one pass of the vision tower."""
        v, grids = image_and_patches(
            self.clip.visual,
            self.normalise_pixels(frames.flatten(0, 1)),
            self.patch_tokens if patches else None,
            self.checkpoint_every,
        )
        return Frames(normalize(v.float(), dim=-1).unflatten(0, frames.shape[:2]), grids)

    def pool_frames(self, v: Tensor, mask: Tensor) -> ClipEmbedding:
        """Temporal transformer and attention pooling (C.1): v (B, T, D), mask (B, T)."""
        z = self.temporal(v, mask)
        pooled, weights = self.pooling(z, mask)
        return ClipEmbedding(normalize(pooled.float(), dim=-1), z, weights)

    def encode_clip(self, frames: Tensor, mask: Tensor) -> ClipEmbedding:
        """frames (B, T, 3, H, W) uint8, mask (B, T) -> unit clip embeddings."""
        return self.pool_frames(self.encode_frames(frames).v, mask)

    def encode_regions(
        self, patches: Tensor, region_clip: Tensor, boxes: Tensor, region_mask: Tensor
    ) -> Tensor:
        """v_r (R, D): mean of f_t^roi over the frames with a box (supplementary C.2), or the
        temporal transformer over them (Alert-CLIP paper). Shapes as in ``region_sequence``."""
        sequence = region_sequence(patches, region_clip, boxes, region_mask)  # (R, T, D)
        if self.region_pooling == "temporal":
            return self.pool_frames(normalize(sequence, dim=-1), region_mask).embedding
        return normalize(sequence.sum(dim=1) / region_mask.sum(dim=1, keepdim=True), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (C, D); a text that occurs twice is encoded once."""
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        tokens = self.backbone.tokenizer(list(place)).to(self.mean.device)
        embeddings = normalize(self.clip.encode_text(tokens).float(), dim=-1)
        return embeddings[[place[text] for text in texts]]

    def pair_with_captions(self, v: Tensor, v_r: Tensor, batch: Batch) -> Embeddings:
        """Clips v (B, D) and regions v_r (R, D) with their captions and hard negatives."""
        negatives, mask = fill_negatives(batch.hard_negatives, batch.region_captions)
        t = self.encode_text([*batch.global_captions, *batch.region_captions, *negatives])
        t, t_r, t_neg = t.split([len(v), len(v_r), len(negatives)])
        t_neg, mask = t_neg.unflatten(0, mask.shape), mask.to(t.device)
        captions = batch.global_captions, batch.region_captions
        return Embeddings(v, t, captions[0], v_r, t_r, t_neg, mask, captions[1])

    def image_features(self, frames: Tensor) -> Tensor:
        """frames (F, 3, H, W) uint8 -> features (F, D) as projected, not normalised."""
        return image_and_patches(self.clip.visual, self.normalise_pixels(frames))[0].float()

    def normalise_pixels(self, frames: Tensor) -> Tensor:
        """frames (F, 3, H, W) uint8 -> (pixel / 255 - mean) / std, the backbone's statistics."""
        if frames.dtype != torch.uint8 or frames.shape[-2:] != self.image_size:
            raise InputError(
                f"frames must be uint8 pixels of size {self.image_size} (H, W), the backbone's, "
                f"not {frames.dtype} of {tuple(frames.shape[-2:])}"
            )
        return torch.addcmul(-self.mean / self.std, frames.float(), 1 / (255 * self.std))


def fill_negatives(
    negatives: Sequence[Sequence[str]], captions: Sequence[str]
) -> tuple[list[str], Tensor]:
    """R ragged lists as R * K texts, with a mask (R, K) True where a hard negative exists.

    K is at least 3, the paper's. A gap holds the region's own caption, which is encoded anyway.
    """
    k = max([K, *map(len, negatives)])
    texts = [
        text
        for row, caption in zip(negatives, captions, strict=True)
        for text in [*row, *[caption] * (k - len(row))]
    ]
    return texts, torch.tensor([[i < len(row) for i in range(k)] for row in negatives])
