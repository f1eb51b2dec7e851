"""Tables 6 and 7: time and memory of a clip and of the training schedule, measured on this machine.

Also the machine itself: speed of matrix products, peak memory, device and versions.
"""

import ctypes
import platform
import re
import resource
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cosine_similarity

from alertclip.clips import Batch
from alertclip.model import AlertCLIP, K
from alertclip.training import Run
from companion.flops import FRAMES, VIT, count_flops
from companion.paper_numbers import value
from companion.profiles import ROOT, Params
from companion.stage_runs import initial_model, resolve_device, stage_params
from companion.tuned_models import untuned

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDE = {"cuda": 8192, "cpu": 1024}  # of square matrices large enough for full speed
PROC = Path("/proc/self")
LINE = ["line", "unit", "ours", "low", "high", "n", "floor", "ratio", "paper"]
TABLE6 = "Alert-CLIP supplementary | Table 6 | {} | {}"
TABLE7 = "Alert-CLIP supplementary | Table 7 | Alert-CLIP | Latency"
STAGES = {1: ("Stage 1, 100 epochs", 100), 2: ("Stage 2, 20 epochs", 20)}
TEXTS = {1: 1, 2: 2 + K}  # per clip; Stage II: global and region caption, hard negatives


def paper_value(P: Params, key: str) -> float:
    """The paper's number if the run has its model and clip length, else nan."""
    same = P.model.backbone in VIT and P.data.num_frames == FRAMES
    return value(key) if same else float("nan")


def latency_table(P: Params, speed: pd.DataFrame, repeats: int = 7) -> pd.DataFrame:
    """Table 7: from the pixels of one clip to its embedding, batch size one, per precision.

    ``speed`` is the table of ``matmul_speed``; the floor is FLOPs / speed. Columns LINE, frames,
    frames_per_s, clips_per_s, cosine (of the embedding to that in fp32).
    """
    model, frames, rows = untuned(P), P.data.num_frames, []
    device, flops = model.mean.device, count_flops(model, frames)
    ceiling = speed.set_index("measure")["value"] * 1e9
    pixels = torch.randint(256, (1, frames, 3, *model.image_size), dtype=torch.uint8, device=device)
    mask = torch.ones(1, frames, dtype=torch.bool, device=device)

    @torch.inference_mode()
    def encode(precision: str) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model.encode_clip(pixels, mask).embedding

    for precision in PRECISIONS:
        cosine = float(cosine_similarity(encode(precision), encode("fp32")))
        *times, n = spread(1e3 * seconds(lambda p=precision: encode(p), repeats))
        floor = 1e3 * flops / ceiling[f"matmul, {precision}"]
        name = f"{P.model.backbone}, {frames} frames, {precision}"
        line = (name, "ms", *times, n, floor, times[0] / floor, paper_value(P, TABLE7))
        rows.append((*line, frames, 1e3 * frames / times[0], 1e3 / times[0], cosine))
    return pd.DataFrame(rows, columns=[*LINE, "frames", "frames_per_s", "clips_per_s", "cosine"])


def stage_start(P: Params, stage: int) -> AlertCLIP:
    """Randomly initialised model with the stage's adapters."""
    params = stage_params(P, stage)
    lora = {f"stage1_lora_{k}": getattr(params, f"lora_{k}") for k in ("rank", "alpha", "dropout")}
    torch.manual_seed(P.seed)
    return initial_model(P.changed({"pretrained": None, **lora}), 1)  # Stage I starts from CLIP


def random_batch(image_size: tuple[int, int], clips: int, frames: int) -> Batch:
    """Clips of noise, each with one region in every frame and K hard negatives."""
    corners, names = torch.rand(clips, frames, 2) / 2, [f"clip {i}" for i in range(clips)]
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


