"""Learning rate and item order as functions of the step alone, so that a resume needs no replay."""

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from alertclip.files import WHOLE, Shard
from alertclip.hyperparameters import StageParams


def learning_rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Factor on every base rate at optimiser step ``step`` (0-based) of ``total``.

    Linear warm-up over ceil(ratio * total) steps, whose first step already moves, then a cosine
    that would reach 0 at step ``total`` (supplementary Table 4: warm-up ratio, cosine).
    """
    warmup = math.ceil(warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def item_stream(items: int, seed: int, start: int) -> Iterator[int]:
    """Item indices from position ``start`` of the endless sequence of shuffled epochs.

    An epoch's order depends on seed and epoch only. Batches run across the ends of epochs: no clip
    is dropped, and every optimiser step sees the same number of clips.
    """
    epoch, offset = divmod(start, items)
    while True:
        yield from np.random.default_rng([seed, epoch]).permutation(items)[offset:].tolist()
        epoch, offset = epoch + 1, 0


def micro_batches(
    items: int, stage: StageParams, seed: int, start: int, shard: Shard = WHOLE
) -> list[list[int]]:
    """Index lists of the micro-batches of optimiser steps [start, total).

    Each process takes its ``shard`` of every micro-batch; together they are the same micro-batches
    for any number of processes.
    """
    first, last = (step * stage.accumulation for step in (start, stage.total_steps(items)))
    stream = item_stream(items, seed, first * stage.batch_size)
    return [shard.take(list(islice(stream, stage.batch_size))) for _ in range(first, last)]
