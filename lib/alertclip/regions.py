"""Region features by ROI Align on the projected patch grid (supplementary C.2)."""

import torch
from torch import Tensor
from torchvision.ops import roi_align


def roi_features(patches: Tensor, frame: Tensor, boxes: Tensor) -> Tensor:
    """f_t^roi: ROI Align of a box to the grid's own size, then the mean over the cells.

    patches (F, D, h, w), frame (M,) which grid each box lies on, boxes (M, 4) normalised
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
    Raises ValueError if a region has no frame at all: it has no feature.
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
