"""Backgrounds: one drawing function per scene, called once per clip."""

from collections.abc import Callable, Sequence

import numpy as np

from miniworld.canvas import Canvas, Colour, shade
from miniworld.plan import HEIGHT, WIDTH, Plan

W, H = WIDTH, HEIGHT
Draw = Callable[[Canvas, np.random.Generator], None]

HOUSES = ((166, 120, 98), (122, 138, 134), (186, 168, 138))
PARKED = ((150, 66, 52), (66, 90, 130), (190, 190, 188), (70, 74, 78))
BOOKS = ((168, 56, 48), (54, 82, 140), (64, 118, 78), (206, 176, 92))


def _vary(rng: np.random.Generator, colour: Colour, spread: int = 14) -> Colour:
    shift = int(rng.integers(-spread, spread + 1))
    return tuple(min(255, max(0, c + shift)) for c in colour)


def _pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    return _vary(rng, colours[rng.integers(len(colours))])


def _sky(c: Canvas, rng: np.random.Generator, horizon: float) -> None:
    top = np.array(_vary(rng, (146, 184, 222), 20), float)
    rows = np.linspace(0, 1, int(horizon))[:, None, None]
    c.image[: int(horizon)] = np.clip(top * (1 - rows) + 232 * rows, 0, 255).astype(np.uint8)


def _floor(c: Canvas, colour: Colour, horizon: float) -> None:
    for k in range(4):
        y = horizon + (H - horizon) * k / 4
        c.rectangle(0, y, W, H, shade(colour, 0.88 + 0.05 * k), outline=False)


def _tree(c: Canvas, rng: np.random.Generator, x: float, base: float, size: float) -> None:
    c.stroke([(x, base), (x, base - 0.5 * size)], 0.12 * size, (98, 70, 46))
    green = _vary(rng, (52, 112, 52), 18)
    for dx, dy, r in ((-0.22, 0.62, 0.26), (0.22, 0.64, 0.26), (0, 0.86, 0.3)):
        c.ellipse(x + dx * size, base - dy * size, r * size, r * size, green)
        green = shade(green, 1.06)


def _street(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, rng, 70)
    x = -10.0
    while x < W:
        wide, tall = rng.uniform(38, 74), rng.uniform(62, 112)
        wall = _pick(rng, HOUSES)
        c.rectangle(x, 134 - tall, x + wide, 134, wall)
        for wy in np.arange(134 - tall + 8, 118, 20):
            for wx in np.arange(x + 7, x + wide - 9, 16):
                c.rectangle(wx, wy, wx + 8, wy + 11, (86, 104, 126))
        x += wide
    c.rectangle(0, 132, W, 160, (176, 172, 166), outline=False)
    c.rectangle(0, 160, W, H, _vary(rng, (86, 86, 92)), outline=False)
    for x in range(int(rng.integers(0, 30)), W, 46):
        c.rectangle(x, 184, x + 22, 187, (226, 224, 206), outline=False)


def _park(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, rng, 124)
    for x in np.arange(-10, W + 30, 26):
        _tree(c, rng, x + rng.uniform(-8, 8), 130, rng.uniform(44, 84))
    _floor(c, _vary(rng, (94, 148, 76)), 124)
    y = rng.uniform(158, 176)
    path = [(0, y), (W, y - 10), (W, y + 34), (0, y + 44)]
    c.polygon(path, _vary(rng, (204, 186, 148)), outline=False)


def _square(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, rng, 60)
    wall = _vary(rng, (206, 190, 160))
    c.rectangle(0, 34, W, 128, wall)
    for x in range(int(rng.integers(4, 24)), W, 40):
        c.rectangle(x, 76, x + 22, 128, shade(wall, 0.55))
        c.ellipse(x + 11, 76, 11, 12, shade(wall, 0.55), 0, (180, 360))
        c.rectangle(x + 4, 42, x + 18, 60, (104, 116, 130))
    _floor(c, _vary(rng, (182, 172, 160)), 128)
    for k, y in enumerate((140, 156, 178, 206)):
        c.stroke([(0, y), (W, y)], 1 + k / 3, (150, 140, 130))
    for x in range(-160, W + 160, 40):
        c.stroke([(W / 2 + (x - W / 2) * 0.5, 128), (x * 1.3 - 48, H)], 1, (150, 140, 130))


def _car_park(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, rng, 66)
    c.rectangle(0, 62, W, 116, _vary(rng, (158, 118, 98)))
    for y in range(70, 116, 9):
        c.stroke([(0, y), (W, y)], 1, (134, 98, 84))
    _floor(c, _vary(rng, (104, 102, 106)), 116)
    for x in range(int(rng.integers(-20, 10)), W, 46):
        colour = _pick(rng, PARKED)
        c.rectangle(x + 4, 108, x + 40, 126, colour)
        c.rectangle(x + 10, 98, x + 34, 110, shade(colour, 0.75))
        c.stroke([(x, 130), (x - 9, 152)], 3, (230, 228, 220))


def _bridge(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, rng, 96)
    water = _vary(rng, (84, 124, 152))
    c.rectangle(0, 92, W, 142, water, outline=False)
    for _ in range(14):
        x, y = rng.uniform(0, W), rng.uniform(98, 138)
        c.stroke([(x, y), (x + 18, y)], 1, shade(water, 1.5))
    steel = _vary(rng, (128, 62, 56))
    c.rectangle(0, 108, W, 113, steel)
    for x in range(int(rng.integers(0, 18)), W, 22):
        c.rectangle(x, 110, x + 3, 148, steel)
    for x in (int(rng.integers(10, 60)), int(rng.integers(240, 300))):
        c.stroke([(x, 148), (x, 0)], 8, steel)
    c.stroke([(0, 10), (W / 2, 84), (W, 10)], 4, steel)
    _floor(c, _vary(rng, (132, 130, 130)), 146)


