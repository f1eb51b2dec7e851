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
from alertclip.params import Params, load_params, parse_overrides
from alertclip.shards import Shard, parse_shard
from alertclip.stages import STAGES, Stage
from alertclip.weak import Detector


def extract(
    P: Params, wanted: Sequence[Stage], detectors: Sequence[Detector], shard: Shard
) -> None:
    """Features of the profile's benchmark; VadCLIP's also where notebook 05 asks for others."""
    for detector in detectors:
        weak.extract_for_all(P, wanted, detector, shard=shard)
    if "vadclip" not in detectors:
        return
    if P.open_vocabulary_changes:
        partitioned = transfer.changed(P, P.open_vocabulary_changes)
        weak.extract_for_all(partitioned, wanted, "vadclip", shard=shard)
    for domain in list(transfer.domains(P).values())[1:]:
        weak.extract_for_all(domain, wanted, "vadclip", training=False, shard=shard)


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
        P = load_params(args.profile, parse_overrides(args.overrides))
        extract(P, args.stages, args.detectors, parse_shard(args.shard))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
