"""Planning of a run: what is checked first, what runs again and why."""

import argparse
import os
import subprocess
from pathlib import Path

import nbformat
import pytest

from alertclip.errors import InputError
from alertclip.files import locked
from companion import run, workflow
from companion.profiles import Params, load_params, parse_overrides
from companion.workflow import Notebook

FIRST = Notebook("01_first", ignores=("stage", "video"))
SECOND = Notebook("02_second", needs=("01_first",), writes=("stage1",))
THIRD = Notebook("00_third", needs=("02_second",))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three chained notebooks in a project of their own; returns its folder."""
    books = (FIRST, SECOND, THIRD)
    for module in (workflow, run):
        monkeypatch.setattr(module, "NOTEBOOKS", books)
    monkeypatch.setattr(workflow, "FOLDER", tmp_path / "notebooks")
    monkeypatch.setattr(Params, "run_dir", property(lambda self: tmp_path / "runs"))
    (tmp_path / "notebooks").mkdir()
    for book in books:
        cell = nbformat.v4.new_code_cell("import alertclip.errors")
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), book.path)
    return tmp_path


def finish(params: Params, *books: Notebook) -> None:
    """Leave what a complete execution of ``books`` leaves."""
    for book in books:
        done = nbformat.read(book.path, as_version=4)
        done.metadata["alertclip"] = workflow.record_of(book, params)
        for name in (*book.writes, "."):
            (params.run_dir / name).mkdir(parents=True, exist_ok=True)
        nbformat.write(done, params.run_dir / f"{book.name}.ipynb")
        (params.run_dir / f"{book.name}.html").touch()


def plan(params: Params, **selection: str) -> list[str]:
    forced = bool(selection)
    return list(run.pending(params, run.select(**selection), forced))


def test_runs_once_and_then_nothing(project: Path) -> None:
    params = load_params("smoke")
    assert plan(params) == ["01_first", "02_second", "00_third"]
    finish(params, FIRST, SECOND, THIRD)
    assert plan(params) == []
    finish(load_params("smoke", {"workers": 7}))
    assert plan(load_params("smoke", {"workers": 7})) == []


def test_only_what_changed_runs_again(project: Path) -> None:
    params = load_params("smoke")
    finish(params, FIRST, SECOND, THIRD)
    longer = load_params("smoke", {"stage1_steps": 9})
    reasons = run.pending(longer, run.select(), force=False)
    assert reasons["02_second"] == "changed: stage1_steps 4 -> 9"
    assert list(reasons) == ["02_second", "00_third"]
    SECOND.path.write_text(SECOND.path.read_text().replace("errors", "files"))
    assert plan(params) == ["02_second", "00_third"]


def test_interrupted_run_goes_on(project: Path) -> None:
    params = load_params("smoke")
    finish(params, FIRST, SECOND, THIRD)
    longer = load_params("smoke", {"seed": 1})
    finish(longer, FIRST, SECOND)  # stopped before the third
    assert plan(longer) == ["00_third"]
    (params.run_dir / "stage1").rmdir()
    assert plan(longer) == ["02_second", "00_third"]


def test_only_and_from(project: Path) -> None:
    params = load_params("smoke")
    assert plan(params, only="02") == ["01_first", "02_second"]
    finish(params, FIRST, SECOND, THIRD)
    changed = load_params("smoke", {"seed": 1})
    assert plan(changed, only="02") == ["02_second"]
    assert plan(params, start="02") == ["02_second", "00_third"]
    with pytest.raises(InputError, match="07: no such notebook; there are 01_first"):
        run.select(only="07")


def test_overrides_are_checked_before_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_overrides(["a=5e-6", "b=[q, v]"]) == {"a": "5e-6", "b": ["q", "v"]}
    assert run.main(["smoke", "-p", "stage1_step=5", "-n"]) == 2
    assert "did you mean stage1_steps?" in capsys.readouterr().err
    assert run.main(["smoke", "-p", "seed", "-n"]) == 2
    assert "name=value" in capsys.readouterr().err


def test_missing_data_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params("paper", {"data_root": str(tmp_path)})
    monkeypatch.setattr(run, "_missing_weights", lambda params, fetch: [])
    with pytest.raises(InputError) as caught:
        run.check_inputs(params)
    message = str(caught.value)
    assert str(tmp_path / params.data.annotations_train) in message
    assert "MSAD/MSAD_Videos" in message and "UCF-Crime" in message
    (tmp_path / params.data.hard_negatives_train).write_text("[]")
    with pytest.raises(InputError) as caught:
        run.check_inputs(params)
    assert params.data.annotations_train not in str(caught.value)  # the surrogate serves


def test_options_after_dashes_reach_snakemake() -> None:
    args = run._arguments(["smoke", "-p", "seed=1", "--", "--executor", "slurm"])
    assert args.profile == "smoke" and args.snakemake == ["--executor", "slurm"]
    call = run.command({"01_first": "asked for"}, args)
    assert call[-2:] == ["--executor", "slurm"] and 'overrides=["seed=1"]' in call


def test_what_others_wait_for_starts_first_and_has_every_core() -> None:
    order = sorted(workflow.NOTEBOOKS, key=workflow.priority, reverse=True)
    assert " ".join(book.name[:2] for book in order) == "01 03 04 06 00 10 09 08 07 05 02 11"
    mini, paper = load_params("mini"), load_params("paper")
    shares = {book.name[:2]: workflow.threads(book, mini, 5) for book in workflow.NOTEBOOKS}
    assert [name for name, cores in shares.items() if cores == 5] == ["01", "03", "04", "09"]
    assert set(shares.values()) == {2, 5}  # 5 cores for two notebooks: 2 each
    assert all(workflow.threads(book, mini, 1) == 1 for book in workflow.NOTEBOOKS)
    assert all(workflow.threads(book, paper, 5) == 5 for book in workflow.NOTEBOOKS)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(lock, wait=False), pytest.raises(InputError, match="another run"):  # noqa: SIM117
        with locked(lock, wait=False):
            pass
    with locked(lock, wait=False):
        pass  # let go of when the first ended


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_needs_no_environment(root: Path, tmp_path: Path, option: str) -> None:
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
    done = subprocess.run(
        [root / "run_all.sh", option], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--only 03" in done.stdout
    assert not done.stderr and isinstance(run._arguments([]), argparse.Namespace)
