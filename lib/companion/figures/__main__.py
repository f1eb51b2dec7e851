"""``python -m companion.figures NAME...``: draw figures again, without model or data."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from companion.figures.catalogue import DRAWN, redraw
from companion.profiles import ROOT
from media.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 2 for a name or folder that does not exist."""
    parser = argparse.ArgumentParser("python -m companion.figures", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(DRAWN))
    parser.add_argument("--folder", type=Path, default=ROOT / "figures", help="of CSVs and PNGs")
    args = parser.parse_args(arguments)
    try:
        for name in args.names:
            redraw(name, args.folder)
            print(args.folder / f"{name}.png")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
