"""Objects and effects: cars, window, grill, cabinet, flames, clouds, debris.

Each function draws its thing at (x, y) in pixels and returns its box; lengths are in body heights.
Things that stand on the ground ignore y.
"""

import math
from collections.abc import Sequence

import numpy as np

from miniworld.canvas import Box, Canvas, Colour, shade, union
from miniworld.plan import Plan

Puff = tuple[float, float, float, float, bool]  # x, y, radius, grey, outlined

GLASS: Colour = (150, 186, 206)
FRAME: Colour = (92, 78, 66)
SHARD: Colour = (214, 232, 240)
FLAME = (((226, 62, 24), 1.0), ((250, 150, 30), 0.68), ((255, 232, 110), 0.36))
FIREBALL = (((240, 96, 26), 0.42), ((254, 176, 50), 0.3), ((255, 246, 190), 0.17))
# Outlines relative to the middle of the car on the ground, its nose to the right.
CAR = ((-0.475, 0.08), (-0.475, 0.21), (-0.33, 0.235), (-0.2, 0.37), (0.12, 0.37), (0.26, 0.24))
CAR_WINDOWS = (((-0.28, 0.24), (-0.18, 0.34), (-0.04, 0.34), (-0.04, 0.24)),
               ((-0.01, 0.24), (-0.01, 0.34), (0.1, 0.34), (0.21, 0.24)))  # fmt: skip
TAIL = ((-0.475, 0.15), (-0.475, 0.2), (-0.44, 0.2), (-0.44, 0.15))
CRACK = ((0.2, 0.2), (0.26, 0.13), (0.29, 0.22), (0.33, 0.12), (0.36, 0.2))


def car(
    canvas: Canvas, plan: Plan, x: float, y: float, colour: Colour,
    facing: int = 1, angle: float = 0.0, crumple: float = 0.0, braking: bool = False,
) -> Box:  # fmt: skip
    """A car 0.95 long; ``angle`` (degrees) lifts its front, ``crumple`` in [0,1] shortens it."""
    h, cos, sin = plan.height, math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def at(u: float, v: float) -> tuple[float, float]:
        u, v = u * h, v * h
        return x + facing * (u * cos - v * sin), plan.ground - (v * cos + u * sin)

    nose = 0.475 - 0.12 * crumple
    front = ((nose - 0.05, 0.21 + 0.07 * crumple), (nose, 0.17), (nose, 0.08))
    body = [at(*point) for point in CAR + front]
    canvas.polygon(body, colour)
    for pane in CAR_WINDOWS:
        canvas.polygon([at(*point) for point in pane], GLASS)
    if crumple > 0.3:
        canvas.stroke([at(*point) for point in CRACK], 0.018 * h, shade(colour, 0.35))
    canvas.polygon([at(*point) for point in TAIL], (255, 60, 40) if braking else (130, 20, 20))
    for u in (-0.29, 0.29):
        canvas.ellipse(*at(u, 0.075), 0.078 * h, 0.078 * h, (24, 24, 26))
        canvas.ellipse(*at(u, 0.075), 0.034 * h, 0.034 * h, (150, 150, 152), outline=False)
    xs, ys = zip(*body, strict=True)
    return min(xs), min(ys), max(xs), plan.ground


def window(canvas: Canvas, plan: Plan, x: float, y: float, wiped: float, broken: float) -> Box:
    """A glass panel on legs; ``wiped`` and ``broken`` in [0,1]."""
    h, ground = plan.height, plan.ground
    left, right, top, bottom = x - 0.3 * h, x + 0.3 * h, ground - 1.06 * h, ground - 0.3 * h
    for leg in (left + 0.05 * h, right - 0.05 * h):
        canvas.stroke([(leg, bottom), (leg, ground)], 0.03 * h, (70, 62, 58))
    canvas.rectangle(left - 0.03 * h, top - 0.03 * h, right + 0.03 * h, bottom + 0.03 * h, FRAME)
    canvas.rectangle(left, top, right, bottom, GLASS)
    shine = [(left + 0.1 * h, bottom), (right, top + 0.1 * h)]
    canvas.stroke(shine, 0.02 * h, shade(GLASS, 1.8))
    for k in range(round(wiped * 7)):
        y = top + (0.08 + 0.09 * k) * h
        sweep = [(left + 0.04 * h, y), (x, y - 0.05 * h), (right - 0.06 * h, y)]
        canvas.stroke(sweep, 0.05 * h, shade(GLASS, 2.2))
    if broken > 0:
        _hole(canvas, plan, x - 0.06 * h, ground - 0.72 * h, broken)
        for a, b, c, d in plan.particles[: round(4 + 16 * broken)]:
            u, v = x - 0.1 * h + (a - 0.6) * 0.7 * h, ground - b * 0.07 * h
            r = (0.015 + 0.02 * c) * h
            canvas.polygon([(u - r, v), (u + r * d, v - r * 1.6), (u + r, v + r * 0.3)], SHARD)
    return left - 0.03 * h, top - 0.03 * h, right + 0.03 * h, ground


