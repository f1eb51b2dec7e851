"""Weakly supervised training of VadCLIP on snippet features in memory (Wu et al. 2024).

The authors choose weights on the test set; here training sees no test data, and the last epoch
is kept.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

from alertclip.errors import InputError
from alertclip.files import progress
from detectors.vadclip.losses import VadCLIPLosses, total_loss
from detectors.vadclip.model import VadCLIP
from detectors.vadclip.settings import VadCLIPSettings
from detectors.video_scores import Features, as_features


def multi_hot(labels: Sequence[Sequence[str]], class_names: Sequence[str]) -> Tensor:
    """Targets (N, C) of 0 and 1 from the class names of each video (XD-Violence has several)."""
    targets = torch.zeros(len(labels), len(class_names))
    for i, names in enumerate(labels):
        for name in names:
            if name not in class_names:
                raise InputError(f"video {i}: class {name} is not one of {', '.join(class_names)}")
            targets[i, list(class_names).index(name)] = 1
    return targets


def fit(
    model: VadCLIP, videos: Sequence[Features], targets: Tensor, seed: int = 234
) -> pd.DataFrame:
    """Train ``model`` in place; return the mean rate and loss terms of every epoch.

    videos[i] (n_i, D) has the classes targets[i] of ``targets`` (N, C), which are 0 or 1; every
    crop is a video of its own, and the default seed is the authors' (official code). Raises
    InputError if videos, targets and batch size do not fit, or if logits are not finite.
    """
    settings, rng, rows = model.settings, np.random.default_rng(seed), []
    videos = _checked(model, videos, targets)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = MultiStepLR(optimizer, list(settings.milestones), gamma=0.1)
    model.train()
    for epoch in progress(range(settings.epochs), settings.epochs, "VadCLIP epoch"):
        for batch in epoch_batches(targets, settings, rng):
            losses = _losses(model, [videos[i] for i in batch], targets[batch])
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
            terms = {name: term.item() for name, term in losses._asdict().items()}
            rows.append({"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], **terms})
        schedule.step()
    model.eval()
    return pd.DataFrame(rows).groupby("epoch").mean()


def _losses(model: VadCLIP, videos: Sequence[Tensor], targets: Tensor) -> VadCLIPLosses:
    settings, device = model.settings, model.linear.weight.device
    pairs = [training_window(video, settings.length) for video in videos]
    n = torch.tensor([length for _, length in pairs], device=device)
    text = model.encode_text()
    output = model(torch.stack([window for window, _ in pairs]).to(device), n, text)
    if not all(logits.isfinite().all() for logits in output):
        raise InputError("VadCLIP: logits are not finite; lower learning_rate or scale features")
    return total_loss(output.logits1, output.logits2, text, targets.to(device), n, settings)


def training_window(features: Tensor, length: int) -> tuple[Tensor, int]:
    """(n, D) -> (length, D) and the valid length min(n, length): pooled if longer, else padded.

    The bins of the pooling are the official ones, with edges floor(i n / length).
    """
    n = len(features)
    if n <= length:
        return pad(features, (0, 0, 0, length - n)), n
    edges = (torch.arange(1, length) * n // length).tolist()
    return torch.stack([part.mean(dim=0) for part in features.tensor_split(edges)]), length


def epoch_batches(
    targets: Tensor, settings: VadCLIPSettings, rng: np.random.Generator
) -> list[list[int]]:
    """Video indices of each batch of one epoch, shuffled.

    balanced: half normal, then half abnormal, until either runs out; the rest is dropped.
    Otherwise all videos once, and the last batch may be short.
    """
    size, half = settings.batch_size, settings.batch_size // 2
    if not settings.balanced:
        order = rng.permutation(len(targets)).tolist()
        return [order[start : start + size] for start in range(0, len(order), size)]
    is_normal = targets[:, 0].bool().cpu().numpy()
    normal = rng.permutation(np.flatnonzero(is_normal)).tolist()
    abnormal = rng.permutation(np.flatnonzero(~is_normal)).tolist()
    starts = range(0, min(len(normal), len(abnormal)) // half * half, half)
    return [normal[i : i + half] + abnormal[i : i + half] for i in starts]


def _checked(model: VadCLIP, videos: Sequence[Features], targets: Tensor) -> list[Tensor]:
    abnormal, normal = targets[:, 1:].any(dim=1), targets[:, 0].bool()
    if both := torch.nonzero(abnormal == normal).flatten().tolist():
        raise InputError(f"video {both[0]}: give the normal class or abnormal ones, not both")
    settings, scarcer = model.settings, min(int(normal.sum()), int(abnormal.sum()))
    if settings.balanced and scarcer < settings.batch_size // 2:
        raise InputError(
            f"{int(normal.sum())} normal and {int(abnormal.sum())} abnormal training videos do not"
            f" fill a batch of {settings.batch_size}, half of each: lower batch_size"
        )
    width = model.linear.in_features
    return [as_features(video, width, f"video {i}: ") for i, video in enumerate(videos)]
