"""Figures: each function turns a tidy table into a matplotlib Figure.

params/facts/figures.yaml lists those drawn from a CSV alone; notebooks call those that need frames.
"""

from companion.figures.images import boxes_on_frames, frame_grid, kept_patches, removed_gallery
from companion.figures.style import Figure, committed
from media.files import write_table

__all__ = [
    "Figure", "boxes_on_frames", "committed", "frame_grid", "kept_patches",
    "removed_gallery", "write_table",
]  # fmt: skip
