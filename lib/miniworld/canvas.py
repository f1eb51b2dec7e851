"""Anti-aliased sub-pixel drawing on an RGB image, in two styles."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import cv2
import numpy as np

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Points = Sequence[tuple[float, float]]

SHIFT = 4  # 1/16 pixel: slow motion stays smooth at 320x240
ONE = 1 << SHIFT
INK: Colour = (38, 36, 48)


@lru_cache(maxsize=4096)
def shade(colour: Colour, factor: float) -> Colour:
    """The colour darkened (factor < 1) or lightened (factor > 1)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)
    return tuple(int(255 - (255 - c) / factor) for c in colour)


def union(boxes: Sequence[Box]) -> Box:
    """Smallest box around ``boxes``."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


class Canvas:
    """An RGB image and the few shapes the world is made of.

    style "flat" fills shapes; "line" fills them in pastel and outlines them in ink.
    """

    def __init__(self, image: np.ndarray, style: str = "flat") -> None:
        self.image = image
        self.line = style == "line"

    def tone(self, colour: Colour) -> Colour:
        """The colour as drawn in this style."""
        return tuple(int(c * 0.62 + 94) for c in colour) if self.line else colour

    def polygon(self, points: Points, colour: Colour, outline: bool = True) -> None:
        """Fill a polygon; ``outline=False`` draws no ink, as for large areas."""
        fixed = _fixed(points)
        cv2.fillPoly(self.image, [fixed], self.tone(colour), cv2.LINE_AA, SHIFT)
        if self.line and outline:
            cv2.polylines(self.image, [fixed], True, INK, 1, cv2.LINE_AA, SHIFT)

    def rectangle(
        self, x1: float, y1: float, x2: float, y2: float, colour: Colour, outline: bool = True
    ) -> None:
        """Fill an axis-parallel rectangle."""
        self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], colour, outline)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, angle: float = 0.0,
        arc: tuple[float, float] = (0.0, 360.0), outline: bool = True,
    ) -> None:  # fmt: skip
        """Fill an ellipse or a sector of it (degrees)."""
        axes = (max(1, round(rx * ONE)), max(1, round(ry * ONE)))
        shape = ((round(x * ONE), round(y * ONE)), axes, angle, *arc)
        cv2.ellipse(self.image, *shape, self.tone(colour), -1, cv2.LINE_AA, SHIFT)
        if self.line and outline:
            cv2.ellipse(self.image, *shape, INK, 1, cv2.LINE_AA, SHIFT)

    def stroke(self, points: Points, width: float, colour: Colour) -> None:
        """Draw a polyline with round ends, ``width`` pixels wide."""
        thickness, fixed = max(1, round(width)), _fixed(points)
        if self.line and thickness > 2:
            cv2.polylines(self.image, [fixed], False, INK, thickness + 2, cv2.LINE_AA, SHIFT)
        cv2.polylines(self.image, [fixed], False, self.tone(colour), thickness, cv2.LINE_AA, SHIFT)

    @contextmanager
    def translucent(self, alpha: float, boxes: Sequence[Box]) -> Iterator[None]:
        """Blend in by ``alpha`` what the block draws; it must stay in the rows of ``boxes``."""
        _, top, _, bottom = union(boxes) if boxes else (0, 0, 0, 0)
        rows = self.image[max(0, int(top) - 3) : max(0, int(bottom) + 4)]  # room for ink
        before = rows.copy()
        yield
        if rows.size:
            cv2.addWeighted(rows, alpha, before, 1 - alpha, 0, dst=rows)


def _fixed(points: Points) -> np.ndarray:
    return np.array([[round(x * ONE), round(y * ONE)] for x, y in points], np.int32)
