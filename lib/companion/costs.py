"""Latency of a clip (Table 7) and cost of the training schedule (Table 6), measured here.

Weights and pixels are random: time does not depend on them.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from alertclip.attention import attention_kernel
from alertclip.backbone import load_backbone
from alertclip.clips import Batch
from alertclip.model import AlertCLIP
from alertclip.training import Run
from companion.flops import CLIPS, FRAMES, K, Sizes
from companion.machine import PRECISIONS, Spread, forget_peak, peak_memory, seconds, spread
from companion.profiles import Params
from companion.stage_runs import initial_model, resolve_device

EPOCHS, HOURS = {1: 100, 2: 20}, {1: 66.85, 2: 19.4}  # Table 6, one A800
GIGABYTES = {1: 71.53, 2: 79.81}  # the upper ends
LATENCY_MS = 213.26  # Table 7: ViT-B/16 by its FLOPs, 256 frames
TEXTS = {1: 1, 2: 2 + K}  # per clip; Stage II: global, one region's and its hard negatives
LINE = ["line", "unit", "ours", "low", "high", "n", "floor", "ratio", "paper"]


def latency_table(P: Params, ceiling: Mapping[str, float], repeats: int = 7) -> pd.DataFrame:
    """Milliseconds from the pixels of one clip to its embedding, by precision.

    ``ceiling``: FLOP/s by precision; a floor is FLOPs over ceiling. The paper's time stands beside
    the paper's model alone. Columns LINE, frames, frames_per_s, clips_per_s, cosine (to fp32).
    """
    device, frames, rows = resolve_device(P), P.data.num_frames, []
    torch.manual_seed(P.seed)
    heads = P.model.temporal_layers, P.model.temporal_heads
    model = AlertCLIP(load_backbone(P.model.backbone), *heads).to(device).eval()
    work = Sizes.of(model.backbone.config, P.model.temporal_layers).clip_flops(frames)
    paper = LATENCY_MS if "ViT-B" in P.model.backbone and frames == FRAMES else float("nan")
    for precision in PRECISIONS:
        found, cosine = _latency(model, frames, precision, repeats, device)
        ms, floor = [1e3 * value for value in found[:3]], 1e3 * work / ceiling[precision]
        name = f"{P.model.backbone}, {frames} frames, {precision}"
        rates = frames, frames / found.median, 1 / found.median, cosine
        rows.append((name, "ms", *ms, found.n, floor, ms[0] / floor, paper, *rates))
    return pd.DataFrame(rows, columns=[*LINE, "frames", "frames_per_s", "clips_per_s", "cosine"])


@torch.inference_mode()
def _latency(
    model: AlertCLIP, frames: int, precision: str, repeats: int, device: torch.device
) -> tuple[Spread, float]:
    """Seconds per clip, and the cosine of its embedding to that in fp32."""
    pixels = torch.randint(256, (1, frames, 3, *model.image_size), dtype=torch.uint8, device=device)
    mask = torch.ones(1, frames, dtype=torch.bool, device=device)

    def encode(precision: str) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model.encode_clip(pixels, mask).embedding

    same = cosine_similarity(encode(precision), encode("fp32"))
    return spread(seconds(lambda: encode(precision), device, repeats)), float(same)


def stage_start(P: Params, stage: int) -> AlertCLIP:
    """The stage's model and adapters on random weights."""
    column = (P.stage1, P.stage2)[stage - 1]
    lora = {f"stage1_lora_{k}": getattr(column, f"lora_{k}") for k in ("rank", "alpha", "dropout")}
    torch.manual_seed(P.seed)
    return initial_model(P.changed({"pretrained": None, **lora}), 1)  # Stage I starts from CLIP


class Step(NamedTuple):
    """Seconds of an optimiser step, its peak memory (GB), the least FLOPs for one of its clips."""

    seconds: Spread
    memory: float
    clip_flops: float


def measure_step(P: Params, stage: int, clips: int, repeats: int) -> Step:
    """An optimiser step of the training loop on one micro-batch of ``clips``, without decoding."""
    column, device = (P.stage1, P.stage2)[stage - 1], resolve_device(P)
    shape = column.model_copy(update={"batch_size": clips, "accumulation": 1})
    model = stage_start(P, stage).to(device)
    batch = random_batch(model.image_size, clips, P.data.num_frames)
    sizes = Sizes.of(model.backbone.config, P.model.temporal_layers)
    work = sizes.training_flops(P.data.num_frames, TEXTS[stage], stage == 2)
    with tempfile.TemporaryDirectory() as folder, attention_kernel(device, column.precision):
        run = Run(model, shape, P.training, Path(folder), stage == 2, device)
        forget_peak(device)
        found = seconds(lambda: run.step(1, 2, [batch], 0.0), device, repeats, warm_up=1)
        return Step(spread(found), peak_memory(device), work)


def random_batch(image_size: tuple[int, int], clips: int, frames: int) -> Batch:
    """Clips of noise, each with one region in every frame and K hard negatives."""
    corners = torch.rand(clips, frames, 2) / 2
    names, seen = [f"clip {i}" for i in range(clips)], torch.ones(clips, frames, dtype=torch.bool)
    return Batch(
        frames=torch.randint(256, (clips, frames, 3, *image_size), dtype=torch.uint8),
        mask=seen,
        global_captions=[f"a video of {name}" for name in names],
        region_clip=torch.arange(clips),
        boxes=torch.cat([corners, corners + 0.4], dim=-1),
        region_mask=seen,
        region_captions=[f"a region of {name}" for name in names],
        hard_negatives=[[f"{name}, not number {k}" for k in range(K)] for name in names],
        labels=torch.ones(clips, dtype=torch.long),
        keys=names,
    )


def training_table(
    P: Params, ceiling: Mapping[str, float], clips: int = 8, repeats: int = 5
) -> pd.DataFrame:
    """Hours of the paper's schedule, extrapolated from the time of a step on ``clips`` clips.

    Columns LINE, step_s, clips, frames, memory_gb, paper_gb.
    """
    rows = []
    for stage, epochs in EPOCHS.items():
        step = measure_step(P, stage, clips, repeats)
        precision = (P.stage1, P.stage2)[stage - 1].precision
        passes = CLIPS * epochs / 3600
        ours = [passes * value / clips for value in step.seconds[:3]]
        floor = passes * step.clip_flops / ceiling[precision]
        name = f"Stage {'I' * stage}, {epochs} epochs, {precision}"
        measured = step.seconds.median, clips, P.data.num_frames, step.memory, GIGABYTES[stage]
        numbers = *ours, step.seconds.n, floor, ours[0] / floor, HOURS[stage]
        rows.append((name, "h", *numbers, *measured))
    columns = [*LINE, "step_s", "clips", "frames", "memory_gb", "paper_gb"]
    table = pd.DataFrame(rows, columns=columns)
    total = table[["ours", "low", "high", "floor", "paper"]].sum()
    line = {"line": "both stages", "unit": "h", "n": table["n"].min(), **total}
    line["ratio"] = line["ours"] / line["floor"]
    return pd.concat([table, pd.DataFrame([line])], ignore_index=True)
