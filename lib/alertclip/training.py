"""The training loop of both stages: bit-exact when resumed, with one log line per step."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from alertclip import checkpoint, distributed
from alertclip.clips import Batch, collate
from alertclip.hyperparameters import StageParams, TrainingParams
from alertclip.lora import parameter_groups
from alertclip.objective import StageObjective, validate
from media.errors import InputError
from media.files import WHOLE, locked, progress, sha256_json

BOOKKEEPING = {"save_steps", "save_limit"}  # affect what is written, not what is learned


class TrainingError(InputError):
    """Training cannot go on: the message names the step and the clips."""


def fit(
    model: nn.Module,
    train: Dataset,
    validation: Dataset | None,
    stage: StageParams,
    training: TrainingParams,
    out: Path,
    *,
    regions: bool,
    seed: int,
    device: torch.device | str,
    provenance: Mapping[str, Any] | None = None,
    workers: int = 0,
) -> checkpoint.History:
    """Train the trainable parameters of ``model``, or resume or reuse the run in ``out``.

    ``regions`` adds the region and hard-negative losses (Stage II). Settings, seed, initial weights
    and ``provenance`` (the data's hash) identify the run: if ``out`` holds the same run, it is
    loaded or resumed from its newest readable checkpoint; another run's folder is renamed. Raises
    TrainingError on a loss or gradient that is not finite, InputError if another process trains
    in ``out`` or this run's processes differ.
    """
    if len(train) == 0:
        raise InputError(f"{out.name}: no training clips; see the report of the annotation reader")
    run = Run(model.to(device), stage, training, out, regions, torch.device(device))
    identity = run.identity(seed, len(train), provenance or {})
    distributed.require_equal(identity, "settings, data or weights")
    first = distributed.rank() == 0
    lock = locked(out.with_name(f".{out.name}.lock"), wait=False) if first else nullcontext()
    with lock, out_of_memory_advice(run.name):
        if first:
            checkpoint.claim(out, identity)
        distributed.barrier()
        start = run.resume(seed)
        if start < stage.total_steps(len(train)):
            _train(run, train, validation, seed, workers, start)
        distributed.barrier()
    return checkpoint.read_history(out)


def _train(
    run: "Run", train: Dataset, validation: Dataset | None, seed: int, workers: int, start: int
) -> None:
    stage, shard, total = run.stage, distributed.own_shard(), run.stage.total_steps(len(train))
    # With its own generator a loader does not change the random state that dropout uses.
    options = {"generator": torch.Generator(), "pin_memory": run.device.type == "cuda"}
    load = partial(DataLoader, collate_fn=collate, num_workers=workers, **options)
    index_batches = micro_batches(len(train), stage, seed, start, shard)
    batches, steps = iter(load(train, batch_sampler=index_batches)), range(start, total)
    if validation is not None:
        chunks = list(BatchSampler(range(len(validation)), stage.batch_size, False))
        held_out = load(validation, batch_sampler=chunks[shard])
    if distributed.rank() == 0:
        checkpoint.trim_log(run.out, start)
        steps = progress(steps, len(steps), f"{run.out.name} step")
    for step in steps:
        distributed.seed_step(seed, step)
        step_batches = islice(batches, stage.accumulation)
        run.step(step, total, step_batches, step * stage.items_per_step / len(train))
        last = step + 1 == total
        if validation is not None and (last or (step + 1) % run.validate_steps == 0):
            run.model.eval()
            run.log("validation", step + 1, **validate(held_out, run.objective))
        if distributed.rank() == 0 and (last or (step + 1) % stage.save_steps == 0):
            checkpoint.save_checkpoint(
                run.out, step + 1, run.model, run.optimizer, run.device, stage.save_limit
            )


class Run:
    """A running stage: its model, optimiser and output folder."""

    def __init__(
        self,
        model: nn.Module,
        stage: StageParams,
        training: TrainingParams,
        out: Path,
        regions: bool,
        device: torch.device,
    ) -> None:
        self.model, self.stage, self.out, self.device = model, stage, out, device
        self.name, self.validate_steps = f"stage{1 + regions}", training.validate_steps
        self.objective = StageObjective(model, training, stage.precision, regions, device)
        rates = stage.base_lr, stage.text_lr, stage.temporal_lr
        groups = parameter_groups(model, *rates, stage.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, fused=device.type == "cuda")
        if stage.batch_size < distributed.world_size():
            raise InputError(
                f"{self.name}_batch_size is {stage.batch_size}:"
                f" {distributed.world_size()} processes need a clip each of every micro-batch; use"
                f" fewer processes, or raise it and lower {self.name}_accumulation"
            )

    def identity(self, seed: int, items: int, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that determines the result, as JSON values; equal runs share checkpoints."""
        run = self.stage.model_dump(exclude=BOOKKEEPING) | {
            "negatives": self.objective.negatives,
            "loss_weights": self.objective.weights,
            "seed": seed,
            "items": items,
            "regions": self.objective.regions,
            "trainable": sha256_json(sorted(checkpoint.trainable(self.model))),
            "initial": checkpoint.weights_hash(self.model),
        }
        return json.loads(json.dumps(run | dict(provenance), default=str))

    def resume(self, seed: int) -> int:
        """Load the newest readable checkpoint, if any; return the step to continue from."""
        saved = checkpoint.latest_checkpoint(self.out)
        if saved is None:
            torch.manual_seed(seed)
            return 0
        checkpoint.restore(self.model, saved["tensors"])
        self.optimizer.load_state_dict(saved["optimizer"])
        checkpoint.set_random_states(saved["random"], self.device)
        return saved["step"]

    def step(self, step: int, total: int, batches: Iterable[Batch], epoch: float) -> None:
        """Run and log optimiser step ``step`` (0-based) on its micro-batches.

        They are taken one by one, so that loaders prepare the next meanwhile; the logged
        clips_per_s includes the wait for them.
        """
        began = time.perf_counter()
        self.model.train()
        factor = learning_rate_factor(step, total, self.stage.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
        keys: list[str] = []

        def with_keys_noted() -> Iterator[Batch]:
            for batch in batches:
                keys.extend(batch.keys)
                yield batch

        losses = self.objective.backward(with_keys_noted(), self.stage.accumulation)
        parameters = list(checkpoint.trainable(self.model).values())
        distributed.sum_gradients(parameters, self.model.logit_scale)
        norm = nn.utils.clip_grad_norm_(parameters, self.stage.grad_norm)
        terms = zip(("loss", "loss_global", "loss_region", "loss_hard"), losses, strict=True)
        values = {name: float(x) for name, x in terms if x is not None} | {"grad_norm": float(norm)}
        if broken := [name for name, value in values.items() if not math.isfinite(value)]:
            keys = sum(distributed.gather(keys), [])
            raise TrainingError(
                f"{self.name}: {', '.join(broken)} not finite at optimiser step {step + 1}; the"
                f" clips were {', '.join(keys)}. Look at these clips, or lower the learning rates"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))  # CLIP's own limit
        values["logit_scale"] = float(self.model.logit_scale.detach().exp())
        speed = self.stage.items_per_step / (time.perf_counter() - began)
        groups = (g for g in self.optimizer.param_groups if not g["name"].endswith("_no_decay"))
        rates = {f"lr_{group['name']}": group["lr"] for group in groups}
        self.log("train", step + 1, epoch=epoch, **rates, **values, clips_per_s=speed)

    def log(self, split: str, step: int, **row: Any) -> None:
        """Append a line to the stage's log."""
        if distributed.rank() == 0:
            checkpoint.append_row(self.out, {"split": split, "step": step, **row})


def learning_rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Factor on every base rate at optimiser step ``step`` (0-based) of ``total``.

    Linear warm-up over ceil(ratio * total) steps, with a first factor above 0, then a cosine that
    would reach 0 at step ``total`` (supplementary Table 4: warm-up ratio, cosine).
    """
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def micro_batches(
    items: int, stage: StageParams, seed: int, start: int, shard: slice = WHOLE
) -> list[list[int]]:
    """Item indices of the micro-batches from optimiser step ``start`` on: this process's ``shard``.

    The order of an epoch depends on seed and epoch only, so that a resume replays nothing. Batches
    may span two epochs: no clip is dropped, and every step sees the same number of clips.
    """
    first, last = (step * stage.items_per_step for step in (start, stage.total_steps(items)))
    epochs = range(first // items, -(-last // items))
    orders = [np.random.default_rng([seed, epoch]).permutation(items) for epoch in epochs]
    order = np.concatenate(orders)[first % items :][: last - first].reshape(-1, stage.batch_size)
    return order[:, shard].tolist()


@contextmanager
def out_of_memory_advice(name: str) -> Iterator[None]:
    """Turn running out of memory inside the block into a TrainingError that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if "DataLoader worker" in str(error):  # killed, most often by a full /dev/shm
            raise TrainingError(
                f"{name}: a process that loads clips was killed. Batches come through shared"
                " memory: give the machine more (docker run --shm-size=8g), or set workers=0"
            ) from error
        exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not exhausted and "allocate memory" not in str(error):  # torch's message on a CPU
            raise
        raise TrainingError(
            f"{name}: out of memory ({str(error).splitlines()[0]}). Set checkpointing=all or"
            f" {name}_precision=bf16, or lower {name}_batch_size and raise {name}_accumulation as"
            " much (negatives=accumulated keeps the result), or lower num_frames"
        ) from error
