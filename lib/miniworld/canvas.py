"""Sub-pixel, anti-aliased drawing in two styles on an RGB image."""

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
NOTHING = (1 << 30, 1 << 30, -(1 << 30), -(1 << 30))
INK: Colour = (38, 36, 48)


@lru_cache(maxsize=4096)
def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor < 1) or lighten (factor > 1) a colour."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)
    return tuple(int(255 - (255 - c) / factor) for c in colour)


def union(boxes: Sequence[Box]) -> Box:
    """Smallest box around ``boxes``."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


class Canvas:
    """An RGB image with the few shapes the world is made of.

    style "flat" fills shapes; "line" fills them with pastel and draws their outline in ink.
    ``drawn`` is the box (x1 y1 x2 y2, pixels) around all shapes so far.
    """

    def __init__(self, image: np.ndarray, style: str = "flat") -> None:
        self.image = image
        self.line = style == "line"
        self.drawn = NOTHING

    def tone(self, colour: Colour) -> Colour:
        """The colour as this style prints it."""
        return tuple(int(c * 0.62 + 94) for c in colour) if self.line else colour

    def part(self, margin: int = 0) -> tuple[slice, slice]:
        """Rows and columns that hold what was drawn, and a margin around."""
        left, top, right, bottom = self.drawn
        rows = slice(max(0, top - margin), max(0, bottom + margin))
        return rows, slice(max(0, left - margin), max(0, right + margin))

    def _note(self, left: int, top: int, right: int, bottom: int) -> None:
        x1, y1, x2, y2 = self.drawn
        self.drawn = min(x1, left), min(y1, top), max(x2, right), max(y2, bottom)

    def _fixed(self, points: Points, width: int) -> np.ndarray:
        """Points in fixed point, noted as drawn with strokes of ``width`` pixels about them."""
        xs, ys = ([round(value * ONE) for value in axis] for axis in zip(*points, strict=True))
        pad = width // 2 + 4  # anti-aliasing
        left, top = (min(xs) >> SHIFT) - pad, (min(ys) >> SHIFT) - pad
        self._note(left, top, (max(xs) >> SHIFT) + pad, (max(ys) >> SHIFT) + pad)
        return np.array([*zip(xs, ys, strict=True)], np.int32)

    def polygon(self, points: Points, colour: Colour, outline: bool = True) -> None:
        """Fill a polygon; ``outline=False`` spares the ink of large areas."""
        fixed = self._fixed(points, 1)
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
        centre = (round(x * ONE), round(y * ONE))
        axes = (max(1, round(rx * ONE)), max(1, round(ry * ONE)))
        shape = (centre, axes, angle, *arc)
        reach = int(max(rx, ry)) + 5
        self._note(int(x) - reach, int(y) - reach, int(x) + reach, int(y) + reach)
        cv2.ellipse(self.image, *shape, self.tone(colour), -1, cv2.LINE_AA, SHIFT)
        if self.line and outline:
            cv2.ellipse(self.image, *shape, INK, 1, cv2.LINE_AA, SHIFT)

    def stroke(self, points: Points, width: float, colour: Colour) -> None:
        """A polyline with round ends, ``width`` pixels wide."""
        thickness = max(1, round(width))
        fixed = self._fixed(points, thickness + 2)
        if self.line and thickness > 2:
            cv2.polylines(self.image, [fixed], False, INK, thickness + 2, cv2.LINE_AA, SHIFT)
        cv2.polylines(self.image, [fixed], False, self.tone(colour), thickness, cv2.LINE_AA, SHIFT)

    @contextmanager
    def translucent(self, alpha: float) -> Iterator["Canvas"]:
        """What is drawn inside the block is mixed in with weight ``alpha``."""
        before, drawn, self.drawn = self.image.copy(), self.drawn, NOTHING
        yield self
        part = self.part()
        if (new := self.image[part]).size:
            new[:] = cv2.addWeighted(new, alpha, before[part], 1 - alpha, 0)
        self._note(*drawn)
