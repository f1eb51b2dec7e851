"""The curves of notebook 08 on many clips: ``python -m companion.failures -p failure_clips=200``.

Needs a finished notebook 04 of the profile. Writes runs/<profile>/failures_reference.csv.
"""

import argparse
import sys
from collections.abc import Sequence

from alertclip.errors import InputError
from companion.failures import all_curves, measure
from companion.figures.style import write_table
from companion.profiles import load_params, parse_overrides


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 after an error that it has told."""
    parser = argparse.ArgumentParser(prog="python -m companion.failures", description=__doc__)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args(arguments)
    try:
        P = load_params(args.profile, parse_overrides(args.overrides))
        write_table(all_curves(P, measure(P)), P.run_dir / "failures_reference.csv")
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
