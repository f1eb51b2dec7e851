"""Table 6: time and memory of the paper's schedule, from measured optimiser steps."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from alertclip.attention import attention_kernel
from alertclip.clips import Batch
from alertclip.model import AlertCLIP, K
from alertclip.training import Run
from companion.efficiency import flops, paper_costs
from companion.efficiency.latency import LINE
from companion.efficiency.machine import Spread, forget_peak, peak_memory, seconds, spread
from companion.profiles import Params
from companion.stage_runs import initial_model, resolve_device, stage_params

TEXTS = {1: 1, 2: 2 + K}  # per clip; Stage II: global, one region's and its hard negatives


def stage_start(P: Params, stage: int) -> AlertCLIP:
    """The stage's model and adapters on any weights: time does not depend on them."""
    column = stage_params(P, stage)
    lora = {f"stage1_{name}": getattr(column, name) for name in ("lora_rank", "lora_alpha")}
    torch.manual_seed(P.seed)
    changes = {"pretrained": None, **lora, "stage1_lora_dropout": column.lora_dropout}
    return initial_model(P.changed(changes), 1)  # the first stage starts from CLIP


def random_batch(image_size: tuple[int, int], clips: int, frames: int) -> Batch:
    """Clips of noise, each with one region in every frame and K hard negatives."""
    corners = torch.rand(clips, frames, 2) / 2
    names = [f"clip {i}" for i in range(clips)]
    return Batch(
        frames=torch.randint(256, (clips, frames, 3, *image_size), dtype=torch.uint8),
        mask=torch.ones(clips, frames, dtype=torch.bool),
        global_captions=[f"a video of {name}" for name in names],
        region_clip=torch.arange(clips),
        boxes=torch.cat([corners, corners + 0.4], dim=-1),
        region_mask=torch.ones(clips, frames, dtype=torch.bool),
        region_captions=[f"a region of {name}" for name in names],
        hard_negatives=[[f"{name}, not number {k}" for k in range(K)] for name in names],
        labels=torch.ones(clips, dtype=torch.long),
        keys=names,
    )


class Step(NamedTuple):
    """Seconds of an optimiser step, its peak memory (GB), the least FLOPs for one of its clips."""

    seconds: Spread
    memory: float
    clip_flops: float


def measure_step(P: Params, stage: int, clips: int, repeats: int) -> Step:
    """An optimiser step of the library's own loop on one micro-batch of ``clips``.

    Frames are on the host, as a loader gives them; decoding is not included.
    """
    size = {"batch_size": clips, "accumulation": 1}
    settings = stage_params(P, stage).model_copy(update=size)
    model, device = stage_start(P, stage), resolve_device(P)
    batch = random_batch(model.image_size, clips, P.data.num_frames)
    sizes = flops.geometry(model.backbone.config, P.model.temporal_layers)
    work = flops.training_flops(sizes, P.data.num_frames, TEXTS[stage], regions=stage == 2)
    with (
        tempfile.TemporaryDirectory() as folder,
        attention_kernel(device, settings.precision),
    ):
        run = Run(model.to(device), settings, P.training, Path(folder), stage == 2, device)
        forget_peak(device)
        found = seconds(lambda: run.step(1, 2, [batch], 0.0), device, repeats, warm_up=1)
        return Step(spread(found), peak_memory(device), work)


def table(
    P: Params, ceiling: Mapping[str, float], clips: int = 8, repeats: int = 5
) -> pd.DataFrame:
    """Table 6: hours for the paper's 100 + 20 epochs of its 3,726 clips, extrapolated.

    Measured is a step of ``clips`` clips of ``P.data.num_frames`` frames; hours are its time per
    clip times clips and epochs. ``ceiling``: FLOP/s by precision, which divides floors. Columns
    LINE, step_s, clips, frames, memory_gb, paper_gb.
    """
    rows = []
    for stage, epochs in paper_costs.TABLE6_EPOCHS.items():
        step, precision = measure_step(P, stage, clips, repeats), stage_params(P, stage).precision
        passes = paper_costs.CLIPS * epochs / 3600
        ours = [passes * value / clips for value in step.seconds[:3]]
        floor = passes * step.clip_flops / ceiling[precision]
        name = f"Stage {'I' * stage}, {epochs} epochs, {precision}"
        numbers = (*ours, step.seconds.n, floor, ours[0] / floor, paper_costs.TABLE6_HOURS[stage])
        measured = (
            step.seconds.median,
            clips,
            P.data.num_frames,
            step.memory,
            paper_costs.TABLE6_GB[stage],
        )
        rows.append((name, "h", *numbers, *measured))
    columns = [*LINE, "step_s", "clips", "frames", "memory_gb", "paper_gb"]
    return _with_total(pd.DataFrame(rows, columns=columns))


def _with_total(table: pd.DataFrame) -> pd.DataFrame:
    total = table[["ours", "low", "high", "floor", "paper"]].sum()
    line = {"line": "both stages", "unit": "h", "n": table["n"].min(), **total}
    line["ratio"] = line["ours"] / line["floor"]
    return pd.concat([table, pd.DataFrame([line])], ignore_index=True)
