"""From a moment to pixels: order of drawing, light, occluder, noise, and the event's box."""

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np

from miniworld import things
from miniworld.canvas import Box, Canvas, shade, union
from miniworld.events import Moment, Thing, moment
from miniworld.people import Joints, Person, draw_person, place
from miniworld.plan import FPS, FRAMES, HEIGHT, WIDTH, Plan
from miniworld.scenes import background

NOISE_BANK = 8


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Standard normal noise times 32, (NOISE_BANK, H + 32, W + 32) int16, shared by all clips."""
    shape = (NOISE_BANK, HEIGHT + 32, WIDTH + 32)
    return (np.random.default_rng(20_240_101).standard_normal(shape) * 32).astype(np.int16)


def _curve(plan: Plan) -> np.ndarray:
    """Look-up table of the light: (1, 256, 3) uint8."""
    dark = 1 - 0.6 * plan.night
    tint = np.array(plan.light) * dark * np.array([1, 1, 1 + 0.25 * plan.night])
    return np.clip(np.arange(256)[:, None] * tint, 0, 255).astype(np.uint8)[None]


def _thing(canvas: Canvas, plan: Plan, thing: Thing) -> Box:
    options = dict(thing.options)
    x, y = plan.centre + thing.x * plan.height, plan.ground - options.pop("y", 0.0) * plan.height
    return getattr(things, thing.kind)(canvas, plan, x, y, **options)


def _shadows(canvas: Canvas, plan: Plan, people: list[tuple[Person, Joints]]) -> None:
    with canvas.translucent(0.35):
        for person, joints in people:
            xs = [point[0] for point in joints]
            floor = plan.ground - person.depth * 0.13 * plan.height
            reach = (max(xs) - min(xs)) / 2 + 0.05 * plan.height
            middle = (max(xs) + min(xs)) / 2
            canvas.ellipse(middle, floor, reach, 0.03 * plan.height, (20, 20, 24), outline=False)


def _occluder(canvas: Canvas, plan: Plan) -> None:
    """A pole or a plant in the foreground, the larger the further the dial is turned."""
    if plan.occlusion < 0.3:
        return
    size = (plan.occlusion - 0.3) / 0.7
    x = plan.centre + (plan.chance[4] - 0.5) * 1.6 * plan.height
    tone = 1 - 0.6 * plan.night
    if plan.chance[5] < 0.5:
        half = 3 + 9 * size
        canvas.rectangle(x - half, -4, x + half, HEIGHT + 4, shade((74, 78, 84), tone))
        canvas.rectangle(x - half, -4, x - half / 2, HEIGHT + 4, shade((104, 108, 114), tone))
        return
    for a, b, c, _ in plan.particles[48:64]:
        tip = (x + (a - 0.5) * (60 + 70 * size), HEIGHT - (24 + 64 * size) * (0.5 + b / 2))
        foot = (x + (a - 0.5) * 30, HEIGHT + 4)
        canvas.stroke([foot, tip], 4 + 4 * c, shade((36, 84 + int(40 * c), 40), tone))


def _paint(image: np.ndarray, plan: Plan, now: Moment) -> Box | None:
    """Draw a moment onto the background in place; extent of the event before mirroring."""
    canvas = Canvas(image, plan.style)
    placed = [(p, place(p, plan.height, plan.ground, plan.centre)) for p in now.people]
    _shadows(canvas, plan, placed)
    for person, joints in placed:
        if not person.in_event:
            draw_person(canvas, person, joints, plan.height)
    lit = [thing for thing in now.things if not thing.glow]
    extents = [_thing(canvas, plan, thing) for thing in lit if not thing.front]
    extents += [draw_person(canvas, *who, plan.height) for who in placed if who[0].in_event]
    extents += [_thing(canvas, plan, thing) for thing in lit if thing.front]
    cv2.LUT(image, _curve(plan), dst=image)
    glowing = [(t, _thing(canvas, plan, t)) for t in now.things if t.glow]
    extents += [extent for thing, extent in glowing if thing.in_event]
    _occluder(canvas, plan)
    return union(extents) if extents else None


def _camera(image: np.ndarray, plan: Plan, t: float) -> np.ndarray:
    """Mirror, time stamp, blur and sensor noise."""
    if plan.mirror:
        image = cv2.flip(image, 1)
    if plan.stamp:
        text = f"{plan.stamp}{int(t) % 60:02d}"
        cv2.putText(image, text, (6, 12), cv2.FONT_HERSHEY_PLAIN, 0.7, (236, 236, 236), 1)
    if plan.compression > 0.25:
        sigma = 0.4 + 0.7 * plan.compression
        image = cv2.GaussianBlur(image, (5, 5), sigma)
    rng = np.random.default_rng([plan.entropy, 2, round(t * 1000)])
    k, y, x = rng.integers(NOISE_BANK), rng.integers(32), rng.integers(32)
    noise = _noise()[k, y : y + HEIGHT, x : x + WIDTH]
    sigma = (1.5 + 7 * plan.night) / 32
    grain = cv2.convertScaleAbs(noise, alpha=sigma)
    negative = cv2.compare(noise, 0, cv2.CMP_LT)
    up = cv2.cvtColor(cv2.bitwise_and(grain, cv2.bitwise_not(negative)), cv2.COLOR_GRAY2RGB)
    down = cv2.cvtColor(cv2.bitwise_and(grain, negative), cv2.COLOR_GRAY2RGB)
    return cv2.subtract(cv2.add(image, up), down)


def _normalise(box: Box, plan: Plan) -> Box | None:
    x1, y1, x2, y2 = box
    if plan.mirror:
        x1, x2 = WIDTH - x2, WIDTH - x1
    x1, x2 = (min(1.0, max(0.0, x / WIDTH)) for x in (x1, x2))
    y1, y2 = (min(1.0, max(0.0, y / HEIGHT)) for y in (y1, y2))
    return (x1, y1, x2, y2) if x2 - x1 > 0.02 and y2 - y1 > 0.02 else None


def render(
    plan: Plan, abnormal: bool, t: float, scene: np.ndarray | None = None
) -> tuple[np.ndarray, Box | None]:
    """One frame (240, 320, 3) uint8 RGB and the extent of the event, normalised x1 y1 x2 y2.

    ``scene``: the plan's background, to be drawn here if absent. The extent is None where
    nothing of the event is in view.
    """
    image = (background(plan) if scene is None else scene).copy()
    box = _paint(image, plan, moment(plan, abnormal, t))
    return _camera(image, plan, t), box and _normalise(box, plan)


def render_clip(plan: Plan, abnormal: bool) -> Iterator[tuple[np.ndarray, Box | None]]:
    """All frames of a twin in order."""
    scene = background(plan)
    for frame in range(FRAMES):
        yield render(plan, abnormal, frame / FPS, scene)
