"""Losses and weakly supervised training of VadCLIP on snippet features (Wu et al. 2024).

The authors select weights on the test set; here training reads no test data and keeps the last
epoch. Axes: B videos, T positions, C classes, of which class 0 is normal.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, cosine_similarity, cross_entropy, pad
from torch.optim.lr_scheduler import MultiStepLR

from detectors.detector_parts import Features, as_features, halves, paired_batches, train, weighted
from detectors.mil import segment_means
from detectors.training_protocol import VadCLIPSettings
from detectors.vadclip.model import VadCLIP
from media.errors import InputError


def top_k_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean over time of the floor(L / 16) + 1 largest values (B, T, C), L valid -> (B, C)."""
    rows = zip(values, lengths.tolist(), strict=True)
    return torch.stack([row[:n].topk(n // 16 + 1, dim=0).values.mean(dim=0) for row, n in rows])


def total_loss(
    logits1: Tensor,
    logits2: Tensor,
    text: Tensor,
    targets: Tensor,
    lengths: Tensor,
    settings: VadCLIPSettings,
) -> dict[str, Tensor]:
    """Return "total" = L_bce + L_nce + lambda L_cts (eq. 10), and its unweighted terms.

    logits1 (B, T), logits2 (B, T, C), text (C, D), targets (B, C) of 0 and 1, lengths (B,). The
    classes of a video weigh equally in L_nce (MIL-Align, eq. 8). Table 6 drops L_bce or L_nce.
    L_cts (eq. 9) pushes abnormal texts away from the normal one: mean of |cos| (official) or sum
    of max(0, cos) (paper).
    """
    confidence = top_k_mean(logits1.sigmoid()[..., None], lengths)[:, 0]
    shares = targets / targets.sum(dim=1, keepdim=True)
    cosine = cosine_similarity(text[:1], text[1:])
    paper = settings.variant == "paper"
    terms = {
        "binary": binary_cross_entropy(confidence, 1 - targets[:, 0]),
        "alignment": cross_entropy(top_k_mean(logits2, lengths), shares),
        "separation": cosine.relu().sum() if paper else cosine.abs().mean(),
    }
    return weighted(terms, settings)


def fit(model: VadCLIP, videos: Sequence[Features], targets: Tensor, seed: int) -> pd.DataFrame:
    """Train ``model`` in place; return the mean learning rate and loss terms of each epoch.

    videos (n_i, D), targets (N, C) of 0 and 1; each crop is a separate video (official code).
    Raises InputError if videos, targets and batch size do not fit, or logits are not finite.
    """
    width, settings, rng = model.linear.in_features, model.settings, np.random.default_rng(seed)
    is_normal = targets[:, 0].bool()
    if mixed := torch.nonzero(targets[:, 1:].any(dim=1) == is_normal).flatten().tolist():
        raise InputError(f"video {mixed[0]}: give the normal class or abnormal ones, not both")
    videos = [as_features(video, width, f"video {i}: ") for i, video in enumerate(videos)]
    device = model.linear.weight.device

    def losses(batch: list[int]) -> dict[str, Tensor]:
        samples = (training_window(videos[i], settings.length) for i in batch)
        windows, lengths = zip(*samples, strict=True)
        n, text = torch.tensor(lengths, device=device), model.encode_text()
        logits1, logits2, _ = model(torch.stack(windows).to(device), n, text)
        if not (logits1.isfinite().all() and logits2.isfinite().all()):
            advice = "scale features or lower learning_rate"
            raise InputError(f"VadCLIP: logits are not finite; {advice}")
        return total_loss(logits1, logits2, text, targets[batch].to(device), n, settings)

    return train(
        model,
        partial(MultiStepLR, milestones=settings.milestones, gamma=0.1),
        partial(epoch_batches, is_normal.tolist(), settings, rng),
        losses,
    )


def training_window(features: Tensor, length: int) -> tuple[Tensor, int]:
    """Pool or pad features (n, D) to (length, D); also return their valid length."""
    if (n := len(features)) > length:
        return segment_means(features, length), length
    return pad(features, (0, 0, 0, length - n)), n


def epoch_batches(
    is_normal: Sequence[bool], settings: VadCLIPSettings, rng: np.random.Generator
) -> Iterable[list[int]]:
    """Shuffled batches of an epoch: half normal until either kind runs out, or all videos."""
    size, half = settings.batch_size, settings.batch_size // 2
    if not settings.balanced:
        order = rng.permutation(len(is_normal)).tolist()
        return [order[start : start + size] for start in range(0, len(order), size)]
    abnormal, normal = halves(np.logical_not(is_normal), half)
    count = min(len(normal), len(abnormal)) // half
    return paired_batches((normal, abnormal), half, count, rng)
