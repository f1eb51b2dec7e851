"""Peak memory and time of a training step by policy of activation checkpointing.

Each line is measured in this process: the peak of tensors on a GPU, of the process on a CPU.
"""

import pandas as pd
from harness import parser, save

from companion.costs import measure_step
from companion.profiles import load_params
from companion.stage_runs import resolve_device

POLICIES = ("none", "4", "2", "all")  # the fastest first


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--profile", default="mini")
    options.add_argument("--clips", type=int, help="of a micro-batch (default: Stage II's)")
    options.add_argument("--frames", type=int, help="of a clip (default: the profile's)")
    o = options.parse_args()
    P = load_params(o.profile, {"num_frames": o.frames} if o.frames else {})
    clips, rows = o.clips or P.stage2.batch_size, []
    for stage in (1, 2):
        for policy in POLICIES:
            step = measure_step(P.changed({"checkpointing": policy}), stage, clips, o.repeats)
            rows.append((stage, policy, step.memory, *step.seconds))
    columns = ["stage", "checkpointing", "peak_gb", "seconds", "low", "high", "n"]
    sizes = {"backbone": P.model.backbone, "clips": clips, "frames": P.data.num_frames}
    table = pd.DataFrame(rows, columns=columns).assign(**sizes)
    save(table, f"memory_{P.profile}", o.out, resolve_device(P))


if __name__ == "__main__":
    main()
