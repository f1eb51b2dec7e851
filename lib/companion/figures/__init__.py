"""One function per figure: a tidy table in, a matplotlib Figure out, shown by a notebook's cell.

params/facts/figures.yaml names those that a CSV holds; notebooks call those of frames themselves.
"""

from companion.figures.images import boxes_on_frames, frame_grid, kept_patches, removed_gallery
from companion.figures.style import Figure, committed
from media.files import write_table

__all__ = [
    "Figure", "boxes_on_frames", "committed", "frame_grid", "kept_patches",
    "removed_gallery", "write_table",
]  # fmt: skip
