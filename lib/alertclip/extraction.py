"""Snippet features of a profile's benchmark, by shares: what notebooks 05 and 06 would extract.

``python -m alertclip.extraction --profile paper --shard 2/8`` on each of eight machines with one
runs/ folder between them; the notebooks then find every feature. Shares may run in any order, at
once or again, and write the same files as one process does.
"""

import argparse
import sys
from collections.abc import Sequence

from alertclip import transfer, weak
from alertclip.errors import InputError
from alertclip.params import load_params, parse_overrides
from alertclip.shards import parse_shard
from alertclip.stages import STAGES


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 after an error that it has told."""
    parser = argparse.ArgumentParser(prog="python -m alertclip.extraction", description=__doc__)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="share of the videos")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    choices = list(weak.DETECTORS)
    parser.add_argument("--detectors", nargs="+", choices=choices, default=choices)
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args(arguments)
    try:
        P, shard = (
            load_params(args.profile, parse_overrides(args.overrides)),
            parse_shard(args.shard),
        )
        for detector in args.detectors:
            weak.extract_for_all(P, args.stages, detector, shard=shard)
        if "vadclip" in args.detectors:  # the zero-shot tables of notebook 05
            for domain in list(transfer.domains(P).values())[1:]:
                weak.extract_for_all(domain, args.stages, "vadclip", training=False, shard=shard)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
