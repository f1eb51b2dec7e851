"""People: from joint angles to joints in pixels, and from joints to a drawn figure."""

import math
from typing import NamedTuple

from miniworld.canvas import Box, Canvas, shade
from miniworld.plan import Look
from miniworld.poses import Pose

Point = tuple[float, float]

TORSO, NECK, HEAD = 0.30, 0.10, 0.075
UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0.165, 0.16, 0.245, 0.235, 0.075
HELD_COLOURS = {"bag": (58, 44, 40), "dark object": (24, 24, 28), "stick": (120, 82, 46)}


class Person(NamedTuple):
    """One figure at one instant; x in body heights from the centre of the action."""

    look: Look
    x: float
    facing: int  # 1 right, -1 left
    pose: Pose
    held: str = ""  # "" | "bag" | "dark object" | "stick"
    in_event: bool = True
    depth: float = 0.0  # 0 on the line of the action, towards 1 farther away
    lift: float = 0.0


class Joints(NamedTuple):
    """Joint positions in pixels."""

    pelvis: Point
    chest: Point
    head: Point
    elbow1: Point
    hand1: Point
    elbow2: Point
    hand2: Point
    knee1: Point
    ankle1: Point
    toe1: Point
    knee2: Point
    ankle2: Point
    toe2: Point


def _along(start: Point, angle: float, length: float) -> Point:
    radians = math.radians(angle)
    return start[0] + math.sin(radians) * length, start[1] + math.cos(radians) * length


def skeleton(p: Pose) -> Joints:
    """Joints in body heights around the pelvis; y points down, the figure faces right."""
    # Turning the body forward by tilt lowers every world angle by tilt (angles run from down).
    turn = -p.tilt
    chest = _along((0.0, 0.0), 180 - p.lean + turn, TORSO)
    head = _along(chest, 180 - p.lean - p.head + turn, NECK)
    elbow1 = _along(chest, p.shoulder1 + turn, UPPER_ARM)
    elbow2 = _along(chest, p.shoulder2 + turn, UPPER_ARM)
    knee1 = _along((0.0, 0.0), p.hip1 + turn, THIGH)
    knee2 = _along((0.0, 0.0), p.hip2 + turn, THIGH)
    ankle1 = _along(knee1, p.hip1 - p.knee1 + turn, SHIN)
    ankle2 = _along(knee2, p.hip2 - p.knee2 + turn, SHIN)
    return Joints(
        (0.0, 0.0),
        chest,
        head,
        elbow1,
        _along(elbow1, p.shoulder1 + p.elbow1 + turn, FOREARM),
        elbow2,
        _along(elbow2, p.shoulder2 + p.elbow2 + turn, FOREARM),
        knee1,
        ankle1,
        _along(ankle1, p.hip1 - p.knee1 + 80 + turn, FOOT),
        knee2,
        ankle2,
        _along(ankle2, p.hip2 - p.knee2 + 80 + turn, FOOT),
    )


def place(person: Person, height: float, ground: float, centre: float) -> Joints:
    """Joints in pixels; the lowest joint rests on the ground."""
    local = skeleton(person.pose)
    scale = height * person.look.size * (1 - 0.3 * person.depth)
    floor = ground - person.depth * 0.13 * height - (person.pose.lift + person.lift) * height
    lowest = max(point[1] for point in local) + 0.03
    x0 = centre + person.x * height
    return Joints(
        *((x0 + person.facing * x * scale, floor + (y - lowest) * scale) for x, y in local)
    )


