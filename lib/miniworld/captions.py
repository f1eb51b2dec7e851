"""Captions and hard negatives by template, in the style of VAGTA (Alert-CLIP, supplementary A).

The last wording of every event is the held-out family: test captions may use it, training and
development captions never do.
"""

import numpy as np

from miniworld.plan import Plan

WORDINGS: dict[str, tuple[str, ...]] = {
    "hug": ("{a} and {b} hug each other {at}", "{a} embraces {b} {at}",
            "{a} holds {b} in a warm hug {at}", "a friendly embrace of {a} and {b} {at}"),
    "talk": ("{a} and {b} talk to each other {at}", "{a} chats with {b} {at}",
             "{a} has a conversation with {b} {at}", "a calm chat of {a} and {b} {at}"),
    "handshake": ("{a} and {b} shake hands {at}", "{a} greets {b} with a handshake {at}",
                  "{a} gives {b} a hand {at}", "a polite handshake of {a} and {b} {at}"),
    "dance": ("{a} and {b} dance together {at}", "{a} dances with {b} {at}",
              "{a} and {b} move to music {at}", "a merry dance of {a} and {b} {at}"),
    "fight": ("{a} and {b} fight each other {at}", "{a} punches {b} {at}",
              "{a} kicks and hits {b} {at}", "a violent brawl of {a} and {b} {at}"),
    "hand-over": ("{b} hands a bag to {a} {at}", "{a} receives a bag from {b} {at}",
                  "{b} gives {a} a bag {at}", "a calm hand-over of a bag from {b} to {a} {at}"),
    "robbery": ("{a} snatches a bag from {b} {at}", "{a} robs {b} of a bag {at}",
                "{a} tears the bag from {b} and runs {at}", "a bag theft by {a} from {b} {at}"),
    "photo": ("{a} takes a photo of {b} {at}", "{a} photographs {b} {at}",
              "{a} points a camera at {b} who poses {at}", "a picture of {b} taken by {a} {at}"),
    "shooting": ("{a} shoots {b} with a gun {at}", "{a} fires a pistol at {b} {at}",
                 "{a} points a gun at {b} who falls {at}", "gun shots by {a} at {b} {at}"),
    "clean": ("{a} cleans a window {at}", "{a} wipes the glass with a pole {at}",
              "{a} washes a glass panel {at}", "careful window cleaning by {a} {at}"),
    "smash": ("{a} smashes a window {at}", "{a} breaks the glass with a bat {at}",
              "{a} destroys a glass panel {at}", "wilful window breaking by {a} {at}"),
    "wait": ("{c} stops behind {d} {at}", "{c} brakes and waits near {d} {at}",
             "{c} waits calmly beside {d} {at}", "an orderly stop of {c} by {d} {at}"),
    "park": ("{c} parks behind {d} {at}", "{c} stops and parks near {d} {at}",
             "{c} slowly parks beside {d} {at}", "an orderly parking of {c} by {d} {at}"),
    "crash": ("{c} crashes into {d} {at}", "{c} hits {d} and pieces fly {at}",
              "{c} collides with {d} {at}", "a car accident of {c} and {d} {at}"),
    "grill": ("{a} cooks at a grill {at}", "{a} tends a small barbecue {at}",
              "{a} grills food over low flames {at}", "a quiet barbecue run by {a} {at}"),
    "fire": ("{a} flees from a burning grill {at}", "a grill bursts into flames near {a} {at}",
             "high flames spread beside {a} {at}", "a dangerous blaze before {a} {at}"),
    "steam": ("a cabinet lets off steam near {a} {at}", "{a} watches vapour of a boiler {at}",
              "vapour drifts from a cabinet beside {a} {at}", "harmless vapour before {a} {at}"),
    "explosion": ("a cabinet explodes near {a} {at}", "{a} is hit by the blast of a boiler {at}",
                  "a blast tears a cabinet beside {a} {at}", "a sudden detonation before {a} {at}"),
    "stretch": ("{a} stretches both arms {at}", "{a} does stretching exercises {at}",
                "{a} stands and stretches {at}", "a relaxed stretch of {a} {at}"),
    "tie shoe": ("{a} kneels and ties a shoe {at}", "{a} bends down to tie a shoe {at}",
                 "{a} fixes a shoe lace {at}", "a short stop of {a} to tie laces {at}"),
    "wave": ("{a} waves a hand {at}", "{a} stands and waves {at}",
             "{a} greets someone with a wave {at}", "a friendly wave of {a} {at}"),
    "sit": ("{a} sits down on the ground {at}", "{a} sits and rests {at}",
            "{a} takes a seat on the floor {at}", "a quiet rest of {a} on the floor {at}"),
    "fall": ("{a} falls to the ground {at}", "{a} trips and falls {at}",
             "{a} slips and lies on the floor {at}", "a sudden tumble of {a} {at}"),
}  # fmt: skip

PLACES = {
    "street": "on the street", "park": "in the park", "square": "on the square",
    "car park": "in the car park", "bridge": "on the bridge", "playground": "on the playground",
    "station platform": "on the station platform", "corridor": "in the corridor",
    "library": "in the library", "shop": "in the shop",
}  # fmt: skip
CLASS_WORDS = {"RoadAccidents": ("RoadAccidents", "Traffic accident"),
               "People_falling": ("People_falling", "People falling")}  # fmt: skip
NEGATIVES = 3


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def fill(template: str, plan: Plan, detail: str, place: bool = True) -> str:
    """A wording with the people, cars and place of a plan.

    detail: "coarse" leaves clothes out (so that captions recur, as VAGTA's do), "clothes" names
    the shirt, "full" the trousers too where there is one person.
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


def _prefix(plan: Plan, abnormal: bool, rng: np.random.Generator) -> str:
    if not abnormal:
        return "Normal video: "
    words = CLASS_WORDS.get(plan.pair.class_name, (plan.pair.class_name,))
    kind = rng.choice(["abnormal", "abnormal", "anomaly", "unusual"])
    return f"{rng.choice(words)} {kind} video: "


def _negatives(
    plan: Plan, abnormal: bool, rng: np.random.Generator, held_out: bool, detail: str
) -> list[str]:
    """Three wordings of what the other twin could show, same people and place."""
    events = plan.pair.normal if abnormal else (plan.pair.event,)
    wordings = [w for event in events for w in WORDINGS[event][: None if held_out else -1]]
    order = rng.permutation(len(wordings))[:NEGATIVES]
    return [fill(wordings[k], plan, detail) for k in order]


def describe(plan: Plan, abnormal: bool, split: str) -> tuple[str, str, list[str]]:
    """Global caption, region caption and hard negatives of one clip."""
    rng = np.random.default_rng([plan.entropy, 3, int(abnormal)])
    held_out = split == "test"
    event = plan.pair.event if abnormal else plan.normal_event
    # Half of VAGTA's global captions occur more than once: they name the event, not the person.
    brief = "coarse" if rng.random() < 0.8 else "clothes"
    short = fill(_wording(event, rng, held_out), plan, brief, place=bool(rng.random() < 0.5))
    detail = str(rng.choice(["coarse", "clothes", "full"], p=[0.2, 0.3, 0.5]))
    region = fill(_wording(event, rng, held_out), plan, detail)
    negatives = _negatives(plan, abnormal, rng, held_out, detail)
    return _prefix(plan, abnormal, rng) + short[0].lower() + short[1:], region, negatives