def _hole(canvas: Canvas, plan: Plan, x: float, y: float, broken: float) -> None:
    h, dots, angles = plan.height, plan.particles, np.linspace(0, 2 * np.pi, 13)[:-1]
    for angle, u in zip(angles, dots[:12, 0], strict=True):
        length = (0.1 + 0.2 * u) * h * min(1.0, 0.5 + broken)
        tip = (x + np.cos(angle) * length, y + np.sin(angle) * length)
        canvas.stroke([(x, y), tip], 0.012 * h, (244, 248, 250))
    radius = (0.05 + 0.14 * broken) * (0.6 + 0.5 * dots[12:24, 1]) * h
    rim = np.stack([x + np.cos(angles) * radius, y + np.sin(angles) * radius], 1)
    canvas.polygon(rim, (26, 26, 32))


def grill(canvas: Canvas, plan: Plan, x: float, y: float) -> Box:
    """A metal box on legs."""
    h, ground = plan.height, plan.ground
    left, right, top, bottom = x - 0.24 * h, x + 0.24 * h, ground - 0.46 * h, ground - 0.24 * h
    for leg in (left + 0.05 * h, right - 0.05 * h):
        canvas.stroke([(leg, bottom), (leg, ground)], 0.035 * h, (44, 42, 44))
    canvas.rectangle(left, top, right, bottom, (86, 74, 70))
    canvas.rectangle(left - 0.02 * h, top - 0.03 * h, right + 0.02 * h, top, (48, 46, 48))
    return left - 0.02 * h, top - 0.03 * h, right + 0.02 * h, ground


def cabinet(canvas: Canvas, plan: Plan, x: float, y: float, open_door: float) -> Box:
    """A boiler cabinet with a lamp; ``open_door`` in [0,1] is the size of the hole torn in it."""
    h, ground = plan.height, plan.ground
    left, right, top = x - 0.2 * h, x + 0.2 * h, ground - 0.58 * h
    canvas.rectangle(left, top, right, ground, (118, 108, 112))
    inset = 0.05 * h
    canvas.rectangle(left + inset, top + 2 * inset, right - inset, ground - 2 * inset, (92, 84, 90))
    canvas.ellipse(x, top + 0.05 * h, 0.03 * h, 0.03 * h, (255, 150, 40), outline=False)
    if open_door > 0:
        w = 0.16 * h * open_door
        hole = [
            (x - w, top + 0.08 * h), (x + 0.3 * w, top + 0.16 * h), (x + w, top + 0.1 * h),
            (x + 0.8 * w, ground - 0.1 * h), (x - 0.2 * w, ground - 0.16 * h),
            (x - w, ground - 0.08 * h),
        ]  # fmt: skip
        canvas.polygon(hole, (28, 22, 22))
    return left, top, right, ground


def flames(
    canvas: Canvas, plan: Plan, x: float, y: float, width: float, height: float, t: float
) -> Box:
    """Flickering tongues on a base line."""
    width, height, dots = width * plan.height, height * plan.height, plan.particles
    for colour, share in FLAME:
        points = [(x - width * share / 2, y)]
        for k in range(9):
            u = (k + 0.5) / 9
            wobble = math.sin(11 * t * (0.7 + dots[k, 0]) + 6.28 * dots[k, 1])
            arch = math.sin(math.pi * (0.12 + 0.76 * u)) * (1 - k % 2 * 0.5)
            peak = height * share * (0.62 + 0.38 * wobble) * arch
            points.append((x + width * share * (u - 0.5), y - peak))
        points.append((x + width * share / 2, y))
        canvas.polygon(points, colour, outline=False)
    return x - width / 2, y - height, x + width / 2, y


