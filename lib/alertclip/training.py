"""The one training loop of both stages: resumable to the bit, logged line by line."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from alertclip import checkpoint, distributed
from alertclip.attention import attention_kernel
from alertclip.backward import Embeddings, Loss, accumulated_backward, micro_backward
from alertclip.clips import Batch
from alertclip.errors import InputError
from alertclip.files import progress
from alertclip.lora import parameter_groups
from alertclip.objective import Texts, collate_seen, embed, objective
from alertclip.run_identity import claimed, run_identity
from alertclip.schedule import MicroBatches, learning_rate_factor
from alertclip.stage_settings import StageSettings
from alertclip.training_log import History, append_row, read_history, trim_log
from alertclip.validation import validate

MAX_LOGIT_SCALE = math.log(100)  # CLIP's own limit on the temperature


class TrainingError(InputError):
    """Training cannot go on: the message names the step and the clips."""


def fit(
    model: nn.Module,
    train: Dataset,
    validation: Dataset | None,
    settings: StageSettings,
    out: Path,
    *,
    regions: bool,
    seed: int,
    device: torch.device | str,
    provenance: Mapping[str, Any] | None = None,
    workers: int = 0,
    prepare: Callable[[], None] | None = None,
) -> History:
    """Train the trainable parameters of ``model`` and write ``out``; resume or skip by itself.

    ``regions`` adds the region and hard-negative losses (Stage II). ``provenance`` (the data's
    hash) joins settings, seed and initial weights in the run's identity: a finished stage of the
    same identity is loaded, an unfinished one goes on from its last whole checkpoint, the folder
    of another identity is set aside. ``prepare`` is called where there is a step to do. Raises
    TrainingError on a loss or gradient not finite.
    """
    if len(train) == 0:
        raise InputError(f"{out.name}: no training clips; see the report of the annotation reader")
    _require_enough(out.name, settings)
    identity = run_identity(
        model, settings, seed=seed, items=len(train), regions=regions, provenance=provenance or {}
    )
    run = Run(model.to(device), settings, out, identity, regions, torch.device(device))
    with claimed(out, identity), out_of_memory_advice(out.name):
        if not run.finished():
            if prepare:
                prepare()
            _train(run, train, validation, seed, workers)
        distributed.barrier()
    return read_history(out)


def _train(run: "Run", train: Dataset, validation: Dataset | None, seed: int, workers: int) -> None:
    settings, total = run.settings, run.settings.total_steps(len(train))
    start, mine = run.resume(seed), distributed.own_shard()
    # A generator of their own keeps the loaders from drawing on the state that dropout draws on.
    load = partial(
        DataLoader, collate_fn=collate_seen, num_workers=workers, generator=torch.Generator()
    )
    sampler = MicroBatches(
        len(train), settings.batch_size, settings.accumulation, seed, start, total, mine
    )
    batches = iter(load(train, batch_sampler=sampler))
    steps = range(start, total)
    with attention_kernel(run.device, settings.precision):
        label = f"{run.out.name} step"
        for step in progress(steps, len(steps), label) if distributed.rank() == 0 else steps:
            began = time.perf_counter()
            group = [next(batches) for _ in range(settings.accumulation)]
            waited = time.perf_counter() - began
            distributed.seed_step(seed, step)
            run.step(step, total, group, step * settings.items_per_step / len(train), waited)
            del group  # gigabytes of shared memory, where loaders have made it
            last = step + 1 == total
            if validation is not None and (last or (step + 1) % settings.validate_steps == 0):
                chunks = list(BatchSampler(range(len(validation)), settings.batch_size, False))
                run.validate(step + 1, load(validation, batch_sampler=mine.take(chunks)))
            if last or (step + 1) % settings.save_steps == 0:
                run.save(step + 1)
    run.save_final(total)


def _require_enough(name: str, settings: StageSettings) -> None:
    if settings.batch_size < distributed.world_size():
        raise InputError(
            f"{name}_batch_size is {settings.batch_size}: {distributed.world_size()} processes need"
            " a clip each of every micro-batch; use fewer, or raise it and lower the accumulation"
        )


@contextmanager
def out_of_memory_advice(name: str) -> Iterator[None]:
    """Turn running out of memory inside the block into a TrainingError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if "DataLoader worker" in str(error):  # killed, most often by a full /dev/shm
            raise TrainingError(
                f"{name}: a process that loads clips was killed. Batches come through shared"
                " memory: give the machine more (docker run --shm-size=8g), or set workers=0"
            ) from error
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "allocate memory" not in str(error):  # torch's words on a CPU
            raise
        raise TrainingError(
            f"{name}: out of memory ({str(error).splitlines()[0]}). Lower {name}_batch_size and"
            f" raise {name}_accumulation as much (negatives=accumulated keeps the result), or set"
            f" checkpointing=all, {name}_precision=bf16 or a smaller num_frames"
        ) from error


