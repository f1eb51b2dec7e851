"""Weakly supervised training of AnomalyCLIP on frame features in memory (section 3.4, Appendix A).

Nothing here sees test data. The authors validate on the test set, but keep the last epoch, too.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from alertclip.errors import InputError
from alertclip.files import progress
from detectors.anomalyclip.losses import AnomalyCLIPLosses, total_loss
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.anomalyclip.sampling import training_sample
from detectors.anomalyclip.selector import draw_mask, select_segments
from detectors.anomalyclip.settings import AnomalyCLIPSettings, Variant


def fit(
    model: AnomalyCLIP,
    videos: Sequence[Tensor],
    labels: Sequence[int],
    seed: int,
    steps: int | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place; return the mean of each loss term, and the rate, per epoch.

    videos[i] (N_i, D) are frame features with the video-level class labels[i]. What is kept is
    the last epoch. ``steps`` stops after so many optimiser steps, schedule unchanged: mind that
    the official warm-up spends all of epoch 0 at rate 0. Raises InputError if a half of a batch
    cannot be filled, a label is unknown, or a loss is not finite.
    """
    settings = model.settings
    halves = _halves(videos, labels, len(model.class_names), settings)
    per_epoch = max(len(half) // settings.batch_size for half in halves)
    total = settings.epochs * per_epoch
    total = total if steps is None else min(steps, total)
    trainer = Trainer(model, videos, labels, seed)
    schedule = islice(batch_schedule(halves, settings, per_epoch, trainer.rng), total)
    history: list[dict[str, float]] = []
    rows: list[dict[str, float]] = []
    model.train()
    for step, (epoch, batch) in enumerate(progress(schedule, total, "AnomalyCLIP step"), start=1):
        rows.append(trainer.step(epoch, batch))
        if step % per_epoch == 0 or step == total:
            history.append({key: float(np.mean([row[key] for row in rows])) for key in rows[0]})
            rows = []
    model.eval()
    return history


class Trainer:
    """A model under training with its optimiser, data and random state."""

    def __init__(
        self, model: AnomalyCLIP, videos: Sequence[Tensor], labels: Sequence[int], seed: int
    ) -> None:
        self.model, self.videos, self.labels = model, videos, labels
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model),
            lr=model.settings.learning_rate,
            betas=model.settings.betas,
            weight_decay=model.settings.weight_decay,
        )

    def step(self, epoch: int, batch: Sequence[int]) -> dict[str, float]:
        """One optimiser step on video indices, abnormal first; the loss terms and the rate."""
        settings = self.model.settings
        rate = settings.learning_rate * learning_rate_factor(
            epoch, settings.epochs, settings.warmup_epochs, settings.variant
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.losses(batch)
        if not losses.total.isfinite():
            raise InputError(
                f"AnomalyCLIP: the loss is not finite in epoch {epoch} on videos {list(batch)};"
                " look at their features, or lower learning_rate"
            )
        losses.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {name: term.item() for name, term in losses._asdict().items()} | {"lr": rate}

    def losses(self, batch: Sequence[int]) -> AnomalyCLIPLosses:
        """Loss terms on freshly sampled segments of the videos, the first half abnormal."""
        model, settings, device = self.model, self.model.settings, self.model.prototype.device
        features = torch.stack(
            [
                training_sample(
                    self.videos[i], settings.segments, settings.segment_frames, self.rng
                )
                for i in batch
            ]
        ).to(device, torch.float32)
        labels = torch.tensor([self.labels[i] for i in batch[: len(batch) // 2]], device=device)
        mask = draw_mask(len(batch), settings.segments, settings.keep_probability, self.generator)
        output = model(features, model.directions())
        selection = select_segments(
            output.logits,
            labels,
            mask.to(device),
            settings.normal_id,
            settings.top_k,
            settings.bottom_k,
        )
        return total_loss(*output, labels, selection, settings)


def parameter_groups(model: AnomalyCLIP) -> list[dict]:
    """The four groups of the official optimiser; everything else is frozen.

    ``selector`` only holds the unused logit scale, which never has a gradient and never moves.
    """
    groups = {
        "selector": list(model.selector_model.parameters()),
        "temporal": list(model.temporal_model.parameters()),
        "ctx": [model.prompt_learner.ctx],
        "text_projection": [model.text_encoder.text_projection],
    }
    return [{"name": name, "params": parameters} for name, parameters in groups.items()]


def learning_rate_factor(epoch: int, epochs: int, warmup_epochs: int, variant: Variant) -> float:
    """Factor on the rate in ``epoch`` (0-based): linear warm-up, then a cosine to 0 at ``epochs``.

    official: the warm-up starts at 0, so that the first epoch changes nothing but the running
    statistics of the Selector. paper ("warmed up", Appendix A): it starts above 0.
    """
    if epoch < warmup_epochs:
        return (epoch + (variant == "paper")) / warmup_epochs
    done = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return 0.5 * (1 + math.cos(math.pi * done))


def batch_schedule(
    halves: tuple[list[int], list[int]],
    settings: AnomalyCLIPSettings,
    per_epoch: int,
    rng: np.random.Generator,
) -> Iterator[tuple[int, list[int]]]:
    """(epoch, video indices) of every step, abnormal first: ``halves`` are abnormal and normal.

    Each epoch goes once through the longer half, shuffled, and cycles the shorter (Lightning).
    """
    for epoch in range(settings.epochs):
        streams = [_batches(half, settings.batch_size, rng) for half in halves]
        for _ in range(per_epoch):
            yield epoch, [i for stream in streams for i in next(stream)]


def _halves(
    videos: Sequence[Tensor], labels: Sequence[int], classes: int, settings: AnomalyCLIPSettings
) -> tuple[list[int], list[int]]:
    """Indices of abnormal and of normal videos, each enough for half a batch."""
    if len(videos) != len(labels):
        raise InputError(f"{len(labels)} labels for {len(videos)} videos: give one each")
    for i, label in enumerate(labels):
        if not 0 <= label < classes:
            raise InputError(f"video {i}: label {label}, but labels are 0 to {classes - 1}")
    abnormal = [i for i, label in enumerate(labels) if label != settings.normal_id]
    normal = [i for i, label in enumerate(labels) if label == settings.normal_id]
    for name, half in (("abnormal", abnormal), ("normal", normal)):
        if len(half) < settings.batch_size:
            raise InputError(
                f"{len(half)} {name} training videos do not fill half a batch of"
                f" {settings.batch_size}: lower batch_size"
            )
    return abnormal, normal


def _batches(items: list[int], size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Endless batches of shuffled items; what does not fill a batch is dropped."""
    while True:
        order = rng.permutation(items).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]
