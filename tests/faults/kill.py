"""Kill -9 a training again and again; compare what it ends with: ``python tests/faults/kill.py``.

Two copies of the project run both stages of the smoke profile through the command line's own entry
point. One is left alone; the other is killed (SIGKILL, with its helpers) at random points while it
builds the frame cache, in Stage I and in Stage II, and started again each time. In the end weights,
exports, logs and frame caches must be equal to the bit. About a quarter of an hour on 2 busy cores.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
STEPS = {"stage1_steps": 30, "stage2_steps": 30, "stage1_save_steps": 2, "stage2_save_steps": 2}
PHASES = {  # phase: stage to run, what grows under runs/, seconds in which it grows by one
    "frame cache": (1, "cache/**/*", 0.01),
    "Stage I": (1, "smoke/stage1/log.jsonl", 0.3),
    "Stage II": (2, "smoke/full/log.jsonl", 0.3),
}


def serve() -> None:
    """Train the stages named on standard input, each in a process of its own.

    A fork of this process has imported everything already: a start takes no ten seconds.
    """
    from companion import train as training

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()  # the group that is killed
            changes = [f"-p{name}={value}" for name, value in STEPS.items()]
            sys.argv = ["training", "--profile", "smoke", "--stage", line.strip(), *changes]
            training.main()
            sys.stdout.flush()
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


class Project:
    """A copy of the library with runs of its own."""

    def __init__(self, folder: Path) -> None:
        for name in ("lib", "params"):
            shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
        self.runs = folder / "runs"
        environment = os.environ | {"PYTHONPATH": str(folder / "lib"), "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "log.txt").open("w"),
            env=environment,
            text=True,
        )

    def start(self, stage: int) -> int:
        """Begin to train a stage; the process's number."""
        print(stage, file=self.server.stdin, flush=True)
        return self._number()

    def wait(self) -> int:
        """Status of the process that ended."""
        return self._number()

    def progress(self, pattern: str) -> int:
        """Rows of a log, or files of a folder."""
        if pattern.endswith("log.jsonl"):
            path = self.runs / pattern
            return path.read_bytes().count(b"\n") if path.exists() else 0
        return sum(path.is_file() for path in self.runs.glob(pattern))

    def hidden(self) -> set[Path]:
        """What is being written, or was when its writer was killed."""
        return {path for path in self.runs.rglob(".*") if path.suffix != ".lock"}

    def _number(self) -> int:
        for line in self.server.stdout:  # the stage prints its folder too
            if line.strip().isdecimal():
                return int(line)
        raise SystemExit(f"the training of {self.runs.parent} ended: see its log.txt")


def killed_runs(project: Project, whole: Project, phase: str, count: int) -> list[dict]:
    """Start a phase ``count`` times and kill it each time, ever later; one row per kill."""
    stage, pattern, pace = PHASES[phase]
    if stage == 2:
        finish(project, 1)
    end = whole.progress(pattern)
    targets = sorted(random.sample(range(1, end), count))
    rows = []
    for target in targets:
        before = project.hidden()
        process = project.start(stage)
        while project.progress(pattern) < target:
            os.kill(process, 0)  # raises if it has ended
            time.sleep(0.001)
        time.sleep(random.uniform(0, pace))
        reached = project.progress(pattern)
        os.killpg(process, signal.SIGKILL)
        if project.wait() != signal.SIGKILL:
            raise SystemExit(f"{phase}: ended before it was killed; look at log.txt")
        torn = project.hidden() - before
        rows.append({"phase": phase, "reached": reached, "of": end, "half-written": len(torn)})
        print(f"{phase}: killed at {reached} of {end}, {len(torn)} half-written", flush=True)
    return rows


def finish(project: Project, stage: int) -> None:
    """Train a stage to its end."""
    project.start(stage)
    if status := project.wait():
        raise SystemExit(f"stage {stage} failed with status {status}: see log.txt")


def outcome(project: Project) -> dict[str, str]:
    """SHA-256 by name of all that was learned, exported and cached; logs without their clocks."""
    found = {}
    for pattern in ("smoke/*/*.safetensors", "smoke/*/checkpoint*/*.safetensors"):
        found |= {p: p.read_bytes() for p in project.runs.glob(pattern) if p.is_file()}
    found |= {p: p.read_bytes() for p in project.runs.glob("cache/frames/[!.]*")}
    for path in project.runs.glob("smoke/*/log.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path] = json.dumps([{**row, "clips_per_s": 0, "wait_s": 0} for row in rows]).encode()
    names = {str(path.relative_to(project.runs)): content for path, content in found.items()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in names.items()}


def main() -> None:
    """Compare a training killed many times with one left alone; exit code 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="in each of the three phases")
    parser.add_argument("--seed", type=int, default=0, help="of the points in time")
    parser.add_argument("--out", type=Path, help="CSV of the kills")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = (Project(Path(folder) / name) for name in ("whole", "killed"))
        for stage in (1, 2):
            finish(whole, stage)
        shutil.copytree(whole.runs / "worlds", killed.runs / "worlds")
        rows = [killed_runs(killed, whole, phase, args.kills) for phase in PHASES]
        finish(killed, 2)
        expected, found = outcome(whole), outcome(killed)
        left = sum("smoke" in path.parts for path in killed.hidden())
    names = expected.keys() | found.keys()
    differing = sorted(n for n in names if expected.get(n) != found.get(n))
    table = pd.DataFrame([row for phase in rows for row in phase])
    if args.out:
        table.to_csv(args.out, index=False)
    print(f"{len(table)} kills, {len(expected)} files compared, {len(differing)} differ", differing)
    print(f"half-written files left in the stages' folders: {left}")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
