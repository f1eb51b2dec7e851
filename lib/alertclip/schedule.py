"""Learning rate and item order as functions of the step alone, so that a resume needs no replay."""

import math
from collections.abc import Iterator

import numpy as np

from alertclip.files import WHOLE, Shard


def learning_rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Factor on every base rate at optimiser step ``step`` (0-based) of ``total``.

    Linear warm-up over ceil(ratio * total) steps, whose first step already moves, then a cosine
    that would reach 0 at step ``total`` (supplementary Table 4: warm-up ratio, cosine).
    """
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def epoch_order(items: int, seed: int, epoch: int) -> np.ndarray:
    """Permutation (items,) of an epoch: it depends on seed and epoch only."""
    return np.random.default_rng([seed, epoch]).permutation(items)


def item_stream(items: int, seed: int, start: int) -> Iterator[int]:
    """Item indices from position ``start`` of the endless sequence of shuffled epochs.

    Batches run across the ends of epochs: no clip is dropped, and every optimiser step sees the
    same number of clips.
    """
    epoch, offset = divmod(start, items)
    while True:
        yield from epoch_order(items, seed, epoch)[offset:].tolist()
        epoch, offset = epoch + 1, 0


class MicroBatches:
    """Batch sampler: index lists of the micro-batches of optimiser steps [start, total).

    Each process takes its ``shard`` of every micro-batch; together they are the same micro-batches
    for any number of processes.
    """

    def __init__(
        self,
        items: int,
        batch_size: int,
        accumulation: int,
        seed: int,
        start: int,
        total: int,
        shard: Shard = WHOLE,
    ) -> None:
        self.items, self.batch_size, self.seed, self.shard = items, batch_size, seed, shard
        self.first, self.last = start * accumulation, total * accumulation

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        stream = item_stream(self.items, self.seed, self.first * self.batch_size)
        for _ in range(len(self)):
            yield self.shard.take([next(stream) for _ in range(self.batch_size)])
