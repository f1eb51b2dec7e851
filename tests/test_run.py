"""A run: what is checked first, what Snakemake runs again, and its messages."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from companion import run, workflow
from companion.profiles import load_params, read_command_line
from companion.sources import missing_data
from media.errors import InputError

STUB = """import sys, pathlib
folder = pathlib.Path("runs", sys.argv[2])
for suffix in (".ipynb", ".html"):
    (folder / (sys.argv[1] + suffix)).write_text(sys.argv[1])
"""


def test_only_what_changed_runs_again(root: Path, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("weights", "__pycache__", "runs")
    for name in ("lib", "params", "notebooks"):  # whose notebooks only leave a file each
        shutil.copytree(root / name, tmp_path / name, ignore=ignore)
    shutil.copy(root / "Snakefile", tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "lib/companion/execution.py").write_text(STUB)
    weights = tmp_path / "lib/miniworld/weights/miniclip/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()

    def planned(*options: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "lib")}
        call = [sys.executable, "-m", "companion.run", "smoke", "--cores", "2", *options]
        done = subprocess.run(call, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()[: len(workflow.NOTEBOOKS)]]
        return " ".join(sorted(name[:2] for name, *reason in lines if reason != ["-"]))

    assert planned() == "00 01 02 03 04 05 06 07 08 09 10 11"
    book = tmp_path / "notebooks/02_mss_diagnosis.ipynb"
    os.utime(book)  # as after a fresh checkout of the same files
    assert planned("-n", "-p", "workers=7") == ""
    assert planned("-n", "-p", "stage2_steps=9") == "04 05 06 07 08 09 10 11"
    book.write_text(book.read_text() + "\n")
    (tmp_path / "lib/vagpt/exam.py").write_text("")
    assert planned("-n") == "02 10 11"


def test_a_part_of_the_notebooks_is_chosen_by_number_or_name() -> None:
    assert [b.name[:2] for b in run.select(start="9")] == ["09", "10", "11"]
    assert run.select(only="03_stage1_global") == run.select(only="3")
    with pytest.raises(InputError, match="12: no such notebook; there are 00_quick"):
        run.select(only="12")
    args = run._arguments(["smoke", "-p", "seed=1", "--from", "10", "--", "--executor", "slurm"])
    assert args.profile == "smoke" and args.snakemake == ["--executor", "slurm"]
    call = run.command(args, run.select(start=args.start))
    assert call[call.index("--forcerun") + 1 :] == ["nb_10_anomaly_qa", "nb_11_report"]
    assert 'overrides=["seed=1"]' in call


@pytest.mark.parametrize(("pair", "says"), [
    ("stage1_step=5", "did you mean stage1_steps?"),
    ("seed", "name=value"),
    ("stage1_precision=bf61", "stage1_precision: .*did you mean bf16?"),
    ("transfer={other: {world_styl: line}}", "transfer: other: world_styl: .*world_style?"),
    ("failure_levels={blurr: [1]}", "failure_levels.blurr: .*did you mean blur?"),
    ("open_vocabulary_changes={benchmrk: msad}", "open_vocabulary_changes: .*benchmark?"),
    ("ablation_variants=[globl]", "no ablation globl .*did you mean global?"),
])  # fmt: skip
def test_parameters_are_checked_before_work(capsys, pair: str, says: str) -> None:
    assert run.main(["smoke", "-p", pair, "-n"]) == 2
    assert re.search(says.replace("?", r"\?"), capsys.readouterr().err)


def test_bad_input_ends_a_command_with_its_text_alone(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--profile", "smok"])
    monkeypatch.setattr(sys, "excepthook", None)  # put back after the test
    with pytest.raises(InputError) as caught:
        read_command_line(argparse.ArgumentParser())
    sys.excepthook(*caught._excinfo)
    message = capsys.readouterr().err
    assert message.startswith("smok.yaml: no such profile") and "Traceback" not in message
    assert "did you mean smoke?" in message and "prompts" not in message  # which is no profile
    sys.excepthook(KeyError, KeyError("x"), None)
    assert "KeyError: 'x'" in capsys.readouterr().err


def test_missing_data_is_one_message(tmp_path: Path) -> None:
    P = load_params("paper", {"data_root": str(tmp_path)})
    with pytest.raises(InputError) as caught:
        run.check_inputs(P, workflow.NOTEBOOKS, fetch=False)
    for text in (str(tmp_path / P.data.annotations_train), "MSAD/MSAD_Videos", "UCF-Crime"):
        assert text in str(caught.value)
    (tmp_path / P.data.hard_negatives_train).write_text("[]")
    assert P.data.annotations_train not in str(missing_data(P))  # the surrogate serves


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_needs_no_environment(root: Path, tmp_path: Path, option: str) -> None:
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
    call = [root / "run_all.sh", option]
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--only 03" in done.stdout and not done.stderr


def test_a_plan_imports_no_torch() -> None:
    code = "import sys, companion.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
