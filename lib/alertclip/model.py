"""The Alert-CLIP model: CLIP's towers, temporal transformer and region features (paper, Method).

Axis letters: B clips, T frames, R regions, K hard negatives, C texts, D embedding dimension,
h w patch grid. Embeddings of frames (v), clips, regions and texts are unit vectors in fp32.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize
from torchvision.ops import roi_align

from alertclip.backbone import Backbone, PatchTokens, image_and_patches
from alertclip.clips import Batch
from alertclip.lora import has_lora
from alertclip.losses import Embeddings
from media.errors import InputError

K = 3  # hard negatives per region (supplementary A.4)
MAX_FRAMES = 256  # Table 4


class Frames(NamedTuple):
    """Unit frame embeddings v (B, T, D); projected patch grids (B * T, D, h, w) or None."""

    v: Tensor
    patches: Tensor | None = None


class ClipEmbedding(NamedTuple):
    """Unit clip embeddings (B, D); z (B, T, D), the temporal transformer's output; alpha (B, T)."""

    embedding: Tensor
    z: Tensor
    weights: Tensor


class AlertCLIP(nn.Module):
    """The model of both stages. Untrained it is CLIP: the mean of a clip's unit frame embeddings.

    ``checkpointing``: "all" recomputes the vision tower's blocks in the backward pass.
    """

    def __init__(
        self,
        backbone: Backbone,
        temporal_layers: int = 2,
        temporal_heads: int = 8,
        temporal_dropout: float = 0.1,
        region_pooling: Literal["mean", "temporal"] = "mean",
        patch_tokens: PatchTokens = "plain",
        checkpointing: Literal["none", "all"] = "none",
    ) -> None:
        super().__init__()
        self.backbone, self.adapted = backbone, backbone.model
        self.image_size, self.grid = backbone.image_size, backbone.grid  # (H, W), patches (h, w)
        width = backbone.embed_dim
        self.temporal = TemporalTransformer(
            width, temporal_layers, temporal_heads, temporal_dropout
        )
        self.pooling = AttentionPooling(width)
        self.region_pooling, self.patch_tokens = region_pooling, patch_tokens
        self.checkpointing = checkpointing == "all"
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(shape), persistent=False)

    def train(self, mode: bool = True) -> "AlertCLIP":
        """Set the mode; blocks are recomputed in training only."""
        if self.checkpointing:
            self.clip.visual.set_grad_checkpointing(mode)
        return super().train(mode)

    @property
    def clip(self) -> nn.Module:
        """The backbone's model, with or without adapters around its projections."""
        return self.adapted.get_base_model() if has_lora(self.adapted) else self.adapted

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the inverse temperature: the backbone's own."""
        return self.clip.logit_scale

    def forward(self, batch: Batch, regions: bool = False) -> Embeddings:
        """Embeddings for L_global and, with ``regions``, for L_region and L_hard."""
        regions = regions and bool(batch.region_captions)
        frames = self.encode_frames(batch.frames, patches=regions)
        v = self.pool_frames(frames.v, batch.mask).embedding
        if not regions:
            return Embeddings(v, self.encode_text(batch.global_captions), batch.global_captions)
        v_r = self.encode_regions(frames.patches, batch.region_clip, batch.boxes, batch.region_mask)
        negatives, mask = fill_negatives(batch.hard_negatives, batch.region_captions)
        t = self.encode_text([*batch.global_captions, *batch.region_captions, *negatives])
        t, t_r, t_neg = t.split([len(v), len(v_r), len(negatives)])
        t_neg, mask = t_neg.unflatten(0, mask.shape), mask.to(t.device)
        return Embeddings(v, t, batch.global_captions, v_r, t_r, t_neg, mask, batch.region_captions)

    def encode_frames(self, frames: Tensor, patches: bool = False) -> Frames:
        """frames (B, T, 3, H, W) uint8 -> v and, with ``patches``, patch grids, in one pass."""
        kind = self.patch_tokens if patches else None
        pixels = self.normalise_pixels(frames.flatten(0, 1))
        v, grids = image_and_patches(self.clip.visual, pixels, kind)
        return Frames(normalize(v.float(), dim=-1).unflatten(0, frames.shape[:2]), grids)

    def pool_frames(self, v: Tensor, mask: Tensor) -> ClipEmbedding:
        """Temporal transformer, attention pooling (supplementary C.1): v (B, T, D), mask (B, T)."""
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
        temporal transformer on them (paper, Method). Shapes as in ``region_sequence``."""
        sequence = region_sequence(patches, region_clip, boxes, region_mask)  # (R, T, D)
        if self.region_pooling == "temporal":
            return self.pool_frames(normalize(sequence, dim=-1), region_mask).embedding
        return normalize(sequence.sum(dim=1) / region_mask.sum(dim=1, keepdim=True), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (C, D); a text that occurs twice is encoded once."""
        row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        tokens = self.backbone.tokenizer(list(row)).to(self.mean.device)
        embeddings = normalize(self.clip.encode_text(tokens).float(), dim=-1)
        return embeddings[[row[text] for text in texts]]

    def image_features(self, frames: Tensor) -> Tensor:
        """frames (F, 3, H, W) uint8 -> projected features (F, D), not normalised."""
        return self.clip.visual(self.normalise_pixels(frames)).float()

    def normalise_pixels(self, frames: Tensor) -> Tensor:
        """frames (F, 3, H, W) uint8 -> (pixel / 255 - mean) / std of the backbone."""
        if frames.dtype != torch.uint8 or frames.shape[-2:] != self.image_size:
            raise InputError(
                f"frames must be uint8 pixels of size {self.image_size} (H, W), the backbone's, "
                f"not {frames.dtype} of {tuple(frames.shape[-2:])}"
            )
        return torch.addcmul(-self.mean / self.std, frames.float(), 1 / (255 * self.std))


