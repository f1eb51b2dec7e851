"""From frames to a clip (supplementary C.1), and from patches to a region (C.2)."""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from alertclip.errors import InputError

MAX_FRAMES = 256  # Table 4


class TemporalTransformer(nn.Module):
    """Pre-LN transformer over frames: z = v + W f(v + positions), where W starts at zero.

    The zero start is our choice: at step 0 the model is exactly CLIP.
    """

    def __init__(
        self,
        width: int,
        layers: int = 2,
        heads: int = 8,
        dropout: float = 0.1,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(max_frames, width) * 0.02)
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
    """Frame weights alpha_t by a two-layer MLP, softmax over real frames; uniform at the start."""

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

    patches (F, D, h, w), frame (M,) the grid that each box lies on, boxes (M, 4) normalised
    x1 y1 x2 y2 -> (M, D). Coordinates stay continuous; the whole frame gives the grid's mean.
    """
    patches = patches.float()  # bf16 would move boxes by a sixteenth of a cell
    height, width = patches.shape[-2:]
    scale = boxes.new_tensor([width, height, width, height])
    rois = torch.cat([frame[:, None].to(boxes), boxes * scale], dim=1).to(patches)
    pooled = roi_align(patches, rois, (height, width), sampling_ratio=2, aligned=True)
    return pooled.mean(dim=(2, 3))


def region_sequence(
    patches: Tensor, region_clip: Tensor, boxes: Tensor, region_mask: Tensor
) -> Tensor:
    """f_t^roi of R regions in every frame: (R, T, D), zero where the region has no box.

    patches (B * T, D, h, w); region_clip (R,) which clip; boxes (R, T, 4); region_mask (R, T).
    Raises ValueError if a region has a box in no frame: it has no feature.
    """
    if not region_mask.any(dim=1).all():
        empty = (~region_mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"regions {empty} of the batch have a box in none of the sampled frames")
    regions, frames = region_mask.shape
    number = region_clip[:, None] * frames + torch.arange(frames, device=boxes.device)  # (R, T)
    found = roi_features(patches, number[region_mask], boxes[region_mask])
    sequence = found.new_zeros(regions, frames, patches.shape[1])
    sequence[region_mask] = found
    return sequence