def training_table(
    P: Params, speed: pd.DataFrame, clips: int = 8, repeats: int = 5
) -> pd.DataFrame:
    """Table 6: hours of the paper's 100 + 20 epochs on its 3,726 clips, extrapolated from one step.

    A step is one micro-batch of ``clips`` clips in the library's own training loop, frames in host
    memory, no decoding. The floor is twice the forward pass: frozen weights need no gradient.
    Columns LINE, step_s, clips, frames, memory_gb (peak), paper_gb.
    """
    rows, frames, device = [], P.data.num_frames, resolve_device(P)
    for stage, (row, epochs) in STAGES.items():
        settings, model = stage_params(P, stage), stage_start(P, stage).to(device)
        micro_batch = settings.model_copy(update={"batch_size": clips, "accumulation": 1})
        batch = random_batch(model.image_size, clips, frames)
        with tempfile.TemporaryDirectory() as out:
            training = Run(model, micro_batch, P.training, Path(out), stage == 2, device)
            forget_peak(device)
            call = partial(training.step, 1, 2, [batch], 0.0)
            *step, n = spread(seconds(call, repeats, warm_up=1))
        memory, precision = peak_memory(device), settings.precision
        passes = value("Alert-CLIP | VAGTA | training clips | count") * epochs / 3600
        flops = 2 * count_flops(untuned(P), frames, TEXTS[stage], regions=stage == 2)
        ours = [passes * quantile / clips for quantile in step]
        ceiling = speed.set_index("measure")["value"][f"matmul, {precision}"]
        floor = passes * flops / (1e9 * ceiling)
        paper, paper_gb = (paper_value(P, TABLE6.format(row, c)) for c in ("Time", "Memory, most"))
        name = f"Stage {'I' * stage}, {epochs} epochs, {precision}"
        line = (name, "h", *ours, n, floor, ours[0] / floor, paper)
        rows.append((*line, step[0], clips, frames, memory, paper_gb))
    columns = [*LINE, "step_s", "clips", "frames", "memory_gb", "paper_gb"]
    table = pd.DataFrame(rows, columns=columns)
    total = table[["ours", "low", "high", "floor", "paper"]].sum(skipna=False)
    both = {"line": "both stages", "unit": "h", "n": table["n"].min(), **total}
    both["ratio"] = both["ours"] / both["floor"]
    return pd.concat([table, pd.DataFrame([both])], ignore_index=True)


def spread(values: np.ndarray) -> tuple[float, float, float, int]:
    """Median, quartiles and number of values (n,)."""
    return (*np.quantile(values, [0.5, 0.25, 0.75]).tolist(), len(values))


def seconds(call: Callable[[], object], repeats: int, warm_up: int = 2) -> np.ndarray:
    """Seconds of ``repeats`` calls after a warm-up, each waiting for the GPU: (repeats,)."""

    def finished() -> None:
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    timeit.repeat(finished, repeat=warm_up, number=1)
    return np.array(timeit.repeat(finished, repeat=repeats, number=1))


@torch.inference_mode()
def matmul_speed(device: torch.device, repeats: int = 9) -> pd.DataFrame:
    """Measured speed limit per precision: columns measure, unit, value, low, high, n."""
    side, rows = SIDE[device.type], []
    for precision, dtype in PRECISIONS.items():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        speed = spread(2e-9 * side**3 / seconds(lambda a=a, b=b: torch.mm(a, b), repeats))
        rows.append((f"matmul, {precision}", "GFLOP/s", *speed))
    return pd.DataFrame(rows, columns=["measure", "unit", "value", "low", "high", "n"])


def forget_peak(device: torch.device) -> None:
    """Reset the memory peak to what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif (PROC / "clear_refs").exists():
        # Give back what malloc keeps: reusing it would not raise the peak.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
        (PROC / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """Peak since ``forget_peak`` in GB: tensors on a GPU, the whole process on a CPU.

    Outside Linux, the peak since the process started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    if not (PROC / "clear_refs").exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    peak = re.search(r"^VmHWM:\s*(\d+)", (PROC / "status").read_text(), re.M)
    return int(peak[1]) * 1024 / 1e9


def surroundings(device: torch.device) -> dict[str, object]:
    """Where measurements were made: device, threads, versions, commit."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", cpu.read_text(), re.M) if cpu.exists() else []
    if device.type == "cuda":
        names = [torch.cuda.get_device_name()]
    return {
        "device": (*names, platform.processor())[0],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fp32 products": {"high": "TF32"}.get(torch.get_float32_matmul_precision(), "fp32"),
        "open_clip": version("open_clip_torch"),
        "commit": commit(),
    }


def commit() -> str:
    """The project's commit, with "+" if files differ from it; "" where git cannot tell."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
