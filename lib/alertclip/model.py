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
from alertclip.prefix import PrefixCache
from alertclip.regions import region_sequence
from alertclip.temporal import AttentionPooling, TemporalTransformer
from alertclip.tower import (
    PatchTokens,
    checkpoint_every,
    from_tokens,
    frozen_tokens,
    image_and_patches,
)

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
    """The model of both stages. Untrained it is CLIP: the mean of a clip's unit frame embeddings.

    ``checkpointing``: none, all, or a number k (every k-th block of the vision tower is recomputed
    in the backward pass).
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
        self.prefix: PrefixCache | None = None  # of frames that have a source
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(shape), persistent=False)

    @property
    def clip(self) -> nn.Module:
        """The backbone's model, with or without adapters around its projections."""
        adapted = has_lora(self.adapted)
        return self.adapted.get_base_model() if adapted else self.adapted

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the inverse temperature, the backbone's own; InfoNCE in every family."""
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
        frames = self.encode_frames(batch.frames, patches=regions)
        v = self.pool_frames(frames.v, batch.mask).embedding
        if not regions:
            return Output(v, self.encode_text(batch.global_captions))
        v_r = self.encode_regions(frames.patches, batch.region_clip, batch.boxes, batch.region_mask)
        negatives, mask = fill_negatives(batch.hard_negatives, batch.region_captions)
        t = self.encode_text([*batch.global_captions, *batch.region_captions, *negatives])
        t, t_r, t_neg = t.split([len(v), len(v_r), len(negatives)])
        return Output(v, t, v_r, t_r, t_neg.unflatten(0, mask.shape), mask.to(t.device))

    def encode_frames(
        self, frames: Tensor, patches: bool = False, sources: Sequence[str] = ()
    ) -> Frames:
        """frames (B, T, 3, H, W) uint8 -> one pass of the vision tower over all of them.

        ``sources``: a clip's content by name, under which ``prefix`` keeps its frozen tokens.
        """
        patch_tokens = self.patch_tokens if patches else None
        visual, options = self.clip.visual, (patch_tokens, self.checkpoint_every)
        if self.prefix and sources:
            x = self.prefix.tokens(
                sources, lambda missing: self._frozen_tokens(frames[missing]), frames.device
            )
            v, grids = from_tokens(visual, x.flatten(0, 1), self.prefix.depth, *options)
        else:
            v, grids = image_and_patches(visual, self._pixels(frames.flatten(0, 1)), *options)
        return Frames(normalize(v.float(), dim=-1).unflatten(0, frames.shape[:2]), grids)

    def _frozen_tokens(self, frames: Tensor) -> Tensor:
        pixels = self._pixels(frames.flatten(0, 1))
        tokens = frozen_tokens(self.clip.visual, pixels, self.prefix.depth)
        return tokens.unflatten(0, frames.shape[:2])

    def image_features(self, frames: Tensor) -> Tensor:
        """frames (F, 3, H, W) uint8 -> features (F, D) as projected, not normalised."""
        return image_and_patches(self.clip.visual, self._pixels(frames))[0].float()

    def _pixels(self, frames: Tensor) -> Tensor:
        if frames.dtype != torch.uint8 or frames.shape[-2:] != self.image_size:
            raise InputError(
                f"frames must be uint8 pixels of size {self.image_size} (H, W), the backbone's, "
                f"not {frames.dtype} of {tuple(frames.shape[-2:])}"
            )
        scale = 1 / (255 * self.std)
        return torch.addcmul(-self.mean / self.std, frames.float(), scale)

    def pool_frames(self, v: Tensor, mask: Tensor) -> ClipEmbedding:
        """Temporal transformer and attention pooling: v (B, T, D), mask (B, T)."""
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


def fill_negatives(
    negatives: Sequence[Sequence[str]], captions: Sequence[str]
) -> tuple[list[str], Tensor]:
    """R ragged lists as R * K texts, with a mask (R, K) True where a hard negative exists.

    K is at least the paper's, so that micro-batches can be joined. Gaps hold the region's own
    caption, which is encoded anyway.
    """
    k = max([K, *map(len, negatives)])
    texts = [
        text
        for row, caption in zip(negatives, captions, strict=True)
        for text in [*row, *[caption] * (k - len(row))]
    ]
    return texts, torch.tensor([[i < len(row) for i in range(k)] for row in negatives])
