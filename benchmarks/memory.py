"""Memory and time of a training step by policy of activation checkpointing.

foreseen_gb   from steps on an eighth and on a quarter of the clips, as checkpointing=auto does
counted_gb    the peak of all tensors in the whole step
process_gb    the peak of the whole process (of tensors on a GPU) in the step that is timed
"""

import math

import pandas as pd
from harness import parser, save

from companion.efficiency.training_cost import measure_step, memory_table
from companion.profiles import load_params
from companion.stage_runs import resolve_device


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--profile", default="mini")
    options.add_argument("--clips", type=int, help="of a micro-batch (default: Stage II's)")
    options.add_argument("--frames", type=int, help="of a clip (default: the profile's)")
    o = options.parse_args()
    P = load_params(o.profile, {"num_frames": o.frames} if o.frames else {})
    clips, times = o.clips or P.stage2.batch_size, []
    table = memory_table(P, clips)
    for row in table.itertuples():
        policy = P.changed({"checkpointing": row.checkpointing})
        fits = not math.isnan(row.counted_gb)
        step = measure_step(policy, row.stage, clips, o.repeats) if fits else None
        times.append((step.memory, *step.seconds) if step else [math.nan] * 5)
    columns = ["process_gb", "seconds", "low", "high", "n"]
    table = table.join(pd.DataFrame(times, columns=columns))
    sizes = {"backbone": P.model.backbone, "clips": clips, "frames": P.data.num_frames}
    save(table.assign(**sizes), f"memory_{P.profile}", o.out, resolve_device(P))


if __name__ == "__main__":
    main()
