"""What happens: the people and things of a plan at one time, for either twin.

Only ``moment`` depends on the twin, and only from the start of the event on.
"""

from collections.abc import Callable
from typing import NamedTuple

from miniworld.people import Person
from miniworld.plan import FPS, FRAMES, Plan
from miniworld.poses import STAND, Pose, ease, mix, pose, pulse


class Thing(NamedTuple):
    """An object or effect of ``things``, with its options; x in body heights from the centre."""

    kind: str
    x: float
    options: dict
    glow: bool = False  # drawn after the light of the scene
    front: bool = False
    in_event: bool = True


class Moment(NamedTuple):
    """Everything on stage at one instant."""

    people: tuple[Person, ...]
    things: tuple[Thing, ...]


APPROACH = 0.42  # walking speed, body heights per second


def _actor(
    plan: Plan, who: int, s: float, x: float, facing: int, walks: bool, acts: Pose, held: str = ""
) -> Person:
    """A person who walks up to x, or waits there, and takes the pose ``acts`` from s = 0 on."""
    gait = pose("walk", "a", min(s, 0.0) * 1.2)
    if s < 0:
        x, acts = (x + facing * APPROACH * s, gait) if walks else (x, STAND)
    elif walks:  # the first quarter second grows out of the last walking pose
        acts = mix(gait, acts, ease(s / 0.25))
    return Person(plan.looks[who], x, facing, acts, held)


def _has_loser(plan: Plan) -> bool:
    return plan.chance[2] < 0.5


def _couple(plan: Plan, event: str, s: float, p: float) -> Moment:
    gap = 0.33 + 0.12 * plan.chance[0]
    loser = event == "fight" and _has_loser(plan)
    close = {"hug": 0.11, "fight": 0.19, "dance": 0.26}.get(event, 0.24)
    near = gap + (close - gap) * ease(p / 0.6)
    start, end = event_frames(plan)
    after = s - (end - start) / FPS
    leaves = ease(after / 0.3)
    back = APPROACH * max(0.0, after) * leaves
    push = 0.12 * ease((p - 3.1) / 0.4) if loser else 0.0
    facing, acts = 1, [pose(event, role, p) for role in ("a", "loser" if loser else "b")]
    if leaves:
        facing, gait = -1, pose("walk", "a", s * 1.2)
        acts = [mix(act, gait, leaves) for act in acts]
    a = _actor(plan, 0, s, -near - back, facing, True, acts[0])
    walks = plan.chance[1] < 0.6
    return Moment((_actor(plan, 1, s, near + back + push, -facing, walks, acts[1]), a), ())


def _bag(plan: Plan, event: str, s: float, p: float) -> Moment:
    gap = 0.34 + 0.1 * plan.chance[0]
    near = gap + (0.25 - gap) * ease(p / 0.5)
    taken = p > (1.35 if event == "hand-over" else 1.8)
    x, facing, acts = -near, 1, pose(event, "a", p)
    if event == "robbery":
        gone = max(0.0, p - 1.9)
        x, facing = -near - 0.75 * gone * ease(gone / 0.4), -1 if gone > 0.2 else 1
    elif plan.chance[2] < 0.5 and p > 3.2:
        x, facing, acts = -near - 0.35 * (p - 3.2), -1, pose("walk", "a", s)
    a = _actor(plan, 0, s, x, facing, True, acts, "bag" if taken else "")
    walks, acts = plan.chance[1] < 0.4, pose(event, "b", p)
    return Moment((_actor(plan, 1, s, near, -1, walks, acts, "" if taken else "bag"), a), ())


def _aim(plan: Plan, event: str, s: float, p: float) -> Moment:
    gap = 0.5 + 0.1 * plan.chance[0]
    walks = plan.chance[1] < 0.5
    a = _actor(plan, 0, s, -gap, 1, walks, pose(event, "a", p), "dark object")
    b = _actor(plan, 1, s, gap, -1, True, pose(event, "b", p))
    things: tuple[Thing, ...] = ()
    shots = pulse((p - 1.0) / 0.9, 0.05, 0.3) if 1.0 < p < 3.7 else 0.0
    if shots > 0.05:
        reach, y, colour = {
            "shooting": (0.5, 0.74, (255, 206, 90)),
            "photo": (0.33, 0.8, (250, 250, 255)),
        }[event]
        options = {"y": y, "strength": shots, "colour": colour}
        things = (Thing("flash", -gap + reach, options, glow=True),)
    return Moment((b, a), things)


