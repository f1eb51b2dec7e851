"""Poses: joint angles as a pure function of (event, role, phase).

Angles are degrees in the side view of a figure that faces right, forward positive. Limbs are
measured from hanging straight down, elbows flex forward, knees backward; ``lean`` bends the
torso, ``tilt`` turns the whole body (90 = lying face down, -90 = on the back). ``lift`` is in body
heights. ``phase`` is seconds since the event began, times the clip's tempo.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from miniworld.plan import FACTS


class Pose(NamedTuple):
    """Joint angles; suffix 1 is the near side, 2 the far side."""

    tilt: float = 0.0
    lean: float = 0.0
    head: float = 0.0
    shoulder1: float = 6.0
    elbow1: float = 10.0
    shoulder2: float = -6.0
    elbow2: float = 10.0
    hip1: float = 4.0
    knee1: float = 4.0
    hip2: float = -4.0
    knee2: float = 4.0
    lift: float = 0.0


STAND = Pose()
LYING = Pose(tilt=88, shoulder1=172, elbow1=20, shoulder2=184, elbow2=8, hip1=2, knee1=30, hip2=0)
ON_BACK = Pose(tilt=-88, shoulder1=30, elbow1=40, shoulder2=150, elbow2=20, hip1=30, knee1=60)


def mix(a: Pose, b: Pose, weight: float) -> Pose:
    """Linear mix of poses ``a`` (weight 0) and ``b`` (weight 1)."""
    return Pose(*(x + (y - x) * weight for x, y in zip(a, b, strict=True)))


def ease(x: float) -> float:
    """Smooth step from 0 at x <= 0 to 1 at x >= 1."""
    x = min(1.0, max(0.0, x))
    return x * x * (3 - 2 * x)


def pulse(x: float, rise: float = 0.25, fall: float = 0.5) -> float:
    """One bump per unit of x: up within ``rise``, down again at ``fall``."""
    x %= 1.0
    return ease(x / rise) * (1 - ease((x - rise) / (fall - rise)))


class Act(NamedTuple):
    """A pose taken within ``rise`` s after ``start`` and left within ``fall`` s after ``end``.

    Angles in ``swing`` oscillate by that many degrees about the pose at ``rate`` radians a second.
    ``down``: when the figure falls on its back, and how long it takes.
    """

    pose: Pose
    rise: float
    swing: Mapping[str, float] = {}
    rate: float = 0.0
    start: float = 0.0
    end: float = math.inf
    fall: float = 1.0
    down: tuple[float, float] = (math.inf, 1.0)


ACTS = {name: Act(**act | {"pose": Pose(**act["pose"])}) for name, act in FACTS["acts"].items()}


def _acted(event: str, role: str, s: float) -> Pose:
    act = ACTS.get(f"{event} {role}") or ACTS[event]
    wave = math.sin(act.rate * s)
    moved = {name: getattr(act.pose, name) + by * wave for name, by in act.swing.items()}
    weight = ease((s - act.start) / act.rise) * (1 - ease((s - act.end) / act.fall))
    acting = mix(STAND, act.pose._replace(**moved), weight)
    return mix(acting, ON_BACK, ease((s - act.down[0]) / act.down[1]))


def _gait(phase: float, swing: float, knee: float, lean: float, elbow: float) -> Pose:
    s, c = math.sin(phase), math.cos(phase)
    return Pose(
        lean=lean, shoulder1=-swing * s, elbow1=elbow, shoulder2=swing * s, elbow2=elbow,
        hip1=swing * s, knee1=knee * max(0.0, c) + 5,
        hip2=-swing * s, knee2=knee * max(0.0, -c) + 5,
    )  # fmt: skip


def _talk(role: str, s: float) -> Pose:
    speaking = 0.5 + 0.5 * math.sin(1.6 * s + (0.0 if role == "a" else math.pi))
    wag = math.sin(6 * s)
    return Pose(
        head=4 * wag * speaking,
        shoulder1=10 + 30 * speaking,
        elbow1=20 + 70 * speaking + 18 * wag * speaking,
        shoulder2=-4 + 14 * speaking,
        elbow2=15 + 45 * speaking - 12 * wag * speaking,
    )


def _dance(role: str, s: float) -> Pose:
    w = math.sin(5 * s + (0.0 if role == "a" else 0.7))
    swing = Pose(
        lean=6 * w, shoulder1=125 + 30 * w, elbow1=35, shoulder2=125 - 30 * w, elbow2=35,
        hip1=18 * w, knee1=14 + 12 * w, hip2=-18 * w, knee2=14 - 12 * w, lift=0.035 * abs(w),
    )  # fmt: skip
    return mix(STAND, swing, ease(s / 0.5))


def _fight(role: str, s: float) -> Pose:
    blows = s / 0.9 + (0.0 if role == "a" else 0.5)
    hit, hurt = pulse(blows), pulse(blows - 0.5 - 0.08)
    kick = hit if int(blows) % 3 == 2 else 0.0
    punch = hit - kick
    blow = Pose(
        lean=12 + 14 * punch - 22 * hurt - 14 * kick, head=-18 * hurt,
        shoulder1=48 + 44 * punch, elbow1=105 * (1 - punch), shoulder2=40 + 20 * hurt, elbow2=110,
        hip1=20 + 62 * kick, knee1=14 - 6 * kick, hip2=-24, knee2=10,
    )  # fmt: skip
    pose = mix(STAND, blow, ease(s / 0.35))
    return mix(pose, ON_BACK, ease((s - 3.2) / 0.5)) if role == "loser" else pose


def _robbery(role: str, s: float) -> Pose:
    now = _acted("robbery", role, s)
    running = _gait(s * 2 * math.pi / 0.7, 46, 85, 16, 85)  # a stride takes 0.7 s
    return now if role == "b" else mix(now, running, ease((s - 1.9) / 0.3))


def _shooting(role: str, s: float) -> Pose:
    if role == "b":
        return _acted("shooting", role, s)
    recoil = 14 * pulse((s - 1.0) / 0.9, 0.08, 0.4) if s > 1.0 else 0.0
    aim = Pose(
        lean=6 - recoil / 3, shoulder1=90 + recoil, elbow1=0, shoulder2=85 + recoil,
        elbow2=5, hip1=20, knee1=14, hip2=-22, knee2=6,
    )  # fmt: skip
    return mix(STAND, aim, ease(s / 0.45))


def _smash(role: str, s: float) -> Pose:
    swing = pulse((s + 0.1) / 1.1, 0.2, 0.55)
    strike = Pose(
        lean=-14 + 38 * swing, shoulder1=175 - 95 * swing, elbow1=40 * (1 - swing),
        shoulder2=165 - 90 * swing, elbow2=50 * (1 - swing), hip1=24, knee1=10 + 20 * swing,
        hip2=-22, knee2=8,
    )  # fmt: skip
    return mix(STAND, strike, ease(s / 0.35))


def _fall(role: str, s: float) -> Pose:
    flail = Pose(lean=22, shoulder1=110, shoulder2=60, elbow2=20, hip1=40, knee1=30,
                 hip2=-40, knee2=40)  # fmt: skip
    writhe = 6 + 6 * math.sin(3 * s)
    end = ON_BACK if role == "loser" else LYING
    end = end._replace(knee1=end.knee1 + 2 * writhe, shoulder1=end.shoulder1 + writhe)
    return mix(mix(STAND, flail, ease(s / 0.3)), end, ease((s - 0.25) / 0.45))


ACTIONS: dict[str, Callable[[str, float], Pose]] = {
    "walk": lambda role, s: _gait(s * 2 * math.pi / 1.1, 26, 42, 3, 18),  # a stride takes 1.1 s
    "talk": _talk, "dance": _dance, "fight": _fight, "robbery": _robbery,
    "shooting": _shooting, "smash": _smash, "fall": _fall,
}  # fmt: skip


def pose(event: str, role: str, phase: float) -> Pose:
    """Joint angles of ``role`` ("a", "b", or "loser", who ends on the ground) in ``event``."""
    action = ACTIONS.get(event)
    return action(role, phase) if action else _acted(event, role, phase)


def posture(p: Pose) -> str:
    """Name of the posture, from the joint angles alone."""
    if abs(p.tilt) > 55:
        return "lying on the ground"
    if p.hip1 > 60 and p.hip2 > 60:
        return "sitting"
    if p.lean > 32:
        return "bent over"
    if max(p.shoulder1, p.shoulder2) > 115:
        return "arms raised"
    if p.shoulder1 > 50 and p.shoulder2 > 35:
        return "arms stretched forward"
    if max(abs(p.hip1), abs(p.hip2)) > 14:
        return "walking"
    return "standing"
