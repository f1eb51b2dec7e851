"""Between CLIP and the tuned model: weight interpolation (WiSE-FT) against forgetting.

``python -m companion.interpolation --profile mini --seeds 0 1 2 3 4`` trains the full method as
``companion.ablations`` does and measures detection on the development clips, and what is still
told on stills, for several shares of the tuned weights; writes
runs/<profile>/interpolation_reference.csv, committed as figures/interpolation_dev.csv.
"""

import copy
import sys

import pandas as pd
import torch

from alertclip.model import AlertCLIP
from companion import ablations, tuned_models
from companion.ablation_tables import student_table
from companion.learning_curves import measured
from companion.profiles import Params

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


def measure(P: Params, name: str, seed: int) -> pd.DataFrame:
    """Development metrics of a variant at each share of its weights: share, metric, value."""
    trained = ablations.train_variant(P, name, seed)
    clip, tuned = (tuned_models.stage_model(trained, stage) for stage in ("clip", "full"))
    models = [interpolated(clip, tuned, share) for share in SHARES]
    return measured(trained, SHARES, models).rename(columns={"name": "share"})


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Paired differences to the tuned weights (share 1) over seeds.

    Columns metric, share, change, low, high (95%, Student's t), seeds.
    """
    wide = table.pivot(index=["metric", "seed"], columns="share", values="value")
    return student_table(wide.drop(columns=1.0).sub(wide[1.0], axis=0).stack(), "change")


if __name__ == "__main__":
    sys.exit(ablations.main(measure, "interpolation", ("full",), __doc__))
