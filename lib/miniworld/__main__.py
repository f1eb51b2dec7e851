"""Render a world: ``python -m miniworld --out DIR``."""

import argparse
from pathlib import Path

from miniworld import generate


def main() -> None:
    """Command line; prints the path of world.json."""
    parser = argparse.ArgumentParser(prog="python -m miniworld")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--style", choices=["flat", "line"], default="flat")
    sizes = {"train": 800, "dev": 160, "test": 400}
    for name, default in {**sizes, "seed": 0, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    print(generate(**vars(args)))


if __name__ == "__main__":
    main()
