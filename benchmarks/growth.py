"""How time and memory grow: slope on log-log axes, 1 where twice the work takes twice the time.

score: frames        sampled frames of one video, scored as a stream: memory should stay flat
train: clips         clips of an optimiser step in micro-batches of eight: memory should stay flat
train: frames        frames per clip of one micro-batch: memory holds activations and grows
train: regions       regions per clip: their share is small, so the slope of the whole is below 1
curation: clips      fingerprints searched for copies, five of each, by approximate neighbours

Every point is a process of its own, MiniCLIP by default.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from harness import answer, parser, run_contender, save
from videos import write_video

from alertclip.anomaly_curve import embed_prompts, score_video
from alertclip.backbone import load_backbone
from alertclip.clips import Batch
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from alertclip.training import Run
from companion.latency import random_batch, stage_start
from companion.profiles import PROFILES, load_params
from curation.redundancy import Fingerprint, compare

CPU, CLIPS, FRAMES, STRIDE = torch.device("cpu"), 8, 8, 4
COPIES, MOMENTS = 5, 8  # clips of one recording; hashes per clip
AXES = {  # values of the one size that grows
    "score: frames": (128, 256, 512, 1024),
    "train: clips": (8, 16, 32, 64),
    "train: frames": (8, 16, 32, 64),
    "train: regions": (1, 4, 16, 64),
    "curation: clips": (12_500, 25_000, 50_000, 100_000),
}
Work = Callable[[], np.ndarray]


def work_of(backbone: str, axis: str, size: int, folder: Path) -> Work:
    """The work of one point."""
    if axis == "score: frames":
        return score_work(backbone, size, folder)
    if axis == "curation: clips":
        return curation_work(size)
    return train_work(backbone, axis, size, folder)


def score_work(backbone: str, frames: int, folder: Path) -> Work:
    """Score one video of which ``frames`` are sampled."""
    torch.manual_seed(0)
    model = AlertCLIP(load_backbone(backbone)).eval()
    prompts = embed_prompts(model, load_prompts(PROFILES / "prompts.yaml"))
    path = write_video(folder / f"{frames}.mp4", frames * STRIDE, seed=0)
    return lambda: score_video(model, path, prompts, num_frames=FRAMES, stride=STRIDE).scores


def curation_work(count: int) -> Work:
    """Find the copies among the fingerprints of ``count`` clips; returns the share found."""
    rng = np.random.default_rng(0)
    group = np.arange(count) // COPIES
    content = [str(i) for i in range(count)]
    hashes = (rng.random((count // COPIES, MOMENTS, 64)) < 0.5)[group]
    hashes ^= rng.random(hashes.shape) < 0.01  # a re-encoded copy differs in a bit or two
    motion = list(rng.normal(size=(count // COPIES, 64))[group])
    vectors = rng.normal(size=(count // COPIES, 64))[group] + 0.1 * rng.normal(size=(count, 64))
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    prints = Fingerprint(content, hashes, motion, unit)

    def work() -> np.ndarray:
        pairs = compare(prints)
        true = group[pairs["a"]] == group[pairs["b"]]
        return np.array([true.sum() / (count * (COPIES - 1) / 2)])

    return work


def train_work(backbone: str, axis: str, size: int, folder: Path) -> Work:
    """One optimiser step of Stage II of the size asked for."""
    frames = size if axis == "train: frames" else FRAMES
    P = load_params("mini", {"backbone": backbone, "num_frames": frames, "device": "cpu"})
    batches = size // CLIPS if axis == "train: clips" else 1
    settings = P.stage2.model_copy(update={"batch_size": CLIPS, "accumulation": batches})
    model = stage_start(P, 2)
    batch = random_batch(model.image_size, CLIPS, frames)
    batch = with_regions(batch, size) if axis == "train: regions" else batch
    run = Run(model, settings, P.training, folder, True, CPU)

    def work() -> np.ndarray:
        run.step(1, 2, [batch] * batches, 0.0)
        return np.zeros(1)

    work()  # warm-up
    return work


def with_regions(batch: Batch, count: int) -> Batch:
    """The batch with ``count`` times as many regions, each with texts of its own."""
    return replace(
        batch,
        region_clip=batch.region_clip.repeat(count),
        boxes=batch.boxes.repeat(count, 1, 1),
        region_mask=batch.region_mask.repeat(count, 1),
        region_captions=[f"{c}, {i}" for i in range(count) for c in batch.region_captions],
        hard_negatives=[
            [f"{text}, {i}" for text in texts]
            for i in range(count)
            for texts in batch.hard_negatives
        ],
    )


def slope(sizes: pd.Series, values: pd.Series) -> float:
    """Least-squares slope of log values against log sizes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="miniclip")
    options.add_argument("--points", type=int, default=4, help="sizes per axis")
    o = options.parse_args()
    if o.contender:
        axis, size = o.contender.rsplit(" ", 1)
        answer(o.answer, work_of(o.backbone, axis, int(size), o.answer), int(size))
        return
    rows = []
    for axis, sizes in AXES.items():
        for size in sizes[: o.points] * o.repeats:
            row, output = run_contender(__file__, f"{axis} {size}", ["--backbone", o.backbone])
            print(f"{axis} {size}: {row['seconds']:.2f} s, {row['peak_gb']:.2f} GB", flush=True)
            found = {"copies_found": output.item()} if axis == "curation: clips" else {}
            rows.append({"axis": axis, "size": size, **row, **found})
    table = pd.DataFrame(rows).drop(columns="contender").assign(backbone=o.backbone)
    save(table, "growth", o.out)
    names = {"time_slope": "seconds", "memory_slope": "peak_gb"}
    medians = table.groupby(["axis", "size"], sort=False)[list(names.values())].median()
    slopes = [
        {"axis": axis, **{k: slope(part.reset_index()["size"], part[v]) for k, v in names.items()}}
        for axis, part in medians.reset_index("axis").groupby("axis", sort=False)
    ]
    save(pd.DataFrame(slopes), "growth_slope", o.out)


if __name__ == "__main__":
    main()
