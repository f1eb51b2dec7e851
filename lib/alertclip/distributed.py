"""One optimiser step shared by the processes of ``torchrun --nproc_per_node N -m ...``.

Each process embeds its share of every micro-batch, receives the embeddings of the others as
constants, and computes the loss over all. The gradients of the processes then add up to those of
one process with all clips. Without torchrun there is one process, and nothing is exchanged.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from alertclip.losses import Embeddings, concatenate
from media.errors import InputError

PATIENCE = timedelta(days=1)  # the first process may decode all videos while the others wait


@contextmanager
def processes() -> Iterator[None]:
    """Join the process group of torchrun inside the block."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes that share each step."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; only process 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_shard() -> slice:
    """Slice that takes this process's share of a list."""
    return slice(rank(), None, world_size())


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process; any other device is shared by all."""
    if device.type != "cuda" or world_size() == 1:
        return device
    gpu = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(gpu)  # NCCL uses the current device
    return gpu


def gather(value: Any) -> list[Any]:
    """The value of every process, by rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all processes."""
    gather(None)


@contextmanager
def first_alone() -> Iterator[None]:
    """Run the block in process 0 first; the others then run it and find its files."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def require_equal(value: Any, what: str) -> None:
    """Raise InputError in every process if ``value`` differs between processes."""
    values = gather(value)
    for process, other in enumerate(values):
        if other != values[0]:
            raise InputError(f"process {process} and process 0 differ in {what}: give all the same")


def share(parts: Sequence[Embeddings], device: torch.device) -> Embeddings:
    """Join the micro-batches of all processes by rank; only this process's keep their graph."""
    if world_size() == 1:
        return concatenate(parts)
    gathered = gather([part.map(lambda t: t.detach().cpu()) for part in parts])
    by_rank = [[part.map(lambda t: t.to(device)) for part in theirs] for theirs in gathered]
    by_rank[rank()] = list(parts)
    return concatenate([part for theirs in by_rank for part in theirs])


def sum_gradients(parameters: Sequence[nn.Parameter], whole: nn.Parameter) -> None:
    """Sum the gradients of all processes, in place.

    ``whole`` (the temperature) has its full gradient in every process, so it counts once.
    """
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None or (parameter is whole and rank() > 0):
            parameter.grad = torch.zeros_like(parameter)
    flat = parameters_to_vector(p.grad for p in parameters)
    dist.all_reduce(flat)
    vector_to_parameters(flat, [p.grad for p in parameters])


def seed_step(seed: int, step: int) -> None:
    """Seed this process's random numbers for optimiser step ``step``.

    They depend on (seed, step, rank), so a resume needs no saved state. A single process draws from
    one stream, whose state is in the checkpoints.
    """
    if world_size() > 1:
        torch.manual_seed(int(np.random.SeedSequence([seed, step, rank()]).generate_state(1)[0]))
