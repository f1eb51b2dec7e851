"""Several processes (gloo, CPU) give the same gradients, losses and weights as one."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import STAGE, TRAINING, Clips, changed, gradients, interrupted, tiny_model
from torch.multiprocessing import start_processes

from alertclip import distributed
from alertclip.checkpoint import read_history, trainable
from alertclip.clips import collate
from alertclip.hyperparameters import TrainingParams
from alertclip.training import fit, micro_batches
from media.errors import InputError
from media.files import WHOLE, parse_shard

CPU = torch.device("cpu")
TRACKED = ("loss", "loss_hard", "grad_norm", "validation_loss", "recall_at_1", "signed_gap")


def _process(rank: int, work: Callable, folder: Path, world: int, port: int, *args: Any) -> None:
    torch.set_num_threads(1)
    names = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    with distributed.processes():
        torch.save(work(folder, *args), folder / f"{rank}.pt")


def together(work: Callable, folder: Path, *args: Any, world: int = 2) -> list[Any]:
    """Results of ``work(folder, *args)`` on each of ``world`` processes."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Imports take seconds: a fork has them already, but may not follow a use of CUDA.
    method = "spawn" if torch.cuda.is_available() else "fork"
    start_processes(_process, (work, folder, world, port, *args), world, start_method=method)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


class Uneven(Clips):
    """Clips with no, one or two regions; pairs of clips share a caption."""

    def __getitem__(self, i: int) -> dict:
        sample = super().__getitem__(i)
        sample["regions"] = [[], sample["regions"], sample["regions"] * 2][i % 3]
        return sample | {"global_caption": f"colour {i // 2}"}


def one_step(_: Path, negatives: str) -> tuple[list, dict]:
    """Losses and gradients of one step of 2 x 5 clips, from this process's share."""
    stage = changed(batch_size=5, accumulation=2, steps=1)
    sampler = micro_batches(10, stage, 3, 0, distributed.own_shard())
    batches = [collate([Uneven()[i] for i in indices]) for indices in sampler]
    return gradients(batches, negatives)


@pytest.mark.parametrize(("negatives", "world"), [("accumulated", 2), ("micro", 3)])
def test_a_step_is_the_same_on_any_number_of_processes(tmp_path, negatives, world):
    alone = one_step(tmp_path, negatives)
    for shared in together(one_step, tmp_path, negatives, world=world):
        # float32: other batch sizes sum in another order
        torch.testing.assert_close(shared, alone, atol=2e-6, rtol=2e-5)


def train(folder: Path, dropout: float, stop: int | None = None) -> dict[str, Any]:
    """Train a stage of 4 steps, validated at each, interrupted before step ``stop``."""
    stage, training = changed(batch_size=3, accumulation=2), TrainingParams(validate_steps=1)
    model, out = tiny_model(dropout=dropout), folder / "stage"
    with interrupted(stop):
        fit(model, Uneven(), Uneven(5), stage, training, out, regions=True, seed=3, device=CPU)
    history = read_history(out)
    rows = [[row[n] for n in TRACKED if n in row] for row in history.steps + history.validation]
    return {"weights": {n: p.data for n, p in trainable(model).items()}, "rows": rows}


def test_a_stage_is_the_same_on_two_processes(tmp_path):
    alone = train(tmp_path / "alone", dropout=0.0)
    first, second = together(train, tmp_path / "two", 0.0)
    assert len(alone["rows"]) == 8
    torch.testing.assert_close(first["rows"], alone["rows"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first["weights"], second["weights"], atol=0, rtol=0)
    for name, weight in alone["weights"].items():
        # AdamW divides by the gradient's own size: where that is rounding, so is the step.
        apart = (first["weights"][name] - weight).norm() / weight.norm().clamp_min(1)
        assert apart < 1e-3, name


def test_an_interrupted_stage_of_two_processes_ends_the_same_to_the_bit(tmp_path):
    whole = together(train, tmp_path / "whole", 0.3)
    together(train, tmp_path / "cut", 0.3, 3)
    again = together(train, tmp_path / "cut", 0.3)
    torch.testing.assert_close(again, whole, atol=0, rtol=0)


def refused(folder: Path, kind: str) -> str:
    """Message of a stage that cannot be trained on several processes."""
    model, stage = tiny_model(), changed(batch_size=1) if kind == "few clips" else STAGE
    data = Uneven(10 + distributed.rank()) if kind == "other data" else Uneven()
    if kind == "not a number":
        torch.nn.init.constant_(model.temporal.positions, torch.nan)
    with pytest.raises(InputError) as caught:
        fit(model, data, None, stage, TRAINING, folder / "stage", regions=True, seed=3, device=CPU)
    return f"{caught.typename}: {caught.value}"


def test_what_cannot_be_shared_is_said_by_all(tmp_path):
    for kind, says in (
        ("few clips", "stage2_batch_size is 1: 2 processes need a clip each"),
        ("other data", "process 1 and process 0 differ in settings, data or weights"),
        ("not a number", r"TrainingError.*step 1; the clips were (clip\d, ){3}clip\d\."),
    ):
        for message in together(refused, tmp_path, kind):
            assert re.search(says, message)


def drawn(_: Path) -> list[float]:
    """The first random number of three steps."""
    return [distributed.seed_step(3, step) or torch.rand(1).item() for step in range(3)]


def test_random_numbers_differ_between_processes_and_steps(tmp_path):
    assert len({number for numbers in together(drawn, tmp_path) for number in numbers}) == 6


def test_shards_are_disjoint_and_complete():
    items = list(range(11))
    shares = [items[parse_shard(f"{number}/4")] for number in range(1, 5)]
    assert shares[1] == [1, 5, 9] and sorted(map(len, shares)) == [2, 3, 3, 3]
    assert sorted(x for share in shares for x in share) == items
    assert parse_shard("2/8") == slice(1, None, 8) and parse_shard("1/1") == WHOLE
    for wrong in ("0/4", "5/4", "1", "a/b", "1/", "-1/2", "1/2/3", ""):
        with pytest.raises(InputError, match="write i/n with i from 1 to n"):
            parse_shard(wrong)
