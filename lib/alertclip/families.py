"""What the families do differently: how a vision tower comes apart, and where its weights live."""

from typing import Protocol

from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from alertclip.blip import BlipVision
from alertclip.clip_tower import ClipTower
from alertclip.siglip import SiglipTower


class Tower(Protocol):
    """A vision tower in steps: F frames, N tokens, h * w of them patches, D dimensions."""

    blocks: nn.ModuleList
    grid: tuple[int, int]  # h, w

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (F, 3, H, W) -> tokens (F, N, width) before the first block."""

    def image(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block -> image features (F, D), not normalised."""

    def patches(self, tokens: Tensor) -> Tensor:
        """The same tokens -> patch tokens (F, h * w, D) in the space of the texts."""

    def value_path(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block whose tokens attend to themselves only: x (F, N, width) -> the same shape."""


def take_apart(visual: nn.Module) -> Tower:
    """The steps of a backbone's vision tower."""
    if isinstance(visual, BlipVision):
        return visual
    return SiglipTower(visual) if isinstance(visual, TimmModel) else ClipTower(visual)
