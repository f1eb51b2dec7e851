"""One optimiser step shared by the processes of ``torchrun --nproc_per_node N -m ...``.

Each process embeds its share of the clips of every micro-batch, receives the embeddings of the
others as constants, and takes the loss of all. The gradients of the processes then add up to
those of one process with all the clips. Without torchrun every function returns what it was given.
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
    """Join the processes that torchrun started, for the length of the block."""
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
    """This process's share of any list of work."""
    return slice(rank(), None, world_size())


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process; any other device is shared by all."""
    if device.type != "cuda" or world_size() == 1:
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(own)  # NCCL uses the current device
    return own


def gather(value: Any) -> list[Any]:
    """The value of every process, by rank."""
    everyone = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(everyone, value)
    return everyone


def barrier() -> None:
    """Wait for all processes."""
    gather(None)


@contextmanager
def first_alone() -> Iterator[None]:
    """Process 0 runs the block while the others wait; then they run it, and find its files."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def require_equal(value: Any, what: str) -> None:
    """Raise InputError on every process if ``value`` is not the same on all."""
    values = gather(value)
    for process, other in enumerate(values):
        if other != values[0]:
            raise InputError(f"process {process} and process 0 differ in {what}: give all the same")


def share(parts: Sequence[Embeddings], device: torch.device) -> Embeddings:
    """The micro-batches of all processes as one, by rank; only this process's keep their graph."""
    if world_size() == 1:
        return concatenate(parts)
    others = gather([part.map(lambda t: t.detach().cpu()) for part in parts])
    everyone = [[part.map(lambda t: t.to(device)) for part in other] for other in others]
    everyone[rank()] = list(parts)
    return concatenate([part for other in everyone for part in other])


def sum_gradients(parameters: Sequence[nn.Parameter], whole: nn.Parameter) -> None:
    """Add the gradients of all processes up, in place.

    ``whole`` (the temperature) has its entire gradient on every process: it counts once.
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
    """Give this process its own random numbers for optimiser step ``step``.

    They depend on (seed, step, rank), so a resume needs no state of any process. A single process
    draws from one stream, which its checkpoints carry.
    """
    if world_size() > 1:
        torch.manual_seed(int(np.random.SeedSequence([seed, step, rank()]).generate_state(1)[0]))
