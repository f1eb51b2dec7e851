"""What happens: people and things of a plan at a time, for either twin.

``moment`` is the only place that looks at the twin, and only for times at or after the start.
"""

from collections.abc import Callable
from typing import NamedTuple

from miniworld.people import Person
from miniworld.plan import FPS, FRAMES, Plan
from miniworld.poses import STAND, ease, mix, pose, pulse


class Thing(NamedTuple):
    """An object or effect of ``things``; x in body heights from the centre, options by name."""

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


def _approach(plan: Plan, who: int, s: float, x: float, walks: bool, held: str = "") -> Person:
    """Before the event: walk up to x, or wait there."""
    facing = 1 if x <= 0 else -1
    if not walks:
        return Person(plan.looks[who], x, facing, STAND, held)
    start = x + facing * APPROACH * s
    return Person(plan.looks[who], start, facing, pose("walk", "a", s * 1.2), held)


def _into(person: Person, s: float) -> Person:
    """Let the first quarter second grow out of the last walking pose."""
    before = pose("walk", "a", 0.0)
    return person._replace(pose=mix(before, person.pose, ease(s / 0.25)))


def _has_loser(plan: Plan) -> bool:
    return plan.chance[2] < 0.5


def _couple(plan: Plan, event: str, s: float, end: float) -> Moment:
    gap = 0.33 + 0.12 * plan.chance[0]
    walks = plan.chance[1] < 0.6
    if s < 0:
        a = _approach(plan, 0, s, -gap, True)
        return Moment((_approach(plan, 1, s, gap, walks), a), ())
    p = s * plan.tempo
    loser = event == "fight" and _has_loser(plan)
    close = {"hug": 0.11, "fight": 0.19, "dance": 0.26}.get(event, 0.24)
    near = gap + (close - gap) * ease(p / 0.6)
    leaves = ease((s - end) / 0.3)
    back = APPROACH * max(0.0, s - end) * leaves
    push = 0.12 * ease((p - 3.1) / 0.4) if loser else 0.0
    a = Person(plan.looks[0], -near - back, 1, pose(event, "a", p))
    b = Person(plan.looks[1], near + back + push, -1, pose(event, "loser" if loser else "b", p))
    if leaves:
        gait = pose("walk", "a", s * 1.2)
        a = a._replace(facing=-1, pose=mix(a.pose, gait, leaves))
        b = b._replace(facing=1, pose=mix(b.pose, gait, leaves))
    return Moment((_into(b, s) if walks else b, _into(a, s)), ())


def _bag(plan: Plan, event: str, s: float, end: float) -> Moment:
    gap = 0.34 + 0.1 * plan.chance[0]
    if s < 0:
        b = _approach(plan, 1, s, gap, plan.chance[1] < 0.4, "bag")
        return Moment((b, _approach(plan, 0, s, -gap, True)), ())
    p = s * plan.tempo
    near = gap + (0.25 - gap) * ease(p / 0.5)
    taken = p > 1.35 if event == "hand-over" else p > 1.8
    a = Person(plan.looks[0], -near, 1, pose(event, "a", p), "bag" if taken else "")
    b = Person(plan.looks[1], near, -1, pose(event, "b", p), "" if taken else "bag")
    gone = max(0.0, p - 1.9)
    if event == "robbery":
        away = 0.75 * gone * ease(gone / 0.4)
        turned = gone > 0.2
        a = a._replace(x=-near - away, facing=-1 if turned else 1)
    elif plan.chance[2] < 0.5 and p > 3.2:
        gait = pose("walk", "a", s)
        a = a._replace(x=-near - 0.35 * (p - 3.2), facing=-1, pose=gait)
    walks = plan.chance[1] < 0.4
    return Moment((_into(b, s) if walks else b, _into(a, s)), ())


