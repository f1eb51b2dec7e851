"""Tables 5 to 7 with a chosen backbone and clip on this machine: the numbers of notebook 09."""

from harness import parser, save

from companion import costs, machine
from companion.flops import flops_table
from companion.profiles import load_params
from companion.stage_runs import resolve_device


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="ViT-B-32-quickgelu")
    options.add_argument("--frames", type=int, default=256)
    options.add_argument("--clips", type=int, default=8, help="micro-batch of the training step")
    options.add_argument("--checkpointing", default="all", help="none, all or a number of blocks")
    o = options.parse_args()
    changes = {"num_frames": o.frames, "backbone": o.backbone, "checkpointing": o.checkpointing}
    P = load_params("paper", changes)
    device, name = resolve_device(P), f"{o.backbone}_{o.frames}"
    ceilings = machine.ceilings(device)
    save(ceilings, "machine", o.out, device)
    save(flops_table(), "table5", o.out, device)
    ceiling = machine.flops_per_second(ceilings)
    save(costs.latency_table(P, ceiling, o.repeats), f"table7_{name}", o.out, device)
    hours = costs.training_table(P, ceiling, o.clips, o.repeats)
    save(hours.assign(checkpointing=o.checkpointing), f"table6_{name}", o.out, device)


if __name__ == "__main__":
    main()