class Run:
    """A stage under way: model, optimiser and the folder it writes."""

    def __init__(
        self,
        model: nn.Module,
        settings: StageSettings,
        out: Path,
        identity: Mapping[str, Any],
        regions: bool,
        device: torch.device,
    ) -> None:
        self.model, self.settings, self.device = model, settings, device
        self.out, self.identity = out, identity
        self.embed: Callable[[Batch], dict[str, Tensor]] = partial(
            embed, model, regions=regions, device=device, precision=settings.precision
        )
        self.objective = partial(objective, model, settings=settings)  # (embeddings, texts)
        rates = settings.base_lr, settings.text_lr, settings.temporal_lr
        self.optimizer = torch.optim.AdamW(parameter_groups(model, *rates, settings.weight_decay))
        for group in self.optimizer.param_groups:
            group["base_lr"] = group["lr"]

    def finished(self) -> bool:
        """Load ``final/`` if this very run has ended before."""
        state = checkpoint.read_state(self.out / "final")
        if state is None or state["identity"] != self.identity:
            return False
        checkpoint.load_trainable(self.out / "final", self.model)
        return True

    def resume(self, seed: int) -> int:
        """Return the step to go on from: that of the last whole checkpoint, or 0."""
        folder = checkpoint.latest_checkpoint(self.out)
        if folder is None:
            torch.manual_seed(seed)
            self._trim_log(0)
            return 0
        state = checkpoint.read_state(folder)
        checkpoint.load_trainable(folder, self.model)
        checkpoint.load_optimizer(folder, self.model, self.optimizer)
        checkpoint.set_random_state(state["random"], self.device)
        self._trim_log(state["step"])
        return state["step"]

    def save(self, step: int) -> None:
        """Write the checkpoint after ``step`` optimiser steps."""
        if distributed.rank() > 0:
            return
        state = {
            "step": step,
            "identity": self.identity,
            "random": checkpoint.random_state(self.device),
        }
        checkpoint.save_checkpoint(
            self.out, self.model, self.optimizer, state, self.settings.save_limit
        )

    def save_final(self, step: int) -> None:
        """Write what the stage has learned after its last optimiser step."""
        if distributed.rank() == 0:
            state = {"step": step, "identity": self.identity}
            checkpoint.save_final(self.out, self.model, state)

    def step(
        self, step: int, total: int, batches: Sequence[Batch], epoch: float, waited: float = 0.0
    ) -> None:
        """One optimiser step (0-based ``step``) on its micro-batches; one line in the log.

        ``waited``: seconds until the batches were there.
        """
        began = time.perf_counter()
        self.model.train()
        factor = learning_rate_factor(step, total, self.settings.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["base_lr"]
        loss, terms = self.backward(batches)
        parameters = list(checkpoint.trainable(self.model).values())
        distributed.sum_gradients(parameters, self.model.logit_scale)
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.grad_norm)
        self._require_finite(step, batches, loss=loss, grad_norm=norm, **terms)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        rates = {
            f"lr_{group['name']}": group["lr"]
            for group in self.optimizer.param_groups
            if not group["name"].endswith("_no_decay")
        }
        values = {"loss": loss, **terms, "grad_norm": norm, "logit_scale": self._scale()}
        self._log(
            split="train",
            step=step + 1,
            epoch=epoch,
            **rates,
            **{name: float(value) for name, value in values.items()},
            clips_per_s=self.settings.items_per_step / (time.perf_counter() - began),
            wait_s=waited,
        )

    def validate(self, step: int, loader: DataLoader) -> None:
        """Validation scores after ``step`` optimiser steps; one line in the log."""
        self.model.eval()
        scores = validate(loader, self.embed, self.objective, self.device)
        self._log(split="validation", step=step, **scores)

    def backward(self, batches: Sequence[Batch]) -> Loss:
        """Gradients of this process's part of one optimiser step; loss and terms of the whole."""
        if self.settings.negatives == "accumulated" and len(batches) > 1:
            return accumulated_backward(batches, self.embed, self._whole_objective, self.device)
        return micro_backward(batches, self.embed, self._whole_objective)

    def _whole_objective(self, embeddings: Embeddings, batches: Sequence[Batch]) -> Loss:
        texts = [Texts.of(batch) for batch in batches]
        return self.objective(*distributed.share(embeddings, texts, self.device))

    def _require_finite(self, step: int, batches: Sequence[Batch], **values: Tensor) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            everyone = distributed.gather_values([key for batch in batches for key in batch.keys])
            keys = ", ".join(key for keys in everyone for key in keys)
            raise TrainingError(
                f"{self.out.name}: {', '.join(broken)} not finite at optimiser step {step + 1};"
                f" the clips were {keys}. Look at these clips, or lower the learning rates"
            )

    def _scale(self) -> Tensor:
        return self.model.logit_scale.detach().exp()

    def _trim_log(self, step: int) -> None:
        if distributed.rank() == 0:
            trim_log(self.out, step)

    def _log(self, **row: Any) -> None:
        if distributed.rank() == 0:
            append_row(self.out, row)