def _aim(plan: Plan, event: str, s: float, end: float) -> Moment:
    gap = 0.5 + 0.1 * plan.chance[0]
    if s < 0:
        a = _approach(plan, 0, s, -gap, plan.chance[1] < 0.5, "dark object")
        return Moment((_approach(plan, 1, s, gap, True), a), ())
    p = s * plan.tempo
    a = Person(plan.looks[0], -gap, 1, pose(event, "a", p), "dark object")
    b = Person(plan.looks[1], gap, -1, pose(event, "b", p))
    things: tuple[Thing, ...] = ()
    shots = pulse((p - 1.0) / 0.9, 0.05, 0.3) if 1.0 < p < 3.7 else 0.0
    if shots > 0.05:
        warm = (255, 206, 90) if event == "shooting" else (250, 250, 255)
        at = {"shooting": (-gap + 0.5, 0.74), "photo": (-gap + 0.33, 0.8)}[event]
        options = {"y": at[1], "strength": shots, "colour": warm}
        things = (Thing("flash", at[0], options, glow=True),)
    if plan.chance[1] < 0.5:
        a = _into(a, s)
    return Moment((_into(b, s), a), things)


def _window(plan: Plan, event: str, s: float, end: float) -> Moment:
    p = max(0.0, s) * plan.tempo
    wiped = min(1.0, p / 3.5) if event == "clean" else 0.0
    broken = min(1.0, max(0.0, (p - 0.25) // 0.55 * 0.25)) if event == "smash" else 0.0
    pane = Thing("window", 0.38, {"wiped": wiped, "broken": broken})
    if s < 0:
        person = _approach(plan, 0, s, -0.3, plan.chance[1] < 0.6, "stick")
        return Moment((person,), (pane,))
    person = Person(plan.looks[0], -0.3, 1, pose(event, "a", p), "stick")
    return Moment((_into(person, s) if plan.chance[1] < 0.6 else person,), (pane,))


def _traffic(plan: Plan, event: str, s: float, end: float) -> Moment:
    speed = 0.95 + 0.35 * plan.chance[0]
    contact = 0.45
    p = max(0.0, s)
    other, mine = 0.58, 0.58 - 0.92 - speed * contact
    colours = [rgb for _, rgb in plan.cars]
    if event == "crash" or s < 0:
        hit = max(0.0, p - contact)
        shove = 0.24 * ease(hit / 0.5) if s >= 0 else 0.0
        x = mine + speed * min(s, contact) + 0.5 * shove
        damage = ease(hit / 0.15)
        angle, braking = 9 * damage - 4 * ease((hit - 0.2) / 0.4), False
    else:
        stop = 0.62
        x = mine + speed * (p - p * p / (2 * stop) if p < stop else stop / 2)
        if event == "park":
            x -= 0.22 * ease((p - 1.6) / 1.4)
        shove = damage = angle = 0.0
        braking, hit = True, 0.0
    a_options = {"colour": colours[0], "angle": angle, "crumple": damage, "braking": braking}
    a = Thing("car", x, a_options)
    b_options = {"colour": colours[1], "angle": 6 * damage, "crumple": damage, "facing": -1}
    if plan.chance[2] < 0.5:
        b_options |= {"facing": 1, "angle": -5 * damage, "crumple": 0.0}
    things = (Thing("car", other + shove, b_options), a)
    if s >= 0:
        things += _traffic_effects(plan, event, p, hit, x)
    return Moment((), things)


def _traffic_effects(plan: Plan, event: str, p: float, hit: float, x: float) -> tuple[Thing, ...]:
    if event != "crash":
        puff = {"y": 0.1, "radius": 0.07, "rise": 0.1, "age": p, "puffs": 7}
        return (Thing("cloud", x - 0.5, puff, front=True),)
    if hit <= 0:
        return ()
    smoke = {"y": 0.24, "radius": 0.18, "rise": 0.28, "age": hit, "puffs": 9}
    pieces = Thing("debris", x + 0.45, {"y": 0.15, "age": hit, "reach": 0.7}, front=True)
    flash = {"y": 0.2, "strength": pulse(hit / 0.8, 0.1, 0.5) if hit < 0.8 else 0.0}
    flash["colour"] = (255, 236, 170)
    return (
        Thing("cloud", x + 0.44, smoke, front=True),
        pieces,
        Thing("flash", x + 0.45, flash, glow=True, in_event=False),
    )


def _barbecue(plan: Plan, event: str, s: float, end: float) -> Moment:
    box = Thing("grill", -0.28, {})
    if s < 0:
        person = _approach(plan, 0, s, 0.22, plan.chance[1] < 0.5)
        return Moment((person,), (box,))
    p = s * plan.tempo
    grown = ease(p / 3.0)
    tongue = {"y": 0.46, "width": 0.4, "height": 0.24, "t": s}
    smoke = {"y": 0.6, "radius": 0.1, "rise": 0.26, "age": p, "puffs": 8, "alpha": 0.55}
    role, away = "a", 0.0
    if event == "fire":
        size = 0.24 + 0.66 * grown
        tongue = {"y": 0.46 - 0.42 * grown, "width": 0.4 + 0.5 * grown, "height": size, "t": s}
        smoke |= {"y": 0.55 + 0.5 * grown, "radius": 0.1 + 0.1 * grown, "alpha": 0.7}
        away = 0.34 * ease((p - 0.4) / 1.6)
    else:
        tongue["height"] = 0.15 + 0.13 * plan.chance[3]
    things = (
        box,
        Thing("flames", -0.28, tongue, glow=True),
        Thing("cloud", -0.28, smoke, front=True),
    )
    person = Person(plan.looks[0], 0.22 + away, -1, pose(event, role, p))
    return Moment((_into(person, s) if plan.chance[1] < 0.5 else person,), things)


def _boiler(plan: Plan, event: str, s: float, end: float) -> Moment:
    torn = ease(max(0.0, s) / 0.2) if event == "explosion" else 0.0
    box = Thing("cabinet", 0.26, {"open_door": torn})
    if s < 0:
        return Moment((_approach(plan, 0, s, -0.36, plan.chance[1] < 0.6),), (box,))
    p = s * plan.tempo
    role = "loser" if plan.chance[2] < 0.5 else "a"
    thrown = -0.2 * ease(p / 0.6) if event == "explosion" else 0.0
    person = Person(plan.looks[0], -0.36 + thrown, 1, pose(event, role, p))
    if event == "explosion":
        effects = (
            Thing("debris", 0.26, {"y": 0.35, "age": s, "reach": 1.0}, front=True),
            Thing("blast", 0.26, {"y": 0.4, "age": s}, glow=True),
        )
    else:
        plume = {"y": 0.58, "radius": 0.16, "rise": 0.3, "age": p, "puffs": 14, "alpha": 0.7}
        effects = (Thing("cloud", 0.26, plume, front=True),)
    return Moment((_into(person, s) if plan.chance[1] < 0.6 else person,), (box, *effects))


def _alone(plan: Plan, event: str, s: float, end: float) -> Moment:
    if s < 0:
        return Moment((_approach(plan, 0, s, -0.05, True),), ())
    p = s * plan.tempo
    slide = 0.12 * ease(p / 0.6) if event == "fall" else 0.0
    role = "loser" if plan.chance[2] < 0.4 else "a"
    person = Person(plan.looks[0], -0.05 + slide, 1, pose(event, role, p))
    return Moment((_into(person, s),), ())


STAGES: dict[str, Callable[[Plan, str, float, float], Moment]] = {
    "fight": _couple,
    "robbery": _bag,
    "shooting": _aim,
    "smash": _window,
    "crash": _traffic,
    "fire": _barbecue,
    "explosion": _boiler,
    "fall": _alone,
}


def event_of(plan: Plan, abnormal: bool) -> str:
    """Name of the event shown by a twin."""
    return plan.pair.event if abnormal else plan.normal_event


def event_frames(plan: Plan) -> tuple[int, int]:
    """First frame of the event and one past its last; half the couples part before the end."""
    parts = plan.pair.event == "fight" and not _has_loser(plan)
    return plan.start, plan.end if parts else FRAMES


def moment(plan: Plan, abnormal: bool, t: float) -> Moment:
    """People and things at ``t`` seconds."""
    s = t - plan.start / FPS
    start, end = event_frames(plan)
    event = event_of(plan, abnormal) if s >= 0 else plan.normal_event
    passers = tuple(
        Person(
            b.look, b.start + b.speed * t, 1 if b.speed >= 0 else -1,
            pose("walk", "a", t + b.phase) if b.speed else STAND, in_event=False, depth=0.9,
        )
        for b in plan.bystanders
    )  # fmt: skip
    acting = STAGES[plan.pair.event](plan, event, s, (end - start) / FPS)
    return Moment(passers + acting.people, acting.things)
