"""People: joint angles to joints in pixels, and joints to a drawn figure."""

import math
from collections import namedtuple
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


# Joint positions, (x, y) each; 1 is the near side, 2 the far side.
Joints = namedtuple("Joints", "pelvis chest head elbow1 hand1 elbow2 hand2"
                              " knee1 ankle1 toe1 knee2 ankle2 toe2")  # fmt: skip


def _chain(start: Point, *bones: tuple[float, float]) -> list[Point]:
    """Joints at the ends of consecutive ``bones`` (angle, length)."""
    joints = [start]
    for angle, length in bones:
        (x, y), radians = joints[-1], math.radians(angle)
        joints.append((x + math.sin(radians) * length, y + math.cos(radians) * length))
    return joints[1:]


def skeleton(p: Pose) -> Joints:
    """Joints in body heights around the pelvis; y points down, the figure faces right."""
    # Tilting the body forward lowers every world angle (measured from down) by tilt.
    turn, pelvis, arms, legs = -p.tilt, (0.0, 0.0), [], []
    [chest] = _chain(pelvis, (180 - p.lean + turn, TORSO))
    head = _chain(chest, (180 - p.lean - p.head + turn, NECK))
    for shoulder, elbow in ((p.shoulder1, p.elbow1), (p.shoulder2, p.elbow2)):
        arms += _chain(chest, (shoulder + turn, UPPER_ARM), (shoulder + elbow + turn, FOREARM))
    for hip, knee in ((p.hip1, p.knee1), (p.hip2, p.knee2)):
        shin = (hip - knee + turn, SHIN), (hip - knee + 80 + turn, FOOT)
        legs += _chain(pelvis, (hip + turn, THIGH), *shin)
    return Joints(pelvis, chest, *head, *arms, *legs)


def place(person: Person, height: float, ground: float, centre: float) -> Joints:
    """Joints in pixels; the lowest joint rests on the ground."""
    joints = skeleton(person.pose)
    scale = height * person.look.size * (1 - 0.3 * person.depth)
    floor = ground - person.depth * 0.13 * height - person.pose.lift * height
    middle, sole = centre + person.x * height, max(y for _, y in joints) + 0.03
    turned = person.facing
    return Joints(*((middle + turned * x * scale, floor + (y - sole) * scale) for x, y in joints))


def draw_person(canvas: Canvas, person: Person, joints: Joints, height: float) -> Box:
    """Draw the figure; returns its extent in pixels."""
    h = height * person.look.size * (1 - 0.3 * person.depth)
    look, j = person.look, joints
    far = shade(look.upper_rgb, 0.8)
    canvas.stroke([j.chest, j.elbow2, j.hand2], 0.062 * h, far)
    canvas.ellipse(*j.hand2, 0.032 * h, 0.032 * h, shade(look.skin, 0.85))
    legs = (j.knee2, j.ankle2, j.toe2, 0.8), (j.knee1, j.ankle1, j.toe1, 1.0)
    for knee, ankle, toe, tone in legs:
        canvas.stroke([ankle, toe], 0.05 * h, (36, 30, 28))
        canvas.stroke([j.pelvis, knee, ankle], 0.082 * h, shade(look.lower_rgb, tone))
    _torso(canvas, look, j, h)
    _head(canvas, person, j, h)
    if person.held:
        _held(canvas, person, j, h)
    canvas.stroke([j.chest, j.elbow1, j.hand1], 0.066 * h, shade(look.upper_rgb, 0.92))
    canvas.ellipse(*j.hand1, 0.034 * h, 0.034 * h, look.skin)
    xs, ys = zip(*joints, strict=True)
    top, pad = min(*ys, j.head[1] - 0.08 * h), 0.045 * h
    return min(xs) - pad, top - pad / 2, max(xs) + pad, max(ys) + pad


def _beyond(start: Point, direction: Point, share: float) -> Point:
    """The point ``start`` + ``share`` * ``direction``."""
    return start[0] + direction[0] * share, start[1] + direction[1] * share


def _torso(canvas: Canvas, look: Look, j: Joints, h: float) -> None:
    x, y = spine = j.chest[0] - j.pelvis[0], j.chest[1] - j.pelvis[1]
    length = math.hypot(x, y)
    across, wide, narrow = (-y / length, x / length), 0.085 * h, 0.066 * h
    right, left = _beyond(j.chest, across, wide), _beyond(j.chest, across, -wide)
    hips = _beyond(j.pelvis, across, -narrow), _beyond(j.pelvis, across, narrow)
    canvas.polygon([right, _beyond(j.chest, spine, 0.16), left, *hips], look.upper_rgb)
    for height in (0.35, 0.65) if look.striped else ():
        middle = _beyond(j.pelvis, spine, height)
        stripe = [_beyond(middle, across, narrow), _beyond(middle, across, -narrow)]
        canvas.stroke(stripe, 0.03 * h, shade(look.upper_rgb, 0.6))


def _head(canvas: Canvas, person: Person, j: Joints, h: float) -> None:
    look, r = person.look, HEAD * h
    neck = NECK * h
    up = (j.head[0] - j.chest[0]) / neck, (j.head[1] - j.chest[1]) / neck
    canvas.stroke([j.chest, j.head], 0.055 * h, look.skin)
    if look.kind == "woman":
        back = up[1] * person.facing * r, -up[0] * person.facing * r
        fall = [_beyond(j.head, back, 0.6), _beyond(j.chest, back, 0.9)]
        canvas.stroke(fall, 0.07 * h, look.hair)
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
    along = x - j.elbow1[0], y - j.elbow1[1]
    length = math.hypot(*along)
    reach, width = (0.42 * h, 0.035 * h) if person.held == "stick" else (0.11 * h, 0.05 * h)
    end = _beyond(j.hand1, (along[0] / length, along[1] / length), reach)
    canvas.stroke([j.hand1, end], width, colour)
