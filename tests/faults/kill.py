"""Kill -9 a training again and again; compare what it ends with: ``python tests/faults/kill.py``.

Two copies of the project run both stages of the smoke profile. One is left alone; the other is
killed (SIGKILL, with its workers) at random points while it builds the frame cache, in Stage I and
in Stage II, and started again each time. In the end weights, exports, logs and frame caches must
be bit-identical. About half a minute per kill on 2 cores.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("stage1_steps=30", "stage2_steps=30", "stage1_save_steps=2", "stage2_save_steps=2")
PHASES = {  # phase: stage to run, what grows under runs/, seconds in which it grows by one
    "frame cache": (1, "cache/**/*", 0.01),
    "Stage I": (1, "smoke/stage1/log.jsonl", 0.3),
    "Stage II": (2, "smoke/full/log.jsonl", 0.3),
}


class Project:
    """A copy of the library with runs of its own."""

    def __init__(self, folder: Path) -> None:
        for name in ("lib", "params"):
            shutil.copytree(ROOT / name, folder / name)
        self.runs, self.log = folder / "runs", folder / "log.txt"

    def start(self, stage: int) -> subprocess.Popen:
        call = [sys.executable, "-m", "companion.stage_runs", "--profile", "smoke", "--stage"]
        call += [str(stage), *(f"-p{pair}" for pair in STEPS)]
        environment = os.environ | {"PYTHONPATH": str(self.runs.parent / "lib")}
        with self.log.open("a") as log:
            return subprocess.Popen(
                call, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def finish(self, stage: int) -> None:
        if self.start(stage).wait():
            raise SystemExit(f"stage {stage} failed: {self.log.read_text()[-2000:]}")

    def progress(self, pattern: str) -> int:
        """Rows of a log, or files of a folder."""
        found = [path for path in self.runs.glob(pattern) if path.is_file()]
        is_log = pattern.endswith("log.jsonl")
        return sum(path.read_bytes().count(b"\n") if is_log else 1 for path in found)

    def kill_at(self, phase: str, target: int) -> None:
        """Start a phase and kill it, with its workers, when it has come so far."""
        stage, pattern, pace = PHASES[phase]
        process = self.start(stage)
        while self.progress(pattern) < target:
            if process.poll() is not None:
                raise SystemExit(f"{phase}: ended before it was killed: {self.log.read_text()}")
            time.sleep(0.001)
        time.sleep(random.uniform(0, pace))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"{phase}: killed at {self.progress(pattern)}", flush=True)

    def outcome(self) -> dict[str, bytes]:
        """By name all that was learned, exported and cached; logs without clocks."""
        found = {}
        for pattern in ("smoke/*/*.safetensors", "cache/frames/[!.]*", "smoke/*/log.jsonl"):
            for path in self.runs.glob(pattern):
                content = re.sub(rb'"clips_per_s": [^,}]*', b"", path.read_bytes())
                found[str(path.relative_to(self.runs))] = content
        return found


def main() -> None:
    """Compare a training killed many times with one left alone; exit code 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="in each of the three phases")
    kills = parser.parse_args().kills
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = (Project(Path(folder) / name) for name in ("whole", "killed"))
        for stage in (1, 2):
            whole.finish(stage)
        shutil.copytree(whole.runs / "worlds", killed.runs / "worlds")
        for phase, (stage, pattern, _) in PHASES.items():
            if stage == 2:
                killed.finish(1)
            for target in sorted(random.sample(range(1, whole.progress(pattern)), kills)):
                killed.kill_at(phase, target)
        killed.finish(2)
        expected, found = whole.outcome(), killed.outcome()
    names = sorted(expected.keys() | found.keys())
    differing = [name for name in names if expected.get(name) != found.get(name)]
    print(f"{3 * kills} kills, {len(names)} files compared, {len(differing)} differ", differing)
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
