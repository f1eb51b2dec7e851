"""From a moment to pixels: drawing order, light, occluder, noise, and the event's box."""

from functools import lru_cache

import cv2
import numpy as np

from miniworld import things
from miniworld.canvas import Box, Canvas, shade, union
from miniworld.events import Moment, Thing, moment
from miniworld.people import Joints, Person, draw_person, place
from miniworld.plan import HEIGHT, WIDTH, Plan
from miniworld.scenes import background

NOISE_BANK = 8


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Standard normal noise times 32, (NOISE_BANK, H + 32, W + 32) int16, shared by all clips."""
    shape = (NOISE_BANK, HEIGHT + 32, WIDTH + 32)
    return (np.random.default_rng(20_240_101).standard_normal(shape) * 32).astype(np.int16)


def _thing(canvas: Canvas, plan: Plan, thing: Thing) -> Box:
    options = dict(thing.options)
    x, y = plan.centre + thing.x * plan.height, plan.ground - options.pop("y", 0.0) * plan.height
    return getattr(things, thing.kind)(canvas, plan, x, y, **options)


def _shadows(canvas: Canvas, plan: Plan, people: list[tuple[Person, Joints]]) -> None:
    shadows, ry = [], 0.03 * plan.height
    for person, joints in people:
        xs = [point[0] for point in joints]
        floor = plan.ground - person.depth * 0.13 * plan.height
        rx = (max(xs) - min(xs)) / 2 + 0.05 * plan.height
        shadows.append(((max(xs) + min(xs)) / 2, floor, rx))
    with canvas.translucent(0.35, [(x, y - ry, x, y + ry) for x, y, _ in shadows]):
        for x, y, rx in shadows:
            canvas.ellipse(x, y, rx, ry, (20, 20, 24), outline=False)


def _occluder(canvas: Canvas, plan: Plan) -> None:
    """Draw a pole or a plant in the foreground; its size grows with ``occlusion``."""
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


def _unlit(canvas: Canvas, plan: Plan, now: Moment) -> list[Box]:
    """Draw everything lit by the scene; returns the extents of the event's people and things."""
    placed = [(p, place(p, plan.height, plan.ground, plan.centre)) for p in now.people]
    _shadows(canvas, plan, placed)
    for person, joints in placed:
        if not person.in_event:
            draw_person(canvas, person, joints, plan.height)
    lit = [thing for thing in now.things if not thing.glow]
    extents = [_thing(canvas, plan, thing) for thing in lit if not thing.front]
    extents += [draw_person(canvas, *pair, plan.height) for pair in placed if pair[0].in_event]
    return extents + [_thing(canvas, plan, thing) for thing in lit if thing.front]


def _glowing(canvas: Canvas, plan: Plan, now: Moment) -> list[Box]:
    extents = [(thing, _thing(canvas, plan, thing)) for thing in now.things if thing.glow]
    return [extent for thing, extent in extents if thing.in_event]


class Shot:
    """Renders the frames of a plan; background, light and noise are computed once."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.scene = plan, background(plan)
        dark = 1 - 0.6 * plan.night
        tint = np.array(plan.light) * dark * np.array([1, 1, 1 + 0.25 * plan.night])
        self.curve = np.clip(np.arange(256)[:, None] * tint, 0, 255).astype(np.uint8)[None]
        self.grain: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by bank: parts above, below 0

    def frame(self, abnormal: bool, t: float) -> np.ndarray:
        """The frame at ``t`` seconds, (240, 320, 3) uint8 RGB."""
        plan, now = self.plan, moment(self.plan, abnormal, t)
        canvas = Canvas(self.scene.copy(), plan.style)
        _unlit(canvas, plan, now)
        canvas.image = cv2.LUT(canvas.image, self.curve)
        _glowing(canvas, plan, now)
        _occluder(canvas, plan)
        image = cv2.flip(canvas.image, 1) if plan.mirror else canvas.image
        if plan.stamp:
            text, font = f"{plan.stamp}{int(t) % 60:02d}", (cv2.FONT_HERSHEY_PLAIN, 0.7)
            cv2.putText(image, text, (6, 12), *font, (236, 236, 236), 1)
        if plan.compression > 0.25:
            image = cv2.GaussianBlur(image, (5, 5), 0.4 + 0.7 * plan.compression)
        return self._noisy(image, t)

    def _noisy(self, image: np.ndarray, t: float) -> np.ndarray:
        rng = np.random.default_rng([self.plan.entropy, 2, round(t * 1000)])
        k, y, x = rng.integers(NOISE_BANK), rng.integers(32), rng.integers(32)
        if k not in self.grain:
            grain = cv2.convertScaleAbs(_noise()[k], alpha=(1.5 + 7 * self.plan.night) / 32)
            up, down = grain * (_noise()[k] >= 0), grain * (_noise()[k] < 0)
            self.grain[k] = tuple(cv2.cvtColor(g, cv2.COLOR_GRAY2RGB) for g in (up, down))
        up, down = (g[y : y + HEIGHT, x : x + WIDTH] for g in self.grain[k])
        return cv2.subtract(cv2.add(image, up, dst=image), down, dst=image)


def event_box(plan: Plan, abnormal: bool, t: float) -> Box | None:
    """Box of the event at ``t`` s, normalised x1 y1 x2 y2; None if (almost) out of view."""
    canvas, now = Canvas(np.zeros((1, 1, 3), np.uint8), plan.style), moment(plan, abnormal, t)
    if not (extents := _unlit(canvas, plan, now) + _glowing(canvas, plan, now)):
        return None
    x1, y1, x2, y2 = union(extents)
    if plan.mirror:
        x1, x2 = WIDTH - x2, WIDTH - x1
    x1, x2 = (min(1.0, max(0.0, x / WIDTH)) for x in (x1, x2))
    y1, y2 = (min(1.0, max(0.0, y / HEIGHT)) for y in (y1, y2))
    return (x1, y1, x2, y2) if x2 - x1 > 0.02 and y2 - y1 > 0.02 else None
