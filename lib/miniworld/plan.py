"""Every random draw of a clip, made before the twin is chosen.

``draw_plan(seed, ...)`` takes no label, so a plan cannot depend on the twin: the two twins of a
seed share scene, light, people, clothes, props, timing, noise and compression.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

FPS, FRAMES, WIDTH, HEIGHT = 8, 64, 320, 240
DIALS = ("distance", "crowd", "occlusion", "night", "compression")  # uniform in [0, 1]

FACTS_FILE = Path(__file__).resolve().parents[2] / "params/facts/miniworld.yaml"
FACTS = yaml.safe_load(FACTS_FILE.read_text(encoding="utf-8"))
OUTDOOR = FACTS["scenes"]["outdoor"]
SCENES = OUTDOOR + FACTS["scenes"]["indoor"]
HELD_OUT_SCENE = "playground"  # in a fifth of the test plans, nowhere else
CLOTHES = FACTS["clothes"]


class Pair(NamedTuple):
    """An abnormal event, its class, and the everyday events that resemble it."""

    event: str
    class_name: str
    dataset: str
    normal: list[str]


PAIRS = [Pair(**pair) for pair in FACTS["pairs"]]
CLASSES = tuple(pair.class_name for pair in PAIRS)

# Ranges are disjoint; a clip's seed is the number in its file name.
SEEDS = {"train": range(1, 50_001), "dev": range(50_001, 70_001), "test": range(70_001, 100_001),
         "stills": range(100_001, 10_100_001)}  # fmt: skip


class Look(NamedTuple):
    """Clothes and build of a person."""

    kind: str  # "man" | "woman"
    upper: str  # colour names
    lower: str
    upper_rgb: tuple[int, int, int]
    lower_rgb: tuple[int, int, int]
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    size: float  # of the clip's body height
    striped: bool


class Bystander(NamedTuple):
    """A person who passes or stands behind the action."""

    look: Look
    start: float  # x at t = 0, body heights from the centre of the action
    speed: float  # body heights per second, sign = direction; 0 stands
    phase: float


class Plan(NamedTuple):
    """All of a clip except which twin it shows."""

    seed: int
    style: str
    pair: Pair
    normal_event: str
    scene: str
    distance: float
    crowd: float
    occlusion: float
    night: float
    compression: float
    height: float  # body height, pixels
    ground: float  # y of the feet, pixels
    centre: float  # x of the action, pixels
    mirror: bool
    start: int  # first frame of the event
    end: int  # one past its last frame
    tempo: float
    looks: tuple[Look, Look]
    bystanders: tuple[Bystander, ...]
    cars: tuple[tuple[str, tuple[int, int, int]], ...]
    cloud: int  # grey level of steam, smoke and dust
    light: tuple[float, float, float]
    stamp: str
    chance: tuple[float, ...]  # uniforms for the variants of an event and the occluder
    particles: np.ndarray  # (64, 4) uniforms
    entropy: int  # seeds background, sensor noise and wording

    @property
    def difficulty(self) -> str:
        """easy | medium | hard, by the mean of the five dials."""
        mean = sum(getattr(self, dial) for dial in DIALS) / len(DIALS)
        return "easy" if mean < 0.44 else "medium" if mean < 0.56 else "hard"


def _jitter(rng: np.random.Generator, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return tuple(int(c) for c in np.clip(np.asarray(colour) + rng.integers(-12, 13, 3), 0, 255))


def _either(rng: np.random.Generator, colours: list[list[int]]) -> tuple[int, int, int]:
    return tuple(colours[rng.integers(len(colours))])


def _look(rng: np.random.Generator, avoid: str = "") -> Look:
    upper = str(rng.choice([name for name in CLOTHES if name != avoid]))
    lower = str(rng.choice([name for name in FACTS["trousers"] if name != upper]))
    return Look(
        kind=str(rng.choice(["man", "woman"])),
        upper=upper,
        lower=lower,
        upper_rgb=_jitter(rng, CLOTHES[upper]),
        lower_rgb=_jitter(rng, tuple(int(c * 0.8) for c in CLOTHES[lower])),
        skin=_either(rng, FACTS["skins"]),
        hair=_either(rng, FACTS["hairs"]),
        size=float(rng.uniform(0.92, 1.06)),
        striped=bool(rng.random() < 0.2),
    )


def _bystander(rng: np.random.Generator) -> Bystander:
    look = _look(rng)
    side = float(rng.choice([-1.0, 1.0]))
    walks = rng.random() < 0.7
    start = side * float(rng.uniform(0.5, 1.3))
    speed = -side * float(rng.uniform(0.1, 0.3)) if walks else 0.0
    return Bystander(look, start, speed, float(rng.uniform(0, 1)))


def _scene(rng: np.random.Generator, pair: Pair, split: str) -> str:
    outside_only = pair.event in ("crash", "fire")
    scene = str(rng.choice(OUTDOOR if outside_only else SCENES))
    held_out = rng.random() < 0.2
    return HELD_OUT_SCENE if held_out and split == "test" else scene


def _stamp(rng: np.random.Generator) -> str:
    month, day, hour, minute = (rng.integers(*ends) for ends in ((1, 13), (1, 29), (24,), (60,)))
    return f"2024-{month:02d}-{day:02d} {hour:02d}:{minute:02d}:"


@lru_cache(maxsize=1)
def draw_plan(seed: int, split: str, world_seed: int = 0, style: str = "flat") -> Plan:
    """The plan of one pair of twins.

    ``seed`` modulo 8 selects the event, so that consecutive seeds are balanced.
    """
    rng = np.random.default_rng([world_seed, seed])
    pair = PAIRS[seed % len(PAIRS)]
    dials = dict(zip(DIALS, rng.random(5).tolist(), strict=True))
    distance = dials["distance"]
    height = HEIGHT * float(rng.uniform(0.55, 0.66)) * (1 - 0.32 * distance)
    start = int(rng.integers(15, 27))  # .23 to .41 of the clip
    length = int(rng.integers(30, 49))
    first = _look(rng)
    return Plan(
        seed,
        style,
        pair,
        normal_event=str(rng.choice(pair.normal)),
        scene=_scene(rng, pair, split),
        **dials,
        height=height,
        ground=HEIGHT * (0.95 - 0.1 * distance) + float(rng.uniform(-3, 3)),
        centre=WIDTH * float(rng.uniform(0.44, 0.56)),
        mirror=bool(rng.random() < 0.5),
        start=start,
        end=min(FRAMES, start + length),
        tempo=float(rng.uniform(0.85, 1.2)),
        looks=(first, _look(rng, avoid=first.upper)),
        bystanders=tuple(_bystander(rng) for _ in range(2))[: round(dials["crowd"] * 2.4)],
        cars=tuple((str(name), _jitter(rng, CLOTHES[str(name)]))
                   for name in rng.choice(list(CLOTHES), 2, replace=False)),
        cloud=int(rng.choice([70, 110, 165, 225])),
        light=tuple(rng.uniform(0.88, 1.08, 3).tolist()),
        stamp=_stamp(rng) if rng.random() < 0.5 else "",
        chance=tuple(rng.random(8).tolist()),
        particles=rng.random((64, 4)),
        entropy=int(rng.integers(2**62)),
    )  # fmt: skip