def _playground(c: Canvas, rng: np.random.Generator) -> None:
    _sky(c, rng, 110)
    c.rectangle(0, 92, W, 128, _vary(rng, (70, 120, 84)), outline=False)
    _floor(c, _vary(rng, (214, 190, 132)), 126)
    x = rng.uniform(20, 70)
    frame = _vary(rng, (206, 60, 60))
    c.stroke([(x, 150), (x + 18, 66), (x + 86, 66), (x + 104, 150)], 5, frame)
    for swing in (x + 36, x + 66):
        c.stroke([(swing, 66), (swing + 2, 122)], 2, (60, 60, 64))
        c.rectangle(swing - 8, 120, swing + 12, 125, (50, 90, 170))
    x = rng.uniform(190, 230)
    c.rectangle(x, 76, x + 22, 148, _vary(rng, (60, 110, 190)))
    c.polygon([(x + 22, 80), (x + 92, 144), (x + 78, 150), (x + 20, 98)], (238, 200, 60))
    c.polygon([(x - 6, 76), (x + 11, 52), (x + 28, 76)], (206, 60, 60))


def _station(c: Canvas, rng: np.random.Generator) -> None:
    wall = _vary(rng, (92, 98, 108))
    c.rectangle(0, 0, W, 142, wall, outline=False)
    c.rectangle(0, 0, W, 26, shade(wall, 0.6))
    c.rectangle(0, 52, W, 128, _vary(rng, (62, 64, 72)))
    for x in range(int(rng.integers(-10, 40)), W, 110):
        c.rectangle(x + 22, 26, x + 84, 42, (40, 76, 150))
        c.rectangle(x + 28, 32, x + 78, 36, (232, 236, 240), outline=False)
        c.rectangle(x, 0, x + 11, 150, shade(wall, 1.5))
    c.rectangle(0, 128, W, 142, (44, 42, 44), outline=False)
    _floor(c, _vary(rng, (140, 146, 146)), 142)
    c.rectangle(0, 146, W, 153, (232, 200, 52), outline=False)


def _corridor(c: Canvas, rng: np.random.Generator) -> None:
    wall = _vary(rng, (176, 198, 182))
    c.rectangle(0, 0, W, H, wall, outline=False)
    c.polygon([(0, 0), (W, 0), (206, 44), (114, 44)], (226, 228, 224))
    c.polygon([(0, H), (W, H), (206, 132), (114, 132)], _vary(rng, (154, 146, 130)))
    c.rectangle(114, 44, 206, 132, shade(wall, 0.86))
    door = _vary(rng, (150, 84, 58))
    for far, near in ((102, 78), (58, 22)):
        top, bottom = 44 - (114 - far) * 0.2, 132 + (114 - far) * 0.95
        near_bottom = 132 + (114 - near) * 0.95
        for a, b in ((far, near), (W - far, W - near)):
            c.polygon([(a, top + 16), (a, bottom), (b, near_bottom), (b, top + 8)], door)
    c.rectangle(146, 6, 174, 26, (252, 252, 240))


def _library(c: Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, W, 146, _vary(rng, (222, 214, 198)), outline=False)
    wood = _vary(rng, (128, 88, 56))
    for x in range(int(rng.integers(-40, 0)), W, 80):
        c.rectangle(x, 18, x + 68, 142, wood)
        for y in (26, 64, 102):
            c.rectangle(x + 4, y, x + 64, y + 34, shade(wood, 0.5))
            for bx in np.arange(x + 6, x + 60, 6):
                book = _pick(rng, BOOKS)
                c.rectangle(bx, y + 6 + rng.uniform(0, 8), bx + 5, y + 33, book, outline=False)
    _floor(c, _vary(rng, (176, 140, 106)), 142)


def _shop(c: Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, W, 150, _vary(rng, (234, 228, 216)), outline=False)
    c.rectangle(0, 8, W, 26, _vary(rng, (190, 52, 64)))
    for y in (50, 82, 114):
        c.rectangle(0, y + 22, W, y + 27, (150, 150, 154))
        for x in np.arange(4, W, 15):
            goods = tuple(int(v) for v in rng.integers(60, 240, 3))
            tall = rng.uniform(10, 20)
            if rng.random() < 0.5:
                c.rectangle(x, y + 22 - tall, x + 11, y + 22, goods)
            else:
                c.ellipse(x + 6, y + 16, 6, 6, goods)
    _floor(c, _vary(rng, (206, 208, 206)), 148)
    for x in range(-80, W + 80, 54):
        c.stroke([(W / 2 + (x - W / 2) * 0.6, 148), (x * 1.2 - 32, H)], 1, (170, 172, 172))


DRAW: dict[str, Draw] = {
    "street": _street, "park": _park, "square": _square, "car park": _car_park,
    "bridge": _bridge, "playground": _playground, "station platform": _station,
    "corridor": _corridor, "library": _library, "shop": _shop,
}  # fmt: skip


def background(plan: Plan) -> np.ndarray:
    """The empty scene of a plan, (H, W, 3) uint8 RGB."""
    image = np.full((H, W, 3), 240, np.uint8)
    canvas = Canvas(image, plan.style)
    DRAW[plan.scene](canvas, np.random.default_rng([plan.entropy, 1]))
    if plan.style == "line":
        image[::6] = (image[::6] * 0.93).astype(np.uint8)  # ruled paper
    return image
