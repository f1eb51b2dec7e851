"""A procedural surveillance world: twin clips that differ in nothing but the event.

Each seed is one pair of twins, an everyday event and the abnormal one that resembles it, equal to
the last byte before the event starts. Files and annotations follow UCF-Crime, MSAD and VAGTA, so
that the code for the real data runs on them unchanged.
"""

import argparse
from pathlib import Path

from miniworld.plan import CLASSES, HELD_OUT_SCENE
from miniworld.stills import stills
from miniworld.world import generate

__all__ = ["CLASSES", "HELD_OUT_SCENE", "generate", "main", "stills"]


def main() -> None:
    """Command line: render a world into a folder."""
    parser = argparse.ArgumentParser(prog="python -m miniworld")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--dev", type=int, default=160)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--style", choices=["flat", "line"], default="flat")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print(generate(**vars(args)))
