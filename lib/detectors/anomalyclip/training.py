"""Weakly supervised training of AnomalyCLIP on frame features in memory (section 3.4, Appendix A).

Nothing here sees test data. The authors validate on the test set, but keep the last epoch, too.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from alertclip.errors import InputError
from detectors.anomalyclip.losses import AnomalyCLIPLosses, total_loss
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.anomalyclip.selector import draw_mask, select_segments
from detectors.anomalyclip.settings import AnomalyCLIPSettings
from detectors.epochs import epoch_means


def fit(
    model: AnomalyCLIP, videos: Sequence[Tensor], labels: Sequence[int], seed: int
) -> list[dict[str, float]]:
    """Train ``model`` in place for all epochs; return per epoch the mean loss terms and the rate.

    Arguments and errors are those of ``training_steps``.
    """
    halves = _halves(videos, labels, len(model.class_names), model.settings)
    total = model.settings.epochs * _steps_per_epoch(halves, model.settings)
    history = epoch_means(training_steps(model, videos, labels, seed), total, "AnomalyCLIP step")
    model.eval()
    return history


def training_steps(
    model: AnomalyCLIP, videos: Sequence[Tensor], labels: Sequence[int], seed: int
) -> Iterator[dict[str, float]]:
    """Train ``model`` in place, yielding epoch, loss terms and rate after each optimiser step.

    videos[i] (N_i, D) are frame features with the video-level class labels[i]. The official
    warm-up spends all of epoch 0 at rate 0. Raises InputError if a half of a batch cannot be
    filled, a label is unknown, or a loss is not finite.
    """
    settings, rng = model.settings, np.random.default_rng(seed)
    halves = _halves(videos, labels, len(model.class_names), settings)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    model.train()
    schedule = batch_schedule(halves, settings, _steps_per_epoch(halves, settings), rng)
    for epoch, batch in schedule:
        rate = settings.learning_rate * learning_rate_factor(epoch, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = [videos[i] for i in batch]
        losses = _losses(model, chosen, [labels[i] for i in batch], rng, generator)
        if not losses.total.isfinite():
            raise InputError(
                f"AnomalyCLIP: the loss is not finite in epoch {epoch} on videos {batch};"
                " look at their features, or lower learning_rate"
            )
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        terms = {name: term.item() for name, term in losses._asdict().items()}
        yield {"epoch": epoch, **terms, "lr": rate}


def _losses(
    model: AnomalyCLIP,
    videos: Sequence[Tensor],
    labels: Sequence[int],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> AnomalyCLIPLosses:
    """Loss terms on freshly sampled segments of the videos, the first half abnormal."""
    s, device, half = model.settings, model.prototype.device, len(videos) // 2
    sampled = [training_sample(video, s.segments, s.segment_frames, rng) for video in videos]
    abnormal = torch.tensor(labels[:half], device=device)
    mask = draw_mask(len(videos), s.segments, s.keep_probability, generator).to(device)
    output = model(torch.stack(sampled).to(device, torch.float32), model.directions())
    logits = output.logits
    selection = select_segments(logits, abnormal, mask, s.normal_id, s.top_k, s.bottom_k)
    return total_loss(*output, abnormal, selection, s)


def start_indices(
    frames: int, segments: int, segment_frames: int, rng: np.random.Generator
) -> np.ndarray:
    """First frame (S,) of each training segment: i * d plus a random offset of 0 to d - F + 1.

    d = (max(N, S * F) - F + 1) // S is the distance of the blocks. For N of at most S * F there is
    nothing to draw and segments of the official size overlap by one frame.
    """
    distance = (max(frames, segments * segment_frames) - segment_frames + 1) // segments
    # At other sizes d may be less than F - 1; the official code stops there.
    offsets = rng.integers(max(distance - segment_frames + 2, 1), size=segments)
    return np.arange(segments) * distance + offsets


def training_sample(
    features: Tensor, segments: int, segment_frames: int, rng: np.random.Generator
) -> Tensor:
    """S segments of F consecutive frames of a video (N, D), looped if short -> (S, F, D)."""
    starts = start_indices(len(features), segments, segment_frames, rng)
    indices = starts[:, None] + np.arange(segment_frames)  # (S, F)
    return features[torch.from_numpy(indices % len(features)).to(features.device)]


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


def learning_rate_factor(epoch: int, settings: AnomalyCLIPSettings) -> float:
    """Factor on the rate in ``epoch`` (0-based): linear warm-up, then a cosine to 0 at the end.

    official: the warm-up starts at 0, so that the first epoch changes nothing but the running
    statistics of the Selector. paper ("warmed up", Appendix A): it starts above 0.
    """
    warmup = settings.warmup_epochs
    if epoch < warmup:
        return (epoch + (settings.variant == "paper")) / warmup
    done = (epoch - warmup) / (settings.epochs - warmup)
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


def _steps_per_epoch(halves: tuple[list[int], list[int]], settings: AnomalyCLIPSettings) -> int:
    return max(len(half) // settings.batch_size for half in halves)


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