def fill_negatives(
    negatives: Sequence[Sequence[str]], captions: Sequence[str]
) -> tuple[list[str], Tensor]:
    """Pad R lists of hard negatives to R * K texts, with a mask (R, K) True where one exists.

    K is at least the paper's 3. The padding is the region's own caption, which is encoded anyway.
    """
    k = max([K, *map(len, negatives)])
    texts = [
        text
        for row, caption in zip(negatives, captions, strict=True)
        for text in [*row, *[caption] * (k - len(row))]
    ]
    return texts, torch.tensor([[i < len(row) for i in range(k)] for row in negatives])


class TemporalTransformer(nn.Module):
    """Pre-LN transformer f over frames (supplementary C.1): z = v + W f(v + positions).

    W starts at zero, which is our choice: at step 0 the model is exactly CLIP.
    """

    def __init__(self, width: int, layers: int = 2, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(MAX_FRAMES, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, v: Tensor, mask: Tensor) -> Tensor:
        """v (B, T, D), mask (B, T) True where real -> z (B, T, D); padding is never attended."""
        if v.shape[1] > len(self.positions):
            raise InputError(f"num_frames is {v.shape[1]}, the most is {len(self.positions)}")
        x = self.encoder(v + self.positions[: v.shape[1]], src_key_padding_mask=~mask)
        return v + self.out(x)


class AttentionPooling(nn.Module):
    """Frame weights alpha_t: softmax of a two-layer MLP over real frames, uniform at step 0."""

    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        nn.init.zeros_(self.score[-1].weight)
        nn.init.zeros_(self.score[-1].bias)

    def forward(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, T, D), mask (B, T) -> z_video = sum_t alpha_t z_t (B, D), alpha (B, T)."""
        scores = self.score(z).squeeze(-1).float().masked_fill(~mask, float("-inf"))
        weights = scores.softmax(dim=1)
        return (weights[..., None] * z).sum(dim=1), weights


def roi_features(patches: Tensor, frame: Tensor, boxes: Tensor) -> Tensor:
    """f_t^roi: ROI Align of a box to the grid's own size, then the mean over the cells.

    patches (F, D, h, w), frame (M,) index of each box's grid, boxes (M, 4) normalised x1 y1 x2 y2
    -> (M, D). Coordinates stay continuous; a whole-frame box gives the grid's mean.
    """
    height, width = patches.shape[-2:]
    corners = boxes.float() * boxes.new_tensor([width, height, width, height])
    one_hot = torch.eye(height * width, device=boxes.device).view(1, -1, height, width)
    pooled = roi_align(one_hot, [corners], (height, width), sampling_ratio=2, aligned=True)
    weights = pooled.mean(dim=(2, 3))  # (M, h * w): weight of each cell in a box's mean
    # f is the weighted sum of the frame's cells; ROI Align on all D channels costs 7 times as much.
    cells = patches.float().flatten(2).transpose(1, 2)  # embedding_bag wants the weights' dtype
    first = frame.long()[:, None] * weights.shape[1]
    rows = first + torch.arange(weights.shape[1], device=first.device)
    return embedding_bag(rows, cells.flatten(0, 1), per_sample_weights=weights, mode="sum")


def region_sequence(
    patches: Tensor, region_clip: Tensor, boxes: Tensor, region_mask: Tensor
) -> Tensor:
    """f_t^roi of R regions in every frame: (R, T, D), zero where the region has no box.

    patches (B * T, D, h, w); region_clip (R,) clip index; boxes (R, T, 4); region_mask (R, T).
    """
    regions, frames = region_mask.shape
    frame = region_clip[:, None] * frames + torch.arange(frames, device=boxes.device)  # (R, T)
    features = roi_features(patches, frame[region_mask], boxes[region_mask])
    sequence = features.new_zeros(regions, frames, patches.shape[1])
    sequence[region_mask] = features
    return sequence
