"""Bad inputs are refused or repaired with one message, and a kill loses nothing.

The cases are tables in tests/faults/; ``python tests/test_faults.py`` writes what is said of each
to figures/faults.csv.
"""

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from faults import data, training
from faults.harness import Case, disk, killed, refused
from test_training import tiny_model
from test_video import SIZE, ids, write_ids

from alertclip import checkpoint, score
from companion.figures import write_table
from media.cache import FrameCache
from media.files import locked

CASES: list[Case] = [*data.CASES, *training.CASES, *data.DISKS]


@pytest.mark.filterwarnings("ignore:.*clips are left out")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.given)
def test_case(case: Case, tmp_path: Path) -> None:
    assert re.search(case.says, case.run(tmp_path), re.DOTALL)


class TestKilledWhileWriting:
    """SIGKILL when half of a file is written: the half is never read, the next write is whole."""

    def test_cache_entry(self, tmp_path: Path) -> None:
        cache, path = FrameCache(tmp_path / "cache", SIZE), write_ids(tmp_path / "a.mp4")
        entry = cache.file(path, [3, 9])
        killed(tmp_path, np, "save", lambda _: cache.get(path, [3, 9]))
        assert not entry.exists() and len(list(entry.parent.iterdir())) == 1  # the half
        assert ids(cache.get(path, [3, 9])) == [3, 9]

    def test_checkpoint(self, tmp_path: Path) -> None:
        data.save_stage(tmp_path, 2)
        killed(tmp_path, checkpoint, "save_file", lambda out: data.save_stage(out, 4))
        assert len(list(tmp_path.iterdir())) == 2  # the half is not one of them
        assert checkpoint.latest_checkpoint(tmp_path)["step"] == 2
        checkpoint.claim(tmp_path, {})
        assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-000002", "run.json"}
        data.save_stage(tmp_path, 4)
        assert checkpoint.latest_checkpoint(tmp_path)["step"] == 4

    def test_training_ends_the_same_to_the_bit(self, tmp_path: Path) -> None:
        killed(tmp_path / "stage", checkpoint, "save_file", training.train)
        assert same_weights(training.train(tmp_path / "stage"), training.trained()[1])


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


def test_training_goes_on_to_the_bit_after_a_full_disk(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=256k") as small:
        for _ in range(2):
            assert re.search(data.FULL, refused(training.train, small / "stage"))
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        assert same_weights(training.train(small / "stage"), training.trained()[1])


def test_two_trainings_of_one_folder_do_not_mix() -> None:
    """The second is refused while the first is running, and sets nothing aside."""
    first, weights = training.trained()
    with locked(first.with_name(".stage.lock")):
        for model in (tiny_model(), tiny_model(seed=1)):
            assert "another run is at work" in refused(training.train, first, model)
    assert same_weights(training.train(first), weights)
    assert not list(first.parent.glob("stage-*"))


def test_shards_of_a_scoring_merge_into_the_same_summary(tmp_path: Path, monkeypatch) -> None:
    def row(*arguments: object) -> dict[str, object]:
        video, name = arguments[1], arguments[3]
        status = "failed" if name == "v3" else "scored"
        values = {"video": str(video), "output": name, "max": f"{1 / (2 + int(name[1:])):.6g}"}
        return values | {"status": status, "reason": ""}

    # Videos are done in any order; the summary is in that of the call.
    back = lambda _, videos, *__: [(v, None) for v in videos[::-1]]  # noqa: E731
    monkeypatch.setattr(score.anomaly_curve, "score_videos", back)
    monkeypatch.setattr(score, "_report", row)
    monkeypatch.setattr(score, "load_model", lambda *_: (tiny_model(), "tiny"))
    monkeypatch.setattr(score, "embed_prompts", lambda *_: None)
    videos = [str(tmp_path / f"v{i}.mp4") for i in range(7)]
    assert score.main([*videos, "--out", str(tmp_path / "one")]) == 1
    out = tmp_path / "many"
    for number, code in ((3, 0), (1, 1), (2, 0)):
        assert score.main([*videos, "--out", str(out), "--shard", f"{number}/3"]) == code
    assert (out / "summary.csv").read_bytes() == (tmp_path / "one/summary.csv").read_bytes()
    with pytest.raises(SystemExit):
        score.main([*videos, "--out", str(out), "--shard", "4/3"])


def test_the_slurm_profile_plans_every_notebook(root: Path) -> None:
    """Snakemake's own checks of the profile; submitting a job needs the executor plugin."""
    call = [sys.executable, "-m", "snakemake", "-n", "--profile", str(root / "params/slurm")]
    call += ["--executor", "dryrun", "--snakefile", str(root / "Snakefile"), "--nolock"]
    call += ["--config", "profile=smoke", "--forceall"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    stage1 = done.stdout.split("rule nb_03_stage1_global:")[1].split("rule ")[0]
    words = ("slurm_partition=gpu", "runtime=2880", "gres=gpu:1")
    assert all(word in stage1 for word in words)


def main() -> None:
    """Try every case and write figures/faults.csv: input, what is done, what is said."""
    warnings.simplefilter("ignore")  # a clip left out warns, besides its row
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            message = case.run(Path(folder).resolve()).replace(str(Path(folder).resolve()), "...")
        message = re.sub(r"\s+", " ", message)[:200]
        rows.append({"input": case.given, "done": case.done, "says": message})
    write_table(pd.DataFrame(rows), Path(__file__).parents[1] / "figures/faults.csv")


if __name__ == "__main__":
    main()
