"""FLOPs of every module by closed formula (supplementary D.1).

A multiply-add is two FLOPs. fvcore, which the paper used, counts it as one and adds five per
normalised element: ``Cost.fvcore`` is that figure, ``Cost.flops`` the floating point operations
of products, which a machine's peak rate counts too. Biases, activations, softmax and sums are left
out, as in both counters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import open_clip
import pandas as pd

from alertclip.errors import InputError
from alertclip.model import K
from companion.efficiency import paper_costs

PAPER_MODELS = ("ViT-B-32-quickgelu", "ViT-B-16-quickgelu")  # what it names, what it counts
PAPER_CONTEXTS = (77, 248)  # CLIP's, and the length at which the paper's text figure comes out
POOLING_HIDDEN = 256  # AttentionPooling's own default
BOXES = 5  # per frame: what the paper's 0.503 G for the ROI projection amounts to


class Cost(NamedTuple):
    """Multiply-adds of matrix products, and elements that a LayerNorm normalises."""

    multiply_adds: int
    normalised: int = 0

    @property
    def flops(self) -> int:
        """Floating point operations of the products."""
        return 2 * self.multiply_adds

    @property
    def fvcore(self) -> int:
        """Operations as fvcore counts them."""
        return self.multiply_adds + 5 * self.normalised


@dataclass(frozen=True)
class Tower:
    """Sizes of a transformer: blocks, width, hidden units of the MLP."""

    layers: int
    width: int
    hidden: int


@dataclass(frozen=True)
class Geometry:
    """Sizes of AlertCLIP: patch grid (rows, columns), patch side in pixels, context in tokens."""

    vision: Tower
    text: Tower
    grid: tuple[int, int]
    patch: int
    context: int
    embed_dim: int
    temporal_layers: int = 2

    @property
    def patches(self) -> int:
        """Patches of one frame."""
        return self.grid[0] * self.grid[1]


def geometry(config: Mapping[str, Any], temporal_layers: int = 2) -> Geometry:
    """Sizes from open_clip's model_cfg; InputError for towers that are not open_clip's own."""
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if "patch_size" not in vision or "width" not in text:
        raise InputError("FLOPs are counted for open_clip's own ViT and text tower only")
    size, patch = vision["image_size"], vision["patch_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return Geometry(
        vision=_tower(vision),
        text=_tower(text),
        grid=(height // patch, width // patch),
        patch=patch,
        context=text.get("context_length", 77),
        embed_dim=config["embed_dim"],
        temporal_layers=temporal_layers,
    )


def _tower(config: Mapping[str, Any]) -> Tower:
    width = config["width"]
    return Tower(config["layers"], width, int(width * config.get("mlp_ratio", 4)))


def block(tower: Tower, tokens: int) -> Cost:
    """One pre-LN block over ``tokens``: q, k, v, out; scores and their use; the MLP."""
    projections = 4 * tokens * tower.width**2
    attention = 2 * tokens**2 * tower.width
    mlp = 2 * tokens * tower.width * tower.hidden
    return Cost(projections + attention + mlp, 2 * tokens * tower.width)


def vision_encoder(g: Geometry) -> Cost:
    """One frame: patch embedding, blocks, and the norms before (all tokens) and after (class)."""
    tokens, width = g.patches + 1, g.vision.width
    inside = block(g.vision, tokens)
    embedding = g.patches * width * 3 * g.patch**2
    normalised = g.vision.layers * inside.normalised + (tokens + 1) * width
    return Cost(embedding + g.vision.layers * inside.multiply_adds, normalised)


def visual_projection(g: Geometry, tokens: int = 1) -> Cost:
    """``tokens`` of one frame into the joint space; the class token alone at inference."""
    return Cost(tokens * g.vision.width * g.embed_dim)


def text_encoder(g: Geometry) -> Cost:
    """One text of ``g.context`` tokens; the tower runs over all of them, whatever its length."""
    inside = block(g.text, g.context)
    normalised = g.text.layers * inside.normalised + g.context * g.text.width
    return Cost(g.text.layers * inside.multiply_adds, normalised)


def text_projection(g: Geometry) -> Cost:
    """The end token of one text into the joint space."""
    return Cost(g.text.width * g.embed_dim)


def temporal_transformer(g: Geometry, frames: int) -> Cost:
    """One clip of ``frames``: blocks, final norm, and the zero-started output layer."""
    inside = block(Tower(g.temporal_layers, g.embed_dim, 4 * g.embed_dim), frames)
    products = g.temporal_layers * inside.multiply_adds + frames * g.embed_dim**2
    return Cost(products, g.temporal_layers * inside.normalised + frames * g.embed_dim)


def attention_pooling(g: Geometry, frames: int) -> Cost:
    """One clip: the two-layer MLP that weighs frames; the weighted sum is no matrix product."""
    return Cost(frames * (g.embed_dim * POOLING_HIDDEN + POOLING_HIDDEN))


def roi_projection(g: Geometry) -> Cost:
    """One frame in Stage II: every patch token normed and projected before ROI Align."""
    return visual_projection(g, g.patches)._replace(normalised=g.patches * g.vision.width)


def roi_align(g: Geometry, boxes: int) -> Cost:
    """Interpolation of ``boxes``: grid cells x 2 x 2 samples x 4 neighbours, per channel."""
    return Cost(boxes * g.patches * 4 * 4 * g.embed_dim)


def losses(g: Geometry, clips: int, regions: int) -> Cost:
    """Similarities of the three objectives: clips and regions against texts, K hard negatives."""
    return Cost((clips**2 + regions**2 + K * regions) * g.embed_dim)


def modules(g: Geometry, frames: int = paper_costs.FRAMES, boxes: int = BOXES) -> dict[str, Cost]:
    """The rows of Table 5 for one clip of ``frames`` and one text, and those it leaves out."""
    return {
        "vision encoder": _times(vision_encoder(g), frames),
        "visual projection": _times(visual_projection(g), frames),
        "temporal transformer": temporal_transformer(g, frames),
        "attention pooling": attention_pooling(g, frames),
        "text encoder": text_encoder(g),
        "text projection": text_projection(g),
        "ROI projection": _times(roi_projection(g), frames),
        "ROI Align": _times(roi_align(g, boxes), frames),
        "losses": losses(g, clips=8, regions=8),
    }


def as_published(
    g: Geometry, frames: int = paper_costs.FRAMES, boxes: int = BOXES
) -> dict[str, Cost]:
    """Where Table 5 counts something else: blocks without their attention, boxes for patches.

    fvcore does not see inside torch's attention; 0.503 G are five projected boxes per frame.
    """
    mlp = Cost(8 * frames * g.embed_dim**2, 2 * frames * g.embed_dim)
    return {
        "temporal transformer": _times(mlp, g.temporal_layers),
        "ROI projection": _times(visual_projection(g, boxes), frames),
    }


def clip_flops(g: Geometry, frames: int) -> int:
    """FLOPs from the pixels of one clip to its embedding: Table 7's work."""
    found = modules(g, frames)
    names = ("vision encoder", "visual projection", "temporal transformer", "attention pooling")
    return sum(found[name].flops for name in names)


