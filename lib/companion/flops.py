"""FLOPs: counted by torch on a model, and in closed form for the papers' models.

The paper used fvcore, which counts a multiply-add as one operation and adds five for every element
that a LayerNorm normalises. Neither counter includes biases, activations, softmax or sums.
"""

from itertools import product

import numpy as np
import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alertclip.model import AlertCLIP, K
from companion.paper_numbers import value

FRAMES, SIDE, DIM, BOXES = 256, 224, 512, 5  # BOXES: from Table 5's ROI projection, 0.503 G
FVCORE = np.array([1, 5])  # weights of (multiply-adds, normalised elements)
# Patch side, width and layers of the vision tower that the paper names, and of the one it counts.
VIT = {"ViT-B-32-quickgelu": (32, 768, 12), "ViT-B-16-quickgelu": (16, 768, 12)}
CONTEXTS = (77, 248)  # CLIP's text length, and the one of the paper's figure
TABLE5 = "Alert-CLIP supplementary | Table 5 | {} | FLOPs"
PAPER_ROWS = {  # module -> its row in Table 5 and the unit of that row
    "vision encoder": ("Vision encoder (CLIP-B/32)", 1e12),
    "visual projection": ("Visual projection", 1e9),
    "temporal transformer": ("Temporal Transformer (2 layers)", 1e9),
    "text encoder": ("Text encoder", 1e9),
    "text projection": ("Text projection", 1e9),
    "ROI projection": ("ROI projection (train only)", 1e9),
}


@torch.no_grad()
def count_flops(model: AlertCLIP, frames: int, texts: int = 0, regions: bool = False) -> int:
    """FLOPs of one clip's forward pass, a multiply-add counted as two.

    Includes encoding of ``texts`` texts and, with ``regions``, projecting every patch (Stage II).
    """
    device, training = model.mean.device, model.training
    pixels = torch.zeros(1, frames, 3, *model.image_size, dtype=torch.uint8, device=device)
    mask = torch.ones(1, frames, dtype=torch.bool, device=device)
    model.train()  # torch's fused attention of eval mode escapes the counter
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.pool_frames(model.encode_frames(pixels, patches=regions).v, mask)
        if texts:
            model.encode_text([f"text {i}" for i in range(texts)])
    model.train(training)
    return counter.get_total_flops()


def cost(multiply_adds: int, normalised: int = 0) -> np.ndarray:
    """Multiply-adds of matrix products, and elements that a LayerNorm normalises: (2,)."""
    return np.array([multiply_adds, normalised])


def transformer(layers: int, tokens: int, width: int) -> np.ndarray:
    """Pre-LN blocks: q, k, v, out and MLP (12 width^2 a token), attention scores and their use."""
    multiply_adds = 12 * tokens * width**2 + 2 * tokens**2 * width
    return layers * cost(multiply_adds, 2 * tokens * width)


def clip_costs(patch: int, width: int, layers: int, context: int = 77) -> dict[str, np.ndarray]:
    """Cost of each module of Alert-CLIP for a clip of 256 frames of 224 x 224 and one text."""
    patches = (SIDE // patch) ** 2
    embedding = cost(patches * width * 3 * patch**2, (patches + 2) * width)
    return {
        "vision encoder": FRAMES * (embedding + transformer(layers, patches + 1, width)),
        "visual projection": FRAMES * cost(width * DIM),
        "temporal transformer": transformer(2, FRAMES, DIM) + cost(FRAMES * DIM**2, FRAMES * DIM),
        "attention pooling": FRAMES * cost(DIM * 256 + 256),
        "text encoder": transformer(12, context, DIM) + cost(0, context * DIM),
        "text projection": cost(DIM**2),
        "ROI projection": FRAMES * cost(patches * width * DIM, patches * width),
        "ROI Align": FRAMES * cost(BOXES * patches * 4 * 4 * DIM),  # 2 x 2 samples, 4 neighbours
        "losses": cost((8**2 + 8**2 + K * 8) * DIM),
    }


def as_published(width: int) -> dict[str, np.ndarray]:
    """What Table 5 counts differently: blocks without attention, five boxes for all patches."""
    return {
        "temporal transformer": 2 * FRAMES * cost(8 * DIM**2, 2 * DIM),
        "ROI projection": FRAMES * cost(BOXES * width * DIM),
    }


def table5() -> pd.DataFrame:
    """Table 5 for both candidate backbones and text lengths.

    Columns model, context, module, flops, fvcore, as_published (fvcore, of the parts that the paper
    counts), paper, ratio (as_published / paper: 1 where it is this model's number).
    """
    rows = []
    for (name, tower), context in product(VIT.items(), CONTEXTS):
        published = as_published(tower[1])
        for module, costs in clip_costs(*tower, context).items():
            row, unit = PAPER_ROWS.get(module, ("", 1))
            paper = value(TABLE5.format(row)) * unit if row else np.nan
            fvcore = [int(c @ FVCORE) for c in (costs, published.get(module, costs))]
            rows.append((name, context, module, 2 * int(costs[0]), *fvcore, paper))
    columns = ["model", "context", "module", "flops", "fvcore", "as_published", "paper"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(ratio=table["as_published"] / table["paper"])
