"""What the machine can do, measured: time of a call, matmul ceiling, copy bandwidth, memory.

Method: warm-up calls first, random inputs (constant ones can be faster), then the median and the
quartiles of single calls; on a GPU by its own events, elsewhere by the clock.
"""

import ctypes
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from companion.profiles import ROOT

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDE = {"cuda": 8192, "cpu": 1024}  # of the square matrices: large enough to be at the ceiling
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}  # far above any cache
PROC = Path("/proc/self")


class Spread(NamedTuple):
    """Median and quartiles of ``n`` single calls."""

    median: float
    low: float
    high: float
    n: int


def spread(values: np.ndarray) -> Spread:
    """Median and quartiles of values (n,)."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high), len(values))


def seconds(
    call: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 2
) -> np.ndarray:
    """Seconds of each of ``repeats`` calls after ``warm_up`` others: (repeats,)."""
    for _ in range(warm_up):
        call()
    timed = _timed_by_events if device.type == "cuda" else _timed_by_clock
    return np.array([timed(call) for _ in range(repeats)])


def _timed_by_clock(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _timed_by_events(call: Callable[[], object]) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    call()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


@torch.inference_mode()
def matmul_ceiling(device: torch.device, precision: str, repeats: int = 9) -> Spread:
    """FLOP/s of a square matrix product in fp32 or bf16."""
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(PRECISIONS[precision]) for _ in range(2))
    out = torch.empty_like(a)
    return spread(2 * side**3 / seconds(lambda: torch.mm(a, b, out=out), device, repeats))


def copy_bandwidth(device: torch.device, repeats: int = 9) -> Spread:
    """Bytes/s of a copy inside the device's memory, read and written bytes both counted."""
    source = torch.randint(256, (COPY_BYTES[device.type],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return spread(2 * len(source) / seconds(lambda: target.copy_(source), device, repeats))


def ceilings(device: torch.device) -> pd.DataFrame:
    """The machine in three lines: columns measure, unit, value, low, high, n."""
    rows = []
    for precision in PRECISIONS:
        found = matmul_ceiling(device, precision)
        rows.append((f"matmul, {precision}", "GFLOP/s", *_scaled(found, 1e-9)))
    rows.append(("copy", "GB/s", *_scaled(copy_bandwidth(device), 1e-9)))
    return pd.DataFrame(rows, columns=["measure", "unit", "value", "low", "high", "n"])


def flops_per_second(table: pd.DataFrame) -> dict[str, float]:
    """Matmul ceilings of a table of ``ceilings``, by precision."""
    values = table.set_index("measure")["value"]
    return {precision: 1e9 * values[f"matmul, {precision}"] for precision in PRECISIONS}


def _scaled(found: Spread, factor: float) -> Spread:
    return Spread(*(factor * value for value in found[:3]), found.n)


def forget_peak(device: torch.device) -> None:
    """Start a new peak of memory from what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif (PROC / "clear_refs").exists():
        # Return what malloc kept to the system, or what follows would find its memory there.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
        (PROC / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """Peak since ``forget_peak`` in GB: tensors on a GPU; on a CPU the whole process.

    Where the system cannot forget a peak (not Linux), it is that of the process's life.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    if (PROC / "clear_refs").exists():
        lines = (PROC / "status").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def surroundings(device: torch.device) -> dict[str, object]:
    """Where numbers come from: device, threads, versions, commit ("" without git)."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": version("open_clip_torch"),
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    """Name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The project's commit, "+" behind it when files differ from it; "" where git cannot tell."""
    head, status = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "-uno")
    return f"{head}{'+' if status else ''}" if head else ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
