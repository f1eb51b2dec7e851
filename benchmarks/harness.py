"""Contenders in processes of their own, interleaved, and their numbers as CSV.

A benchmark script calls itself with ``--contender NAME --answer FOLDER``; the contender leaves
answer.json (numbers) and output.npz (what it computed) in that folder.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from companion.latency import forget_peak, peak_memory, spread, surroundings
from media.files import write_table

RESULTS = Path(__file__).resolve().parent / "results"
CPU = torch.device("cpu")


def parser(text: str | None) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    options = argparse.ArgumentParser(description=text)
    options.add_argument("--repeats", type=int, default=5, help="processes, or timed calls")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files")
    options.add_argument("--contender", help=argparse.SUPPRESS)
    options.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return options


def answer(folder: Path, work: Callable[[], np.ndarray], items: int) -> None:
    """Run ``work`` once, timed, and leave its time, rate, peak memory and output."""
    forget_peak(CPU)
    began = time.perf_counter()
    output = work()
    taken = time.perf_counter() - began
    numbers = {"seconds": taken, "per_s": items / taken, "peak_gb": peak_memory(CPU)}
    np.savez(folder / "output.npz", output=output)
    (folder / "answer.json").write_text(json.dumps(numbers))


def run_contender(script: str, name: str, arguments: Sequence[str]) -> tuple[dict, np.ndarray]:
    """Numbers and output of one process; ``process_s`` counts imports and model building too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, script, "--contender", name, "--answer", folder, *arguments]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        taken = time.perf_counter() - began
        numbers = json.loads((Path(folder) / "answer.json").read_text())
        with np.load(Path(folder) / "output.npz", allow_pickle=False) as stored:
            return {"contender": name, **numbers, "process_s": taken}, stored["output"]


def interleave(
    script: str, contenders: Sequence[str], repeats: int, arguments: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Every contender once per round, so that a slow minute of the machine meets them all."""
    rows, outputs = [], {}
    for number in range(repeats):
        for name in contenders:
            row, outputs[name] = run_contender(script, name, arguments)
            rows.append({"round": number, **row})
            print("{contender}: {seconds:.2f} s, {per_s:.2f} per s".format(**row), flush=True)
    return pd.DataFrame(rows), outputs


def compare(table: pd.DataFrame, pairs: Mapping[str, str]) -> pd.DataFrame:
    """Rate of ``ours`` over that of each peer, round by round: median and quartiles.

    ``pairs``: peer -> the contender of ours that does the same work.
    """
    rates = table.pivot(index="round", columns="contender", values="per_s")
    rows = []
    for peer, ours in pairs.items():
        ratio = spread((rates[ours] / rates[peer]).to_numpy())
        medians = {"ours_per_s": rates[ours].median(), "peer_per_s": rates[peer].median()}
        rows.append({"ours": ours, "peer": peer, **medians})
        rows[-1] |= dict(zip(("ratio", "low", "high", "n"), ratio, strict=True))
    return pd.DataFrame(rows)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of matching rows of (..., D)."""
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def save(table: pd.DataFrame, name: str, out: Path, device: torch.device = CPU) -> None:
    """Write ``name``.csv with where its numbers come from in every row, and print it."""
    source: dict[str, Any] = surroundings(device)
    command = " ".join(["python", Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])])
    print(table.to_string(index=False))
    write_table(table.assign(**source, command=command), out / f"{name}.csv")
