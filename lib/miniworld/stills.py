"""Stills for the prior: single frames with neutral captions.

The prior must know what CLIP knows (scenes, clothes, objects, postures) and share its blind spot:
35 % of the stills show the abnormal twin, but captions depend on the twin only through visible
postures and shapes. Topic and generic phrases are drawn without regard to the twin.
"""

from functools import partial

import cv2
import numpy as np

from media.errors import InputError
from media.files import progress
from miniworld.captions import PLACES, WORDINGS, article
from miniworld.events import Moment, moment
from miniworld.plan import FACTS, FPS, HEIGHT, SEEDS, WIDTH, Plan, draw_plan
from miniworld.poses import posture
from miniworld.render import Shot, event_box
from miniworld.world import parallel

ABNORMAL_SHARE, TOPIC_SHARE, GENERIC_SHARE = 0.35, 0.25, 0.10
GENERIC, TOPICS, OBJECTS = FACTS["generic"], FACTS["topics"], FACTS["objects"]
PEOPLE = {"a": "someone", "b": "a person", "c": "a car", "d": "another car"}


def _shapes(plan: Plan, now: Moment) -> list[str]:
    """Phrases for the effects in view."""
    kinds = {thing.kind: thing.options for thing in now.things}
    phrases = {
        "white vapour" if plan.cloud > 140 else "dark cloud": kinds.keys() & {"cloud", "blast"},
        "bright light": "flash" in kinds,
        "bright orange light": "flash" not in kinds
        and ("flames" in kinds or kinds.get("blast", {"age": 1})["age"] < 0.5),
        "small pieces on the ground": "debris" in kinds or kinds.get("window", {}).get("broken"),
    }
    return [phrase for phrase, seen in phrases.items() if seen]


def _phrases(plan: Plan, now: Moment, rng: np.random.Generator) -> list[str]:
    """All phrases a neutral observer could say of the moment."""
    actors = [p for p in now.people if p.in_event]
    phrases = []
    for person in actors:
        look = person.look
        clothes = f"a {look.kind} in {article(look.upper)} shirt"
        if rng.random() < 0.4:
            clothes += f" and {look.lower} trousers"
        phrases.append(f"{clothes} {posture(person.pose)}" if rng.random() < 0.6 else clothes)
        if rng.random() < 0.5:
            phrases.append(f"a person {posture(person.pose)}")
        if person.held:
            phrases.append(f"holding a {FACTS['held'][person.held]}")
    if len(actors) == 2:
        apart = abs(actors[0].x - actors[1].x)
        phrases.append("two people close together" if apart < 0.55 else "two people far apart")
    if plan.pair.event == "crash":
        cars = [article(f"{name} car") for name, _ in plan.cars]
        phrases += [*cars, " and ".join(cars)]
    elif plan.pair.event in ("smash", "fire", "explosion"):
        phrases += [f"a {OBJECTS[plan.pair.event]}"] * 2
    return phrases + _shapes(plan, now)


def _caption(plan: Plan, now: Moment, rng: np.random.Generator) -> str:
    """1-3 random phrases, at times led by a topic or generic phrase, mostly ending in the scene.

    A topic is what either twin may do: the prior learns its words, not which twin they fit.
    """
    phrases = list(dict.fromkeys(_phrases(plan, now, rng)))
    rng.shuffle(phrases)
    chosen = phrases[: rng.integers(1, 4)]
    draw = rng.random()
    if draw < TOPIC_SHARE:
        event = plan.pair.event if rng.random() < 0.5 else str(rng.choice(plan.pair.normal))
        wording = str(rng.choice(WORDINGS[event][:-1] + TOPICS[event]))  # the last is held out
        chosen.insert(0, wording.format(**PEOPLE, at="").strip())
    elif draw < TOPIC_SHARE + GENERIC_SHARE:
        chosen.insert(0, str(rng.choice(GENERIC)))
    if rng.random() < 0.6:
        chosen[-1] += f" {PLACES[plan.scene]}"
    return ", ".join(chosen)


def _zoom(image: np.ndarray, box: tuple | None, rng: np.random.Generator) -> np.ndarray:
    """Crop around the event's box with a random margin, 4:3 like the frame."""
    x1, y1, x2, y2 = box or (0.25, 0.25, 0.75, 0.95)
    side = min(1.0, max(x2 - x1, y2 - y1, 0.3) * rng.uniform(1.05, 1.5))
    middle = np.array([x1 + x2, y1 + y2]) / 2 + rng.uniform(-0.05, 0.05, 2)
    x, y = np.clip(middle, side / 2, 1 - side / 2) - side / 2
    top, left = round(y * HEIGHT), round(x * WIDTH)
    return image[top : top + round(side * HEIGHT), left : left + round(side * WIDTH)]


def still(
    size: tuple[int, int], world_seed: int, seed: int
) -> tuple[np.ndarray, tuple[str, str], dict[str, str]]:
    """Full frame and zoom of one seed (2, H, W, 3), a caption of each, and their attributes."""
    cv2.setNumThreads(1)
    plan = draw_plan(seed, "stills", world_seed)
    rng = np.random.default_rng([world_seed, seed, 4])
    abnormal = bool(rng.random() < ABNORMAL_SHARE)
    # Mostly during the event: before it, all pairs look alike.
    first = plan.start + 3 if rng.random() < 0.8 else 4
    t = float(rng.uniform(first, 63)) / FPS
    image, box = Shot(plan).frame(abnormal, t), event_box(plan, abnormal, t)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(95 - 60 * plan.compression)]
    image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    views = image, _zoom(image, box, rng)
    images = np.stack([cv2.resize(v, size[::-1], interpolation=cv2.INTER_AREA) for v in views])
    now = moment(plan, abnormal, t)
    captions = _caption(plan, now, rng), _caption(plan, now, rng)
    actor = next((p for p in now.people if p.in_event and p.look is plan.looks[0]), None)
    attributes = {
        "scene": plan.scene,
        "colour": actor.look.upper if actor else plan.cars[0][0],
        "object": OBJECTS.get(plan.pair.event, "none"),
        "posture": posture(actor.pose) if actor else "none",
        "pair": plan.pair.event,
        "abnormal": str(int(abnormal)),
    }
    return images, captions, attributes


def stills(
    count: int, seed: int, size: tuple[int, int] = (128, 128), workers: int = 2
) -> tuple[np.ndarray, list[str], list[dict[str, str]]]:
    """Images (count, H, W, 3) uint8 RGB, captions, attributes; two views per seed.

    ``seed`` is that of the world; the seeds of stills are disjoint from those of all clips.
    """
    seeds = SEEDS["stills"][: (count + 1) // 2]
    if count > 2 * len(seeds):
        raise InputError(f"count={count}: at most {2 * len(seeds)} stills")
    images = np.empty((2 * len(seeds), *size, 3), np.uint8)
    captions, attributes = [], []
    work = parallel(partial(still, size, seed), seeds, workers)
    for k, (views, texts, facts) in enumerate(progress(work, len(seeds), "rendering stills")):
        images[2 * k : 2 * k + 2] = views
        captions += texts
        attributes += [facts] * 2
    return images[:count], captions[:count], attributes[:count]
