"""Tables 5 to 7 with a chosen backbone and clip on this machine: the numbers of notebook 09."""

from harness import parser, save

from companion import flops, latency
from companion.profiles import load_params
from companion.stage_runs import resolve_device


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="ViT-B-32-quickgelu")
    options.add_argument("--frames", type=int, default=256)
    options.add_argument("--clips", type=int, default=8, help="micro-batch of the training step")
    options.add_argument("--checkpointing", default="all", choices=("none", "all"))
    o = options.parse_args()
    names = ("backbone", "checkpointing")
    P = load_params("paper", {"num_frames": o.frames, **{n: getattr(o, n) for n in names}})
    device, name = resolve_device(P), f"{o.backbone}_{o.frames}"
    speed = latency.matmul_speed(device)
    save(speed, "machine", o.out, device)
    save(flops.table5(), "table5", o.out, device)
    save(latency.latency_table(P, speed, o.repeats), f"table7_{name}", o.out, device)
    hours = latency.training_table(P, speed, o.clips, o.repeats)
    save(hours.assign(checkpointing=o.checkpointing), f"table6_{name}", o.out, device)


if __name__ == "__main__":
    main()