def cloud(
    canvas: Canvas, plan: Plan, x: float, y: float, radius: float, rise: float, age: float,
    count: int = 12, alpha: float = 0.75,
) -> Box:  # fmt: skip
    """Puffs rising from (x, y) at ``rise`` per second; ``age`` in seconds since the first."""
    radius, rise = radius * plan.height, rise * plan.height
    puffs = []
    for k in range(count):
        life = age - 0.14 * k
        if life <= 0:
            break
        a, b, c, d = plan.particles[k]
        life = math.fmod(life, 0.14 * count)
        px = x + (a - 0.5) * radius * (0.8 + 1.2 * life)
        py = y - rise * life * (0.7 + 0.6 * b)
        r = radius * (0.45 + 0.4 * c) * min(1.6, 0.4 + 0.8 * life)
        puffs.append((px, py, r, plan.cloud + (d - 0.5) * 36, k % 2 == 0))
    return union([(x - 1, y - 1, x + 1, y + 1), *_puffs(canvas, alpha, 0.92, puffs)])


def _puffs(canvas: Canvas, alpha: float, flat: float, puffs: Sequence[Puff]) -> list[Box]:
    boxes = [(x - r, y - r, x + r, y + r) for x, y, r, *_ in puffs]
    with canvas.translucent(alpha, boxes):
        for x, y, r, grey, outline in puffs:
            tone = int(min(250, max(20, grey)))
            canvas.ellipse(x, y, r, r * flat, (tone, tone, tone), outline=outline)
    return boxes


def blast(canvas: Canvas, plan: Plan, x: float, y: float, age: float) -> Box:
    """An explosion: a fireball for 0.7 s and a spreading cloud."""
    h, spread = plan.height, 1 - math.exp(-4 * age)
    fade, puffs = max(0.0, 1 - age / 3.2), []
    for a, b, c, d in plan.particles[:16]:
        angle, reach = 6.283 * a, (0.15 + 0.35 * b) * spread * h
        px, py = x + math.cos(angle) * reach, y - abs(math.sin(angle)) * reach - 0.08 * age * h
        r = (0.1 + 0.1 * c) * h * spread
        puffs.append((px, py, r, plan.cloud + (d - 0.5) * 40, False))
    boxes = _puffs(canvas, 0.35 + 0.5 * fade, 1.0, puffs)
    if age < 0.7:
        glow = (1 - age / 0.7) ** 0.5
        for colour, share in FIREBALL:
            r = share * h * min(1.0, 0.35 + 3 * age) * glow
            canvas.ellipse(x, y, r, r * 0.95, colour, outline=False)
    return union([(x - 0.2 * h, y - 0.2 * h, x + 0.2 * h, y + 0.2 * h), *boxes])


def debris(canvas: Canvas, plan: Plan, x: float, y: float, age: float, reach: float = 1.0) -> Box:
    """Dark pieces thrown from (x, y) that land on the ground."""
    h, ground = plan.height, plan.ground
    boxes: list[Box] = [(x - 1, ground - 2, x + 1, ground)]
    for a, b, c, d in plan.particles[24:44]:
        vx, vy = (a - 0.5) * 1.6 * reach * h, (0.4 + 1.1 * b) * reach * h
        flight = min(age, (vy + math.sqrt(vy * vy + 5.2 * h * max(0.0, ground - y))) / (2.6 * h))
        px, py = x + vx * flight, min(ground - d * 0.05 * h, y - vy * flight + 1.3 * h * flight**2)
        r = (0.012 + 0.02 * c) * h
        canvas.polygon([(px - r, py + r), (px, py - r), (px + r, py + r * 0.6)], (40, 36, 36))
        boxes.append((px - r, py - r, px + r, py + r))
    return union(boxes)


def flash(canvas: Canvas, plan: Plan, x: float, y: float, strength: float, colour: Colour) -> Box:
    """A star of light; ``strength`` in [0,1]."""
    r = 0.15 * plan.height * strength
    angles = np.arange(14) * math.pi / 7
    reach = np.where(np.arange(14) % 2 == 0, r, 0.42 * r)
    star = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], axis=1)
    canvas.polygon(star, colour, outline=False)
    canvas.ellipse(x, y, 0.35 * r, 0.35 * r, (255, 255, 236), outline=False)
    return x - r, y - r, x + r, y + r