def draw_person(canvas: Canvas, person: Person, joints: Joints, height: float) -> Box:
    """Draw the figure; returns its extent in pixels."""
    h = height * person.look.size * (1 - 0.3 * person.depth)
    look, j = person.look, joints
    far = shade(look.upper_rgb, 0.8)
    canvas.stroke([j.chest, j.elbow2, j.hand2], 0.062 * h, far)
    canvas.ellipse(*j.hand2, 0.032 * h, 0.032 * h, shade(look.skin, 0.85))
    for knee, ankle, toe, tone in (
        (j.knee2, j.ankle2, j.toe2, 0.8),
        (j.knee1, j.ankle1, j.toe1, 1.0),
    ):
        canvas.stroke([ankle, toe], 0.05 * h, (36, 30, 28))
        canvas.stroke([j.pelvis, knee, ankle], 0.082 * h, shade(look.lower_rgb, tone))
    _torso(canvas, look, j, h)
    _head(canvas, person, j, h)
    if person.held:
        _held(canvas, person, j, h)
    canvas.stroke([j.chest, j.elbow1, j.hand1], 0.066 * h, shade(look.upper_rgb, 0.92))
    canvas.ellipse(*j.hand1, 0.034 * h, 0.034 * h, look.skin)
    xs, ys = [p[0] for p in joints], [p[1] for p in joints]
    pad = 0.045 * h
    return min(xs) - pad, min(min(ys), j.head[1] - 0.08 * h) - pad / 2, max(xs) + pad, max(ys) + pad


def _torso(canvas: Canvas, look: Look, j: Joints, h: float) -> None:
    dx, dy = j.chest[0] - j.pelvis[0], j.chest[1] - j.pelvis[1]
    norm = math.hypot(dx, dy)
    nx, ny = -dy / norm, dx / norm
    wide, narrow = 0.085 * h, 0.066 * h
    points = [
        (j.chest[0] + nx * wide, j.chest[1] + ny * wide),
        (j.chest[0] + dx * 0.16, j.chest[1] + dy * 0.16),
        (j.chest[0] - nx * wide, j.chest[1] - ny * wide),
        (j.pelvis[0] - nx * narrow, j.pelvis[1] - ny * narrow),
        (j.pelvis[0] + nx * narrow, j.pelvis[1] + ny * narrow),
    ]
    canvas.polygon(points, look.upper_rgb)
    if look.striped:
        for t in (0.35, 0.65):
            x, y = j.pelvis[0] + dx * t, j.pelvis[1] + dy * t
            ends = [(x + nx * narrow, y + ny * narrow), (x - nx * narrow, y - ny * narrow)]
            canvas.stroke(ends, 0.03 * h, shade(look.upper_rgb, 0.6))


def _head(canvas: Canvas, person: Person, j: Joints, h: float) -> None:
    look, r = person.look, HEAD * h
    up = (j.head[0] - j.chest[0]) / (NECK * h), (j.head[1] - j.chest[1]) / (NECK * h)
    canvas.stroke([j.chest, j.head], 0.055 * h, look.skin)
    back = (up[1] * person.facing, -up[0] * person.facing)
    if look.kind == "woman":
        tail = [
            (j.head[0] + back[0] * r * 0.6, j.head[1] + back[1] * r * 0.6),
            (j.chest[0] + back[0] * r * 0.9, j.chest[1] + back[1] * r * 0.9),
        ]
        canvas.stroke(tail, 0.07 * h, look.hair)
    canvas.ellipse(*j.head, r, r * 1.1, look.skin)
    angle = math.degrees(math.atan2(up[1], up[0])) - person.facing * 25
    canvas.ellipse(*j.head, r * 1.08, r * 1.12, look.hair, angle, (-85, 85), outline=False)


def _held(canvas: Canvas, person: Person, j: Joints, h: float) -> None:
    x, y = j.hand1
    colour = HELD_COLOURS[person.held]
    if person.held == "bag":
        canvas.stroke([(x, y), (x, y + 0.05 * h)], 0.02 * h, colour)
        canvas.rectangle(x - 0.09 * h, y + 0.04 * h, x + 0.09 * h, y + 0.19 * h, colour)
        return
    dx, dy = j.hand1[0] - j.elbow1[0], j.hand1[1] - j.elbow1[1]
    norm = math.hypot(dx, dy)
    ux, uy = dx / norm, dy / norm
    reach = 0.42 * h if person.held == "stick" else 0.11 * h
    width = 0.035 * h if person.held == "stick" else 0.05 * h
    canvas.stroke([(x, y), (x + ux * reach, y + uy * reach)], width, colour)
