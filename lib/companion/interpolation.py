"""Between CLIP and the tuned model: weight interpolation (WiSE-FT) against forgetting.

``python -m companion.interpolation --profile mini --seeds 0 1 2 3 4`` measures detection on the
development clips, and what is still told on stills, for several shares of the tuned weights.
Writes runs/<profile>/interpolation_dev.csv.
"""

import argparse
import copy
from collections.abc import Sequence

import pandas as pd
import torch

from alertclip.model import AlertCLIP
from companion import ablations, tuned_models
from companion.ablation_tables import student_table
from companion.figures.style import write_table
from companion.learning_curves import measured
from companion.profiles import Params, load_params, parse_overrides
from companion.splits import Split

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def interpolated(clip: AlertCLIP, tuned: AlertCLIP, share: float) -> AlertCLIP:
    """theta = (1 - share) theta_CLIP + share theta_tuned in both towers (Wortsman et al., eq. 1).

    The temporal head, which CLIP lacks, stays the tuned one. Adapters must be merged.
    """
    between = copy.deepcopy(tuned)
    weights = tuned.backbone.model.state_dict()
    mixed = {
        name: torch.lerp(start, weights[name], share) if start.is_floating_point() else start
        for name, start in clip.backbone.model.state_dict().items()
    }
    between.backbone.model.load_state_dict(mixed)
    return between


def measure(P: Params, seed: int, shares: Sequence[float], split: Split) -> pd.DataFrame:
    """Tidy metrics of the full method under a seed. Columns share, seed, metric, value."""
    trained = ablations.train_variant(P, "full", seed)
    clip, tuned = (tuned_models.stage_model(trained, stage) for stage in ("clip", "full"))
    models = [interpolated(clip, tuned, share) for share in shares]
    table = measured(trained, shares, models, split).rename(columns={"name": "share"})
    return table.assign(seed=seed)


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Paired differences to the tuned weights (share 1) over seeds.

    Columns metric, share, change, low, high (95%, Student's t), seeds.
    """
    wide = table.pivot(index=["metric", "seed"], columns="share", values="value")
    return student_table(wide.drop(columns=1.0).sub(wide[1.0], axis=0).stack(), "change")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m companion.interpolation", description=__doc__)
    add = parser.add_argument
    add("--profile", default="mini")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--shares", type=float, nargs="+", default=SHARES, help="of the tuned weights")
    add("--split", choices=("dev", "test"), default="dev")
    add("-p", nargs="*", action="extend", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args(arguments)
    P = load_params(args.profile, ablations.WHOLE | parse_overrides(args.overrides))
    tables = [measure(P, seed, args.shares, args.split) for seed in args.seeds]
    write_table(pd.concat(tables, ignore_index=True), P.run_dir / f"interpolation_{args.split}.csv")


if __name__ == "__main__":
    main()
