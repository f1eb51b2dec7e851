"""``python -m companion.figures NAME...``: draw figures again from their CSVs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alertclip.errors import InputError
from companion.figures.catalogue import CATALOGUE, redraw
from companion.profiles import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 2 for a name or folder that does not exist."""
    about = "Draw figures again from their CSVs, without model or data."
    names = f"names: {', '.join(CATALOGUE)}"
    parser = argparse.ArgumentParser("python -m companion.figures", None, about, names)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--folder", type=Path, default=ROOT / "figures", help="where the CSVs are")
    parser.add_argument("--out", type=Path, help="where the PNGs go (default: beside the CSVs)")
    args = parser.parse_args(arguments)
    try:
        for name in args.names:
            redraw(name, args.folder, args.out)
            print((args.out or args.folder) / f"{name}.png")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
