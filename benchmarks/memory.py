"""Memory and time of a training step by policy of activation checkpointing.

foreseen_gb   from steps on an eighth and on a quarter of the clips, as checkpointing=auto does
counted_gb    the peak of all tensors in the whole step
process_gb    the peak of the whole process (of tensors on a GPU) in the step that is timed
"""

import pandas as pd
from harness import parser, save

from alertclip.efficiency.training import measure_step, stage_start
from alertclip.params import Params, load_params
from alertclip.training.footprint import POLICIES, foreseen_bytes, step_bytes
from alertclip.training.settings import stage_settings
from alertclip.training.stage import resolve_device


def row(P: Params, stage: int, clips: int, repeats: int) -> dict[str, object]:
    """One stage under the policy of ``P``."""
    settings, regions = stage_settings(P, stage), stage == 2
    model = stage_start(P, stage).train().to(resolve_device(P))
    size = clips, P.num_frames, regions
    foreseen, counted = (f(model, settings, *size) / 1e9 for f in (foreseen_bytes, step_bytes))
    step = measure_step(P, stage, clips, repeats)
    own = {"stage": stage, "checkpointing": P.checkpointing, "precision": settings.precision}
    numbers = {"foreseen_gb": foreseen, "counted_gb": counted, "process_gb": step.memory}
    times = dict(zip(("seconds", "low", "high", "n"), step.seconds, strict=True))
    return own | numbers | {"off_percent": 100 * (foreseen / counted - 1)} | times


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--profile", default="mini")
    options.add_argument("--clips", type=int, help="of a micro-batch (default: Stage II's)")
    options.add_argument("--frames", type=int, help="of a clip (default: the profile's)")
    o = options.parse_args()
    P = load_params(o.profile, {"num_frames": o.frames} if o.frames else {})
    clips = o.clips or P.stage2_batch_size
    policies = (P.model_copy(update={"checkpointing": policy}) for policy in POLICIES)
    rows = [row(Q, stage, clips, o.repeats) for Q in policies for stage in (1, 2)]
    sizes = {"backbone": P.backbone, "clips": clips, "frames": P.num_frames}
    save(pd.DataFrame(rows).assign(**sizes), f"memory_{P.profile}", o.out, resolve_device(P))


if __name__ == "__main__":
    main()
