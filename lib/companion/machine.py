"""What the machine can do: time of a call, speed of matrix products, peak memory, its name."""

import ctypes
import platform
import re
import resource
import subprocess
import sys
import timeit
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.benchmark import timer

from companion.profiles import ROOT

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDE = {"cuda": 8192, "cpu": 1024}  # of the square matrices, large enough for full speed
PROC = Path("/proc/self")


def spread(values: np.ndarray) -> tuple[float, float, float, int]:
    """Median, quartiles and number of values (n,)."""
    return (*np.quantile(values, [0.5, 0.25, 0.75]).tolist(), len(values))


def seconds(call: Callable[[], object], repeats: int, warm_up: int = 2) -> np.ndarray:
    """Seconds of each of ``repeats`` calls after a warm-up: (repeats,). Waits for the GPU."""
    for _ in range(warm_up):
        call()
    return np.array(timeit.repeat(call, timer=timer, repeat=repeats, number=1))


@torch.inference_mode()
def matmul_speed(device: torch.device, repeats: int = 9) -> pd.DataFrame:
    """Measured ceiling by precision: columns measure, unit, value, low, high, n."""
    side, rows = SIDE[device.type], []
    for precision, dtype in PRECISIONS.items():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        found = spread(2e-9 * side**3 / seconds(lambda a=a, b=b: torch.mm(a, b), repeats))
        rows.append((f"matmul, {precision}", "GFLOP/s", *found))
    return pd.DataFrame(rows, columns=["measure", "unit", "value", "low", "high", "n"])


def forget_peak(device: torch.device) -> None:
    """Start a new peak of memory from what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif (PROC / "clear_refs").exists():
        # Return what malloc kept to the system, or what follows would find its memory there.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
        (PROC / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """Peak since ``forget_peak`` in GB: tensors on a GPU, the whole process on a CPU.

    Outside Linux it is the peak of the process's life.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    if not (PROC / "clear_refs").exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    peak = re.search(r"^VmHWM:\s*(\d+)", (PROC / "status").read_text(), re.M)
    return int(peak[1]) * 1024 / 1e9


def surroundings(device: torch.device) -> dict[str, object]:
    """Where numbers come from: device, threads, versions, commit."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", cpu.read_text(), re.M) if cpu.exists() else []
    if device.type == "cuda":
        names = [torch.cuda.get_device_name()]
    return {
        "device": (*names, platform.processor())[0],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": version("open_clip_torch"),
        "commit": commit(),
    }


def commit() -> str:
    """The project's commit, "+" behind it when files differ from it; "" where git cannot tell."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
