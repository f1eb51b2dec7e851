"""Parts that the detectors share: CLIP's text tower, checks, batches and the training loop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from alertclip.hyperparameters import Group
from media.errors import InputError
from media.files import progress

Tokenizer = Callable[[list[str]], Tensor]
Features = np.ndarray | Tensor
"""Features (n, D) of one video: a row per snippet of 16 frames (VadCLIP) or per frame."""


class VideoScores(NamedTuple):
    """Scores in [0, 1] of a video's n features; only VadCLIP fills the last three fields."""

    anomaly: np.ndarray  # (n,)
    probabilities: np.ndarray  # (n, C)
    adapted: np.ndarray | None = None  # (n, D), input of both branches
    other_branch: np.ndarray | None = None  # (n,), anomaly score of the other branch
    text: np.ndarray | None = None  # (C, D), class embeddings


class TextTower(nn.Module):
    """Frozen copy of the causal text tower of an open_clip CLIP; InputError if it has none."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        has_projection = isinstance(getattr(clip, "text_projection", None), nn.Parameter)
        pools_eot = getattr(clip, "text_pool_type", "argmax") == "argmax"
        if not has_projection or not pools_eot or clip.attn_mask is None:
            raise InputError("the detectors need the text tower of a CLIP; choose such a backbone")
        for name in ("transformer", "ln_final", "positional_embedding", "text_projection"):
            setattr(self, name, deepcopy(getattr(clip, name)))
        self.register_buffer("attn_mask", clip.attn_mask.clone(), persistent=False)
        self.float().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "TextTower":
        """Stay in evaluation mode, so that dropout is never active."""
        return super().train(False)

    def forward(self, prompts: Tensor, end: Tensor) -> Tensor:
        """Embedded prompts (C, L, W), [EOT] positions (C,) -> features (C, D), not normalised."""
        n = prompts.shape[1]  # the tower is causal: padding after the last [EOT] can be cut off
        x = prompts + self.positional_embedding[:n]
        x = self.transformer(x, attn_mask=self.attn_mask[:n, :n])
        x = self.ln_final(x)[torch.arange(len(x), device=x.device), end]
        return x @ self.text_projection


def as_features(features: Features, width: int, where: str = "") -> Tensor:
    """Return features (n, D) as float32; InputError if empty, not D wide or not finite."""
    tensor = torch.as_tensor(features, dtype=torch.float32)
    if tensor.ndim != 2 or not len(tensor) or tensor.shape[1] != width:
        raise InputError(f"{where}features of shape {tuple(tensor.shape)}: give n x {width}, n > 0")
    if not tensor.isfinite().all():
        raise InputError(f"{where}features are not finite: extract them again")
    return tensor


def halves(abnormal: Sequence[bool], size: int) -> tuple[list[int], list[int]]:
    """Return indices of abnormal and normal videos; InputError if fewer than ``size`` of either."""
    flags = np.array(abnormal, bool)
    pools = np.flatnonzero(flags).tolist(), np.flatnonzero(~flags).tolist()
    if min(map(len, pools)) < size:
        counts = f"{len(pools[0])} abnormal and {len(pools[1])} normal training videos"
        raise InputError(f"{counts} do not fill a batch with {size} of each: lower batch_size")
    return pools


def paired_batches(
    pools: Sequence[list[int]], size: int, count: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Yield ``count`` batches of ``size`` items per pool; a pool is reshuffled when used up."""

    def endless(pool: list[int]) -> Iterator[list[int]]:
        while True:
            order = rng.permutation(pool).tolist()
            for start in range(0, len(order) - size + 1, size):
                yield order[start : start + size]

    streams = [endless(pool) for pool in pools]
    for _ in range(count):
        yield [i for stream in streams for i in next(stream)]


def weighted(terms: dict[str, Tensor], settings: Group) -> dict[str, Tensor]:
    """Return the terms and "total", their weighted sum without ``left_out``; default weight 1."""
    kept = [name for name in terms if name not in getattr(settings, "left_out", ())]
    total = sum(getattr(settings, f"{name}_weight", 1) * terms[name] for name in kept)
    return {"total": total, **terms}


def train(
    model: nn.Module,
    schedule: Callable[[Optimizer], LRScheduler],
    batches: Callable[[], Iterable[list[int]]],
    losses: Callable[[list[int]], dict[str, Tensor]],
    make_optimizer: Callable[..., Optimizer] = AdamW,
) -> pd.DataFrame:
    """Minimise the "total" of ``losses``; return the mean learning rate and terms of each epoch.

    Learning rate, weight decay and epochs come from ``model.settings``. ``batches`` yields the
    video indices of one epoch, ``schedule`` sets its rate. InputError if a loss is not finite.
    """
    settings, rows, name = model.settings, [], type(model).__name__
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    rates = schedule(optimizer := make_optimizer(trained, **options))
    model.train()
    for epoch in progress(range(settings.epochs), settings.epochs, f"{name} epoch"):
        for batch in batches():
            terms = losses(batch)
            if not terms["total"].isfinite():
                what = f"{name}: the loss is not finite in epoch {epoch} on videos {batch}"
                raise InputError(f"{what}; look at their features, or lower learning_rate")
            optimizer.zero_grad()
            terms["total"].backward()
            optimizer.step()
            values = {term: value.item() for term, value in terms.items()}
            rows.append({"epoch": epoch, "lr": rates.get_last_lr()[0], **values})
        rates.step()
    model.eval()
    return pd.DataFrame(rows).groupby("epoch").mean()
