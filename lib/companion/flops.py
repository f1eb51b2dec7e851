"""FLOPs of every module by closed formula (supplementary D.1, Table 5).

A multiply-add is two FLOPs. fvcore, which the paper used, counts it as one and adds five per
element that a LayerNorm normalises: ``Cost.fvcore``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pandas as pd

from alertclip.errors import InputError

FRAMES, CLIPS = 256, 3726  # of the paper; clips: VAGTA's training items
TABLE5 = {  # fvcore's operations
    "vision encoder": 4.501e12,
    "visual projection": 0.101e9,
    "temporal transformer": 1.076e9,
    "text encoder": 10.133e9,
    "text projection": 0.262e9,
    "ROI projection": 0.503e9,
}
MODELS = ("ViT-B-32-quickgelu", "ViT-B-16-quickgelu")  # what the paper names, what it counts
CONTEXTS = (77, 248)  # CLIP's tokens, and the number at which the paper's text figure comes out
BOXES = 5  # per frame: what the paper's 0.503 G for the ROI projection amounts to
K = 3  # hard negatives per region


class Cost(NamedTuple):
    """Multiply-adds of matrix products, and elements that a LayerNorm normalises."""

    macs: int
    normalised: int = 0

    @property
    def flops(self) -> int:
        """Floating point operations of the products."""
        return 2 * self.macs

    @property
    def fvcore(self) -> int:
        """Operations as fvcore counts them."""
        return self.macs + 5 * self.normalised

    def times(self, count: int) -> "Cost":
        """The cost of doing it ``count`` times."""
        return Cost(count * self.macs, count * self.normalised)


def blocks(layers: int, width: int, tokens: int, mlp: float = 4) -> Cost:
    """Pre-LN blocks over ``tokens``: four projections, scores and their use, MLP."""
    macs = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * int(width * mlp)
    return Cost(macs, 2 * tokens * width).times(layers)


@dataclass(frozen=True)
class Sizes:
    """Sizes of AlertCLIP on open_clip's own towers."""

    vision: Mapping[str, Any]  # vision_cfg
    text: Mapping[str, Any]  # text_cfg
    embed_dim: int
    grid: tuple[int, int]  # patches
    context: int
    temporal_layers: int = 2

    @classmethod
    def of(
        cls, config: Mapping[str, Any], temporal_layers: int = 2, context: int | None = None
    ) -> "Sizes":
        """From open_clip's model_cfg; InputError for towers that are not open_clip's own."""
        vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
        if "patch_size" not in vision or "width" not in text:
            raise InputError("FLOPs are counted for open_clip's own ViT and text tower only")
        size = vision["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        grid = (height // vision["patch_size"], width // vision["patch_size"])
        length = context or text.get("context_length", 77)
        return cls(vision, text, config["embed_dim"], grid, length, temporal_layers)

    @property
    def patches(self) -> int:
        """Patches of one frame."""
        return self.grid[0] * self.grid[1]

    def modules(self, frames: int = FRAMES) -> dict[str, Cost]:
        """The rows of Table 5 for one clip and one text, and those that it leaves out."""
        width, d = self.vision["width"], self.embed_dim
        tokens, pixels = self.patches + 1, 3 * self.vision["patch_size"] ** 2
        inside = blocks(self.vision["layers"], width, tokens, self.vision.get("mlp_ratio", 4))
        norms = inside.normalised + (tokens + 1) * width  # before the blocks, and the class token's
        frame = Cost(self.patches * width * pixels + inside.macs, norms)
        text_width, mlp = self.text["width"], self.text.get("mlp_ratio", 4)
        text = blocks(self.text["layers"], text_width, self.context, mlp)
        temporal = blocks(self.temporal_layers, d, frames)
        return {
            "vision encoder": frame.times(frames),
            "visual projection": Cost(frames * width * d),
            "temporal transformer": Cost(
                temporal.macs + frames * d**2, temporal.normalised + frames * d
            ),
            "attention pooling": Cost(frames * (d * 256 + 256)),
            "text encoder": Cost(text.macs, text.normalised + self.context * text_width),
            "text projection": Cost(text_width * d),
            "ROI projection": Cost(self.patches * width * d, self.patches * width).times(frames),
            "ROI Align": Cost(BOXES * self.patches * 16 * d).times(frames),  # 2 x 2 x 4 per cell
            "losses": Cost((8**2 + 8**2 + K * 8) * d),
        }

    def as_published(self, frames: int = FRAMES) -> dict[str, Cost]:
        """Where Table 5 counts less: no attention in the temporal blocks, boxes for patches."""
        d = self.embed_dim
        mlp = Cost(8 * frames * d**2, 2 * frames * d).times(self.temporal_layers)
        roi = Cost(frames * BOXES * self.vision["width"] * d)
        return {"temporal transformer": mlp, "ROI projection": roi}

    def clip_flops(self, frames: int) -> int:
        """FLOPs from the pixels of one clip to its embedding: the work of Table 7."""
        names = ("vision encoder", "visual projection", "temporal transformer")
        found = self.modules(frames)
        return sum(found[name].flops for name in (*names, "attention pooling"))

    def training_flops(self, frames: int, texts: float, regions: bool) -> float:
        """Least FLOPs to train on one clip with ``texts`` captions: twice the forward pass.

        With frozen weights the backward pass needs the gradient of the activations only.
        """
        found = self.modules(frames)
        forward = self.clip_flops(frames)
        forward += texts * (found["text encoder"].flops + found["text projection"].flops)
        return 2 * (forward + regions * found["ROI projection"].flops)


def flops_table() -> pd.DataFrame:
    """Table 5 for both models and both text lengths.

    Columns model, context, module, flops, fvcore, as_published (fvcore, of what the paper counts),
    paper, ratio (as_published to paper: 1 where it is this model's figure).
    """
    rows = []
    for name in MODELS:
        for context in CONTEXTS:
            sizes = Sizes.of(open_clip.get_model_config(name), context=context)
            published = sizes.as_published()
            for module, cost in sizes.modules().items():
                counts = cost.flops, cost.fvcore, published.get(module, cost).fvcore
                rows.append((name, context, module, *counts, TABLE5.get(module, np.nan)))
    columns = ["model", "context", "module", "flops", "fvcore", "as_published", "paper"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(ratio=table["as_published"] / table["paper"])
