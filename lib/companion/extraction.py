"""Snippet features of a profile's benchmark, by shares: what notebooks 05 and 06 would extract.

``python -m companion.extraction --profile paper --shard 2/8`` on each of eight machines with one
runs/ folder between them; the notebooks then find every feature. Shares may run in any order, at
once or again, and write the same files as one process does.
"""

import argparse
import sys
from collections.abc import Sequence

from alertclip.errors import InputError
from alertclip.files import Shard, parse_shard
from companion.profiles import Params, load_params, parse_overrides
from companion.tuned_models import STAGES, Stage
from detectors import cross_domain, weakly_supervised
from detectors.weakly_supervised import Detector


def extract(
    P: Params, wanted: Sequence[Stage], detectors: Sequence[Detector], shard: Shard
) -> None:
    """Features of the profile's benchmark; VadCLIP's also where notebook 05 asks for others."""
    for detector in detectors:
        weakly_supervised.extract_for_all(P, wanted, detector, shard=shard)
    if "vadclip" not in detectors:
        return
    if P.evaluation.open_vocabulary_changes:
        partitioned = cross_domain.changed(P, P.evaluation.open_vocabulary_changes)
        weakly_supervised.extract_for_all(partitioned, wanted, "vadclip", shard=shard)
    for domain in list(cross_domain.domains(P).values())[1:]:
        weakly_supervised.extract_for_all(domain, wanted, "vadclip", training=False, shard=shard)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 after an error that it has told."""
    parser = argparse.ArgumentParser(prog="python -m companion.extraction", description=__doc__)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="share of the videos")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    choices = list(weakly_supervised.DETECTORS)
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
