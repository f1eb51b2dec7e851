"""Captions and hard negatives from templates, in the style of VAGTA (Alert-CLIP, supplementary A).

The last wording of every event is held out: only test captions may use it.
"""

import numpy as np

from miniworld.plan import FACTS, Plan

WORDINGS, PLACES = FACTS["wordings"], FACTS["places"]
NEGATIVES = 3


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def fill(template: str, plan: Plan, detail: str, place: bool = True) -> str:
    """A wording filled in with the people, cars and place of a plan.

    detail: "coarse" leaves out clothes (so that captions recur, as VAGTA's do), "clothes" names
    the shirt, "full" also the trousers if there is only one person.
    """

    def person(who: int) -> str:
        look = plan.looks[who]
        if detail == "coarse":
            return f"a {look.kind}"
        if detail == "full" and "{b}" not in template:
            return f"a {look.kind} in {article(look.upper)} shirt and {look.lower} trousers"
        return f"a {look.kind} in {look.upper}"

    cars = ["a car", "another car"]
    if detail != "coarse":
        cars = [article(f"{name} car") for name, _ in plan.cars]
    at = PLACES[plan.scene] if place else ""
    text = template.format(a=person(0), b=person(1), c=cars[0], d=cars[1], at=at).strip()
    return text[0].upper() + text[1:] + "."


def _wording(event: str, rng: np.random.Generator, held_out: bool) -> str:
    choices = WORDINGS[event]
    held_out = held_out and rng.random() < 0.3
    return choices[-1 if held_out else rng.integers(len(choices) - 1)]


def describe(plan: Plan, abnormal: bool, split: str) -> tuple[str, str, list[str]]:
    """Global caption, region caption and three hard negatives of one clip.

    The negatives describe what the other twin could show, with the same people and place.
    """
    rng, pair = np.random.default_rng([plan.entropy, 3, int(abnormal)]), plan.pair
    held_out = split == "test"
    event = pair.event if abnormal else plan.normal_event
    # Half of VAGTA's global captions occur more than once: they name the event, not the person.
    brief = "coarse" if rng.random() < 0.8 else "clothes"
    short = fill(_wording(event, rng, held_out), plan, brief, place=bool(rng.random() < 0.5))
    detail = str(rng.choice(["coarse", "clothes", "full"], p=[0.2, 0.3, 0.5]))
    region = fill(_wording(event, rng, held_out), plan, detail)
    others = pair.normal if abnormal else [pair.event]
    wordings = [w for other in others for w in WORDINGS[other][: None if held_out else -1]]
    order = rng.permutation(len(wordings))[:NEGATIVES]
    negatives, prefix = [fill(wordings[k], plan, detail) for k in order], "Normal video"
    if abnormal:
        kind = rng.choice(["abnormal", "abnormal", "anomaly", "unusual"])
        words = FACTS["class_words"].get(pair.class_name, [pair.class_name])
        prefix = f"{rng.choice(words)} {kind} video"
    return f"{prefix}: {short[0].lower()}{short[1:]}", region, negatives
