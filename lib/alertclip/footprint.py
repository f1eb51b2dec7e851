"""Memory of an optimiser step, foreseen from small ones: how much of it to compute again.

Activations grow in proportion to the clips of a micro-batch, so that the peaks of an eighth and
of a quarter of one tell that of the whole. Clips of noise stand for the real ones, with one region
and short captions each: where texts are long and frames few, the real peak is higher.
"""

import math
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alertclip import distributed
from alertclip.attention import attention_kernel
from alertclip.backward import micro_backward
from alertclip.checkpoint import set_torch_rng, torch_rng, trainable
from alertclip.clips import Batch
from alertclip.model import AlertCLIP, K
from alertclip.objective import embed, objective
from alertclip.stage_settings import StageSettings
from alertclip.tower import checkpoint_every

POLICIES = ("none", "4", "2", "all")  # of activation checkpointing, the fastest first
SHARE = 0.85  # of the memory: the rest is for fragments, kernels and what else runs there
STATE = 3 * 4  # bytes per trainable parameter that a first pass does not hold: gradient, moments


class Footprint(TorchDispatchMode):
    """Counts the bytes of the tensors made inside: ``held`` now, and at their ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.count(tensor)
        return made

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's memory, once for all that share it, until it is freed."""
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.held -= size


def random_batch(image_size: tuple[int, int], clips: int, frames: int) -> Batch:
    """Clips of noise, each with one region in every frame and K hard negatives."""
    corners = torch.rand(clips, frames, 2) / 2
    names = [f"clip {i}" for i in range(clips)]
    return Batch(
        frames=torch.randint(256, (clips, frames, 3, *image_size), dtype=torch.uint8),
        mask=torch.ones(clips, frames, dtype=torch.bool),
        global_captions=[f"a video of {name}" for name in names],
        region_clip=torch.arange(clips),
        boxes=torch.cat([corners, corners + 0.4], dim=-1),
        region_mask=torch.ones(clips, frames, dtype=torch.bool),
        region_captions=[f"a region of {name}" for name in names],
        hard_negatives=[[f"{name}, not number {k}" for k in range(K)] for name in names],
        labels=torch.ones(clips, dtype=torch.long),
        keys=names,
    )


def step_bytes(
    model: AlertCLIP, settings: StageSettings, clips: int, frames: int, regions: bool
) -> int:
    """Peak of all tensors on the model's device in a step on one micro-batch of noise."""
    device, learned = model.mean.device, trainable(model).values()
    before, batch = torch_rng(device), random_batch(model.image_size, clips, frames)
    try:
        with attention_kernel(device, settings.precision), _counting(model) as footprint:
            micro_backward(
                [batch],
                partial(embed, model, regions=regions, device=device, precision=settings.precision),
                lambda e, b: objective(model, e, b, settings=settings),
            )
    finally:  # also where the memory did not do: noise must teach nothing
        set_torch_rng(before, device)
        for parameter in learned:
            parameter.grad = None
    peak = footprint.peak if footprint else torch.cuda.max_memory_allocated(device)
    return peak + STATE * sum(p.numel() for p in learned)


@contextmanager
def _counting(model: AlertCLIP) -> Iterator[Footprint | None]:
    """Start a new peak: CUDA's own count, or a Footprint that begins with the model."""
    if model.mean.is_cuda:
        torch.cuda.reset_peak_memory_stats(model.mean.device)
        yield None
        return
    with Footprint() as footprint:
        for tensor in (*model.parameters(), *model.buffers()):
            footprint.count(tensor)
        yield footprint


def foreseen_bytes(
    model: AlertCLIP, settings: StageSettings, clips: int, frames: int, regions: bool
) -> float:
    """Peak of a step on ``clips`` clips, from steps of an eighth and of a quarter of them.

    Infinite where even these do not fit into the device.
    """
    few = max(1, clips // 8)
    try:
        if clips <= 2:
            return step_bytes(model, settings, clips, frames, regions)
        one, two = (step_bytes(model, settings, n, frames, regions) for n in (few, 2 * few))
    except torch.OutOfMemoryError:
        return math.inf
    return one + (two - one) * (clips - few) / few


def least_checkpointing(
    model: AlertCLIP, settings: StageSettings, frames: int, regions: bool, memory: float
) -> tuple[str, float]:
    """The fastest policy whose foreseen peak fits into ``memory`` bytes, else "all"; the peak.

    Leaves ``model`` with that policy.
    """
    was_training = model.training
    model.train()
    clips = -(-settings.batch_size // distributed.world_size())
    for policy in POLICIES:
        model.checkpoint_every = checkpoint_every(policy)
        peak = foreseen_bytes(model, settings, clips, frames, regions)
        if peak <= SHARE * memory:
            break
    model.train(was_training)
    return policy, peak


def fit_into_memory(
    model: AlertCLIP, settings: StageSettings, frames: int, regions: bool, name: str
) -> None:
    """Let the model recompute no more than its GPU's memory demands, and say so; on a CPU all.

    What a CPU may use, none can tell: other processes, jobs and their limits share it. Results do
    not depend on the policy.
    """
    if not model.mean.is_cuda:
        model.checkpoint_every = checkpoint_every("all")
        return
    memory = usable_memory(model.mean.device)
    policy, peak = least_checkpointing(model, settings, frames, regions, memory)
    short = "" if peak <= SHARE * memory else f"; lower {name}_batch_size, raise the accumulation"
    if distributed.rank() == 0:
        found = f"{peak / 1e9:.1f} GB foreseen of {memory / 1e9:.1f} GB{short}"
        print(f"{name}: checkpointing={policy}, {found}", flush=True)


def usable_memory(device: torch.device) -> float:
    """Bytes of a GPU that are free or this process's own; on a CPU all, whoever else uses them."""
    if device.type != "cuda":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