def training_flops(g: Geometry, frames: int, texts: float, regions: bool) -> float:
    """Least FLOPs to train on one clip with ``texts`` captions: twice the forward pass.

    With frozen weights the backward pass needs the gradient of the activations only, as much as
    the forward pass; the gradients of adapters are left out. Recomputing adds half of it again.
    """
    forward = clip_flops(g, frames)
    forward += texts * (text_encoder(g).flops + text_projection(g).flops)
    forward += frames * roi_projection(g).flops if regions else 0
    return 2 * forward


def table(
    names: Sequence[str] = PAPER_MODELS, contexts: Sequence[int] = PAPER_CONTEXTS
) -> pd.DataFrame:
    """Table 5 for open_clip models and text lengths.

    Columns model, context, module, flops, fvcore, as_published (fvcore, of the parts that the paper
    counts), paper, ratio (as_published to paper: 1 where it is this model's figure).
    """
    rows = []
    for name, context in product(names, contexts):
        g = replace(geometry(open_clip.get_model_config(name)), context=context)
        published = as_published(g)
        for module, cost in modules(g).items():
            counts = (cost.flops, cost.fvcore, published.get(module, cost).fvcore)
            rows.append((name, context, module, *counts, paper_costs.TABLE5.get(module, np.nan)))
    names = ["model", "context", "module", "flops", "fvcore", "as_published", "paper"]
    found = pd.DataFrame(rows, columns=names)
    return found.assign(ratio=found["as_published"] / found["paper"])


def _times(cost: Cost, count: int) -> Cost:
    return Cost(count * cost.multiply_adds, count * cost.normalised)