def _window(plan: Plan, event: str, s: float, p: float) -> Moment:
    p = max(0.0, p)
    wiped = min(1.0, p / 3.5) if event == "clean" else 0.0
    broken = min(1.0, max(0.0, (p - 0.25) // 0.55 * 0.25)) if event == "smash" else 0.0
    pane = Thing("window", 0.38, {"wiped": wiped, "broken": broken})
    walks = plan.chance[1] < 0.6
    return Moment((_actor(plan, 0, s, -0.3, 1, walks, pose(event, "a", p), "stick"),), (pane,))


def _traffic(plan: Plan, event: str, s: float, p: float) -> Moment:
    speed, contact, stop = 0.95 + 0.35 * plan.chance[0], 0.45, 0.62
    p, x_b = max(0.0, s), 0.58
    x_a = x_b - 0.92 - speed * contact
    shove = damage = angle = hit = 0.0
    braking = s >= 0 and event != "crash"
    if braking:
        x_a += speed * (p - p * p / (2 * stop) if p < stop else stop / 2)
        if event == "park":
            x_a -= 0.22 * ease((p - 1.6) / 1.4)
    else:
        hit = max(0.0, p - contact)
        shove, damage = 0.24 * ease(hit / 0.5), ease(hit / 0.15)
        x_a = x_a + speed * min(s, contact) + 0.5 * shove
        angle = 9 * damage - 4 * ease((hit - 0.2) / 0.4)
    (_, colour_a), (_, colour_b) = plan.cars
    b_options = {"colour": colour_b, "angle": 6 * damage, "crumple": damage, "facing": -1}
    if plan.chance[2] < 0.5:
        b_options |= {"facing": 1, "angle": -5 * damage, "crumple": 0.0}
    a_options = {"colour": colour_a, "angle": angle, "crumple": damage, "braking": braking}
    cars = (Thing("car", x_b + shove, b_options), Thing("car", x_a, a_options))
    return Moment((), cars + (_traffic_effects(event, p, hit, x_a) if s >= 0 else ()))


def _traffic_effects(event: str, p: float, hit: float, x: float) -> tuple[Thing, ...]:
    if event != "crash":
        puff = {"y": 0.1, "radius": 0.07, "rise": 0.1, "age": p, "count": 7}
        return (Thing("cloud", x - 0.5, puff, front=True),)
    if hit <= 0:
        return ()
    smoke = {"y": 0.24, "radius": 0.18, "rise": 0.28, "age": hit, "count": 9}
    strength = pulse(hit / 0.8, 0.1, 0.5) if hit < 0.8 else 0.0
    flash = {"y": 0.2, "strength": strength, "colour": (255, 236, 170)}
    return (
        Thing("cloud", x + 0.44, smoke, front=True),
        Thing("debris", x + 0.45, {"y": 0.15, "age": hit, "reach": 0.7}, front=True),
        Thing("flash", x + 0.45, flash, glow=True, in_event=False),
    )


def _barbecue(plan: Plan, event: str, s: float, p: float) -> Moment:
    away = 0.0
    tongue = {"y": 0.46, "width": 0.4, "height": 0.15 + 0.13 * plan.chance[3], "t": s}
    smoke = {"y": 0.6, "radius": 0.1, "rise": 0.26, "age": p, "count": 8, "alpha": 0.55}
    if event == "fire":
        grown = ease(p / 3.0)
        tongue |= {"y": 0.46 - 0.42 * grown, "width": 0.4 + 0.5 * grown}
        tongue["height"] = 0.24 + 0.66 * grown
        smoke |= {"y": 0.55 + 0.5 * grown, "radius": 0.1 + 0.1 * grown, "alpha": 0.7}
        away = 0.34 * ease((p - 0.4) / 1.6)
    fire = Thing("flames", -0.28, tongue, glow=True), Thing("cloud", -0.28, smoke, front=True)
    walks = plan.chance[1] < 0.5
    person = _actor(plan, 0, s, 0.22 + away, -1, walks, pose(event, "a", p))
    return Moment((person,), (Thing("grill", -0.28, {}), *(fire if s >= 0 else ())))


def _boiler(plan: Plan, event: str, s: float, p: float) -> Moment:
    explodes = event == "explosion"
    box = Thing("cabinet", 0.26, {"open_door": ease(s / 0.2) if explodes else 0.0})
    role, walks = "loser" if plan.chance[2] < 0.5 else "a", plan.chance[1] < 0.6
    x = -0.36 + (-0.2 * ease(p / 0.6) if explodes else 0.0)
    person = _actor(plan, 0, s, x, 1, walks, pose(event, role, p))
    plume = {"y": 0.58, "radius": 0.16, "rise": 0.3, "age": p, "count": 14, "alpha": 0.7}
    effects = (Thing("cloud", 0.26, plume, front=True),)
    if explodes:
        effects = (
            Thing("debris", 0.26, {"y": 0.35, "age": s}, front=True),
            Thing("blast", 0.26, {"y": 0.4, "age": s}, glow=True),
        )
    return Moment((person,), (box, *(effects if s >= 0 else ())))


def _alone(plan: Plan, event: str, s: float, p: float) -> Moment:
    role = "loser" if plan.chance[2] < 0.4 else "a"
    slide = 0.12 * ease(p / 0.6) if event == "fall" else 0.0
    return Moment((_actor(plan, 0, s, -0.05 + slide, 1, True, pose(event, role, p)),), ())


STAGES: dict[str, Callable[[Plan, str, float, float], Moment]] = {
    "fight": _couple, "robbery": _bag, "shooting": _aim, "smash": _window,
    "crash": _traffic, "fire": _barbecue, "explosion": _boiler, "fall": _alone,
}  # fmt: skip


def event_of(plan: Plan, abnormal: bool) -> str:
    """Name of the event that a twin shows."""
    return plan.pair.event if abnormal else plan.normal_event


def event_frames(plan: Plan) -> tuple[int, int]:
    """First frame of the event and one past its last; half the couples part before the end."""
    parts = plan.pair.event == "fight" and not _has_loser(plan)
    return plan.start, plan.end if parts else FRAMES


def moment(plan: Plan, abnormal: bool, t: float) -> Moment:
    """People and things of a twin at ``t`` seconds."""
    s = t - plan.start / FPS
    event = event_of(plan, abnormal) if s >= 0 else plan.normal_event
    passers = tuple(
        Person(
            b.look, b.start + b.speed * t, 1 if b.speed >= 0 else -1,
            pose("walk", "a", t + b.phase) if b.speed else STAND, in_event=False, depth=0.9,
        )
        for b in plan.bystanders
    )  # fmt: skip
    acting = STAGES[plan.pair.event](plan, event, s, s * plan.tempo)
    return Moment(passers + acting.people, acting.things)
