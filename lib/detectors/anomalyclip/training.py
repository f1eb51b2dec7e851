"""Weakly supervised training of AnomalyCLIP on frame features in memory (section 3.4, Appendix A).

No test data is read. Like the authors, we keep the last epoch.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alertclip.errors import InputError
from alertclip.files import progress
from detectors.anomalyclip.losses import total_loss
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.anomalyclip.selector import select_segments
from detectors.anomalyclip.settings import AnomalyCLIPSettings


def fit(
    model: AnomalyCLIP, videos: Sequence[Tensor], labels: Sequence[int], seed: int
) -> pd.DataFrame:
    """Train ``model`` in place; return the mean rate and loss terms of every epoch.

    videos[i] (N_i, D) are frame features with the video-level class labels[i]. Raises InputError if
    half a batch cannot be filled or a loss is not finite.
    """
    settings, rng, rows = model.settings, np.random.default_rng(seed), []
    generator, halves = torch.Generator().manual_seed(seed), _halves(labels, settings)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    model.train()
    for epoch in progress(range(settings.epochs), settings.epochs, "AnomalyCLIP epoch"):
        rate = settings.learning_rate * learning_rate_factor(epoch, settings)
        optimizer.param_groups[0]["lr"] = rate
        for batch in epoch_batches(*halves, settings.batch_size, rng):
            chosen, classes = [videos[i] for i in batch], [labels[i] for i in batch]
            losses = _losses(model, chosen, classes, rng, generator)
            if not losses["total"].isfinite():
                raise InputError(
                    f"AnomalyCLIP: the loss is not finite in epoch {epoch} on videos {batch};"
                    " look at their features, or lower learning_rate"
                )
            losses["total"].backward()
            optimizer.step()
            optimizer.zero_grad()
            terms = {name: term.item() for name, term in losses.items()}
            rows.append({"epoch": epoch, **terms, "lr": rate})
    model.eval()
    return pd.DataFrame(rows).groupby("epoch").mean()


def _losses(
    model: AnomalyCLIP,
    videos: Sequence[Tensor],
    labels: Sequence[int],
    rng: np.random.Generator,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Losses on random segments of the videos, of which the first half is abnormal."""
    s, device, half = model.settings, model.prototype.device, len(videos) // 2
    sampled = [training_sample(video, s.segments, s.segment_frames, rng) for video in videos]
    abnormal = torch.tensor(labels[:half], device=device)
    # True where a segment may be selected (official code)
    mask = torch.rand(len(videos), s.segments, generator=generator) < s.keep_probability
    output = model(torch.stack(sampled).to(device, torch.float32), model.directions())
    ranked = output.logits, abnormal, mask.to(device)
    selection = select_segments(*ranked, s.normal_id, s.top_k, s.bottom_k)
    return total_loss(*output, abnormal, selection, s)


def start_indices(
    frames: int, segments: int, segment_frames: int, rng: np.random.Generator
) -> np.ndarray:
    """First frame (S,) of each training segment: i * d plus a random offset of 0 to d - F + 1.

    d = (max(N, S * F) - F + 1) // S is the distance of the blocks. For N <= S * F the offsets are
    0, and at the official sizes successive segments share one frame.
    """
    distance = (max(frames, segments * segment_frames) - segment_frames + 1) // segments
    # At other sizes d can be below F - 1, where the official code fails.
    offsets = rng.integers(max(distance - segment_frames + 2, 1), size=segments)
    return np.arange(segments) * distance + offsets


def training_sample(
    features: Tensor, segments: int, segment_frames: int, rng: np.random.Generator
) -> Tensor:
    """S segments of F consecutive frames of a video (N, D), looped if short -> (S, F, D)."""
    starts = start_indices(len(features), segments, segment_frames, rng)
    indices = starts[:, None] + np.arange(segment_frames)  # (S, F)
    return features[torch.from_numpy(indices % len(features)).to(features.device)]


def learning_rate_factor(epoch: int, settings: AnomalyCLIPSettings) -> float:
    """Factor on the rate in ``epoch`` (0-based): linear warm-up, then a cosine to 0 at the end.

    official: the warm-up starts at 0, so the first epoch changes only the running statistics of
    the Selector. paper ("warmed up", Appendix A): it starts above 0.
    """
    warmup = settings.warmup_epochs
    if epoch < warmup:
        return (epoch + (settings.variant == "paper")) / warmup
    done = (epoch - warmup) / (settings.epochs - warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def epoch_batches(
    abnormal: list[int], normal: list[int], size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Video indices of each batch of an epoch: ``size`` abnormal ones, then ``size`` normal ones.

    The epoch is one pass over the longer half; the shorter one is repeated (Lightning).
    """
    streams = [_batches(half, size, rng) for half in (abnormal, normal)]
    for _ in range(max(len(abnormal), len(normal)) // size):
        yield [i for stream in streams for i in next(stream)]


def _batches(items: list[int], size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Endless batches of shuffled items, all of the full size."""
    while True:
        order = rng.permutation(items).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def _halves(labels: Sequence[int], settings: AnomalyCLIPSettings) -> tuple[list[int], list[int]]:
    """Indices of abnormal and of normal videos; InputError if either cannot fill half a batch."""
    abnormal = [i for i, label in enumerate(labels) if label != settings.normal_id]
    normal = [i for i, label in enumerate(labels) if label == settings.normal_id]
    if min(len(abnormal), len(normal)) < settings.batch_size:
        raise InputError(
            f"{len(abnormal)} abnormal and {len(normal)} normal training videos do not fill a batch"
            f" with {settings.batch_size} of each: lower batch_size"
        )
    return abnormal, normal
