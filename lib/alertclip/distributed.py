"""One optimiser step shared by the processes of ``torchrun --nproc_per_node N -m ...``.

Each process embeds its share of the clips of every micro-batch, receives the embeddings of the
others, and takes the whole loss, whose graph reaches its own clips only. The gradients of the
processes then add up to the gradient of one process with all the clips: what open_clip's gather
with a gradient (``gather_with_grad``) gives, without a second exchange in the backward pass.
Without torchrun every function here returns what it was given.
"""

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from alertclip.backward import Embeddings, concatenate
from alertclip.errors import InputError
from alertclip.files import Shard, sha256_json
from alertclip.objective import Texts

PATIENCE = timedelta(days=1)  # the first process may decode all videos while the others wait


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes torchrun started, for the length of the block; alone: nothing."""
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
    """Number of this process, from 0; 0 alone writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_shard() -> Shard:
    """This process's share of any list of work."""
    return Shard(rank() + 1, world_size())


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process on its machine; any other device is everybody's."""
    if device.type != "cuda" or world_size() == 1:
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(own)  # NCCL talks through the current device
    return own


def barrier() -> None:
    """Wait for all processes."""
    gather_values(None)


@contextmanager
def first_alone() -> Iterator[None]:
    """Process 0 runs the block while the others wait; then they run it, and find its files."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def gather_values(value: Any) -> list[Any]:
    """The JSON value of every process, by rank."""
    if world_size() == 1:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(data)]))
    parts = _gather_flat(data, [int(size) for size in sizes])
    return [json.loads(bytes(part.tolist())) for part in parts]


def require_equal(value: Any, what: str) -> None:
    """Raise InputError on every process if ``value`` is not the same on all."""
    sums = gather_values(sha256_json(value))
    if len(set(sums)) > 1:
        other = next(i for i, digest in enumerate(sums) if digest != sums[0])
        raise InputError(f"process {other} and process 0 differ in {what}: give all the same files")


def share(
    embeddings: Embeddings, texts: Sequence[Texts], device: torch.device
) -> tuple[Embeddings, Sequence[Texts]]:
    """Embeddings and texts of all processes, by rank, from those of this one on ``device``.

    The own embeddings keep their graph; those of the others are constants. A process without any
    clip gives {}.
    """
    if world_size() == 1:
        return embeddings, texts
    shapes = {name: list(tensor.shape) for name, tensor in embeddings.items()}
    mine = {"shapes": shapes, "texts": [vars(text) for text in texts]}
    everyone = gather_values(mine)
    values = [tensor.detach().float().flatten() for tensor in embeddings.values()]
    sizes = [sum(int(np.prod(s)) for s in one["shapes"].values()) for one in everyone]
    flat = torch.cat(values) if values else torch.zeros(0, device=device)
    parts = [
        _unflatten(values, one["shapes"])
        for values, one in zip(_gather_flat(flat, sizes), everyone, strict=True)
    ]
    parts[rank()] = embeddings
    return concatenate(parts), [Texts(**text) for one in everyone for text in one["texts"]]


def sum_gradients(parameters: Collection[nn.Parameter], whole: nn.Parameter) -> None:
    """Add the gradients of all processes up, in place.

    ``whole`` (the temperature) has its entire gradient on every process: it counts once. A
    parameter that no process used keeps no gradient.
    """
    if world_size() == 1:
        return
    used = [p.grad is not None and (p is not whole or rank() == 0) for p in parameters]
    pairs = list(zip(parameters, used, strict=True))
    parts = [(p.grad if u else torch.zeros_like(p)).flatten().float() for p, u in pairs]
    flags = torch.tensor(used, dtype=torch.float32, device=parts[0].device)
    flat = torch.cat([*parts, flags])
    dist.all_reduce(flat)
    values = flat.split([*(p.numel() for p in parameters), len(pairs)])
    for parameter, value, users in zip(parameters, values, values[-1].tolist(), strict=False):
        parameter.grad = value.view_as(parameter).to(parameter.dtype) if users else None


def seed_step(seed: int, step: int) -> None:
    """Give this process its own random numbers for optimiser step ``step``.

    Drawn from (seed, step, rank), so that a resume needs no state of any process. A single process
    draws from one stream that its checkpoints carry.
    """
    if world_size() > 1:
        torch.manual_seed(int(np.random.SeedSequence([seed, step, rank()]).generate_state(1)[0]))


def _gather_flat(values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The 1-D tensors of all processes, whose lengths are ``sizes``; padded on the way."""
    padded = values.new_zeros(max(sizes))
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _unflatten(values: Tensor, shapes: dict[str, list[int]]) -> Embeddings:
    parts = values.split([int(np.prod(shape)) for shape in shapes.values()])
    return {name: t.view(s) for (name, s), t in zip(shapes.items(), parts, strict=True)}
