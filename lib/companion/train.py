"""``python -m companion.train --profile mini --stage 1 [-p name=value ...]``.

On several GPUs, or processes, with the same result up to rounding and dropout's random numbers:
``torchrun --nproc_per_node 8 -m companion.train --profile paper --stage 1``.
"""

import argparse
import sys

from alertclip.distributed import processes, rank
from companion.profiles import load_params, parse_overrides
from companion.stage_runs import run_stage
from media.errors import InputError


def main() -> None:
    """Train one stage of a profile; started again, it goes on where it stopped."""
    parser = argparse.ArgumentParser(prog="python -m companion.train", description=__doc__)
    parser.add_argument("--profile", default="mini", help="params/<profile>.yaml, joined by +")
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args()
    try:
        params = load_params(args.profile, parse_overrides(args.overrides))
        with processes():
            out = run_stage(params, args.stage)
            if rank() == 0:
                print(out)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
