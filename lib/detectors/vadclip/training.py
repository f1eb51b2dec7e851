"""Weakly supervised training of VadCLIP on snippet features in memory (Wu et al. 2024).

Nothing here sees test data. The authors choose weights on the test set; here the last epoch stays.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim import AdamW
from torch.optim.lr_scheduler import MultiStepLR

from alertclip.errors import InputError
from detectors.epochs import epoch_means
from detectors.vadclip.losses import VadCLIPLosses, total_loss
from detectors.vadclip.model import VadCLIP
from detectors.vadclip.scoring import Features, as_features
from detectors.vadclip.settings import VadCLIPSettings

SEED = 234  # official code
DECAY = 0.1  # of the rate at each milestone


def multi_hot(labels: Sequence[Sequence[str]], class_names: Sequence[str]) -> Tensor:
    """Targets (N, C) of 0 and 1 from the class names of each video: one in UCF-Crime, several in
    XD-Violence. InputError names a class that is not among ``class_names``."""
    place = {name: c for c, name in enumerate(class_names)}
    targets = torch.zeros(len(labels), len(class_names))
    for i, names in enumerate(labels):
        for name in names:
            if name not in place:
                raise InputError(f"video {i}: class {name} is not one of {', '.join(class_names)}")
            targets[i, place[name]] = 1
    return targets


def fit(
    model: VadCLIP, videos: Sequence[Features], targets: Tensor, seed: int = SEED
) -> list[dict[str, float]]:
    """Train ``model`` in place for all epochs; return per epoch the mean loss terms and the rate.

    Arguments and errors are those of ``training_steps``.
    """
    rows = training_steps(model, videos, targets, seed)
    total = model.settings.epochs * steps_per_epoch(targets, model.settings)
    history = epoch_means(rows, total, "VadCLIP step")
    model.eval()
    return history


def training_steps(
    model: VadCLIP, videos: Sequence[Features], targets: Tensor, seed: int = SEED
) -> Iterator[dict[str, float]]:
    """Train ``model`` in place, yielding epoch, rate and loss terms after each optimiser step.

    videos[i] (n_i, D) has the classes targets[i] of ``targets`` (N, C), which are 0 or 1; each
    crop is a video of its own (official code). Between steps the caller may look at the model or
    load other weights. Raises InputError, at once, if videos, targets and batch size do not fit,
    and later where logits are not finite.
    """
    return _steps(model, _checked(model, videos, targets), targets.float(), seed)


def _steps(
    model: VadCLIP, videos: Sequence[Tensor], targets: Tensor, seed: int
) -> Iterator[dict[str, float]]:
    settings = model.settings
    optimizer, schedule = _optimizer(model)
    rng = np.random.default_rng(seed)
    for epoch in range(settings.epochs):
        for batch in epoch_batches(targets, settings, rng):
            model.train()
            losses = _losses(model, videos, targets, batch)
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
            terms = {name: term.item() for name, term in losses._asdict().items()}
            yield {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], **terms}
        schedule.step()


def _optimizer(model: VadCLIP) -> tuple[AdamW, MultiStepLR]:
    settings = model.settings
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return optimizer, MultiStepLR(optimizer, list(settings.milestones), DECAY)


def _losses(
    model: VadCLIP, videos: Sequence[Tensor], targets: Tensor, batch: list[int]
) -> VadCLIPLosses:
    settings, device = model.settings, model.linear.weight.device
    windows, lengths = zip(
        *(training_window(videos[i], settings.length) for i in batch), strict=True
    )
    n = torch.tensor(lengths, device=device)
    text = model.encode_text()
    output = model(torch.stack(windows).to(device), n, text)
    if not all(logits.isfinite().all() for logits in output):
        raise InputError(
            f"VadCLIP: the logits of videos {batch} are not finite; look at their features, or"
            " lower learning_rate"
        )
    return total_loss(output.logits1, output.logits2, text, targets[batch].to(device), n, settings)


def training_window(features: Tensor, length: int) -> tuple[Tensor, int]:
    """(n, D) -> (length, D) and the valid length min(n, length): pooled if longer, else padded."""
    if len(features) > length:
        return uniform_pool(features, length), length
    return pad(features, (0, 0, 0, length - len(features))), len(features)


def uniform_pool(features: Tensor, bins: int) -> Tensor:
    """Means of (n, D) over ``bins`` bins with edges floor(i n / bins): (bins, D); n >= bins."""
    edges = torch.arange(1, bins) * len(features) // bins
    return torch.stack([part.mean(dim=0) for part in features.tensor_split(edges.tolist())])


def epoch_batches(
    targets: Tensor, settings: VadCLIPSettings, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Video indices of each batch of one epoch, newly shuffled.

    balanced: half normal, then half abnormal, until one kind runs out; remainders are dropped.
    Otherwise all videos once, the last batch being what is left.
    """
    size = settings.batch_size
    if not settings.balanced:
        order = rng.permutation(len(targets)).tolist()
        yield from (order[start : start + size] for start in range(0, len(order), size))
        return
    normal, abnormal = (rng.permutation(kind) for kind in _kinds(targets))
    half = size // 2
    for start in range(0, steps_per_epoch(targets, settings) * half, half):
        chosen = slice(start, start + half)
        yield [*normal[chosen].tolist(), *abnormal[chosen].tolist()]


def steps_per_epoch(targets: Tensor, settings: VadCLIPSettings) -> int:
    """Batches of one epoch; see ``epoch_batches``."""
    if settings.balanced:
        return min(len(kind) for kind in _kinds(targets)) // (settings.batch_size // 2)
    return -(-len(targets) // settings.batch_size)


def _kinds(targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the normal and of the abnormal videos."""
    normal = targets[:, 0].bool().cpu().numpy()
    return np.flatnonzero(normal), np.flatnonzero(~normal)


def _checked(model: VadCLIP, videos: Sequence[Features], targets: Tensor) -> list[Tensor]:
    if targets.shape != (len(videos), len(model.class_names)):
        classes = len(model.class_names)
        shape = tuple(targets.shape)
        raise InputError(f"targets of shape {shape} for {len(videos)} videos and {classes} classes")
    abnormal, normal = targets[:, 1:].any(dim=1), targets[:, 0].bool()
    wrong = ((targets != 0) & (targets != 1)).any(dim=1) | (abnormal == normal)
    if wrong.any():
        first = int(wrong.int().argmax())
        raise InputError(f"video {first}: targets are 0 or 1, normal or of abnormal classes")
    if not steps_per_epoch(targets, model.settings):
        raise InputError(
            f"{int(normal.sum())} normal and {int(abnormal.sum())} abnormal training videos do not"
            f" fill a batch of {model.settings.batch_size}, half of each: lower batch_size"
        )
    width = model.linear.in_features
    return [as_features(video, width, f"video {i}: ") for i, video in enumerate(videos)]
