"""Tokens of frames below the lowest adapter: computed once, kept for every epoch and seed.

Where adapters sit in the upper blocks alone, the lower ones give the same tokens each time a clip
comes round: they are read from disk instead. A run with the cache is the run without it, to the
bit where products do not depend on how many clips are computed at a time. It pays on a CPU; a
large GPU computes them again in less time than it takes to read them.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alertclip.errors import InputError
from alertclip.families import take_apart
from alertclip.files import atomic_write, sha256_json
from alertclip.tower import frozen_depth


class PrefixCache:
    """Tokens (T, N, width) that enter block ``depth``, one file per clip, under ``root``.

    The folder is named after the frozen weights and all else they are ``made_by``: architecture,
    pixel statistics, precision, device (JSON values). Raises InputError where every block learns.
    """

    def __init__(self, root: Path, visual: nn.Module, made_by: Sequence[Any]) -> None:
        self.depth = frozen_depth(visual)
        if self.depth == 0:
            raise InputError(
                "cache_prefix=true: adapters begin in the first vision block, so that nothing can"
                " be kept; set lora_blocks to a few upper ones, or leave cache_prefix=false"
            )
        self.folder = root / _name(visual, self.depth, made_by)

    def tokens(
        self,
        sources: Sequence[str],
        compute: Callable[[list[int]], Tensor],
        device: torch.device,
    ) -> Tensor:
        """Tokens (B, T, N, width) of clips; ``compute`` gives those of the clips not kept yet."""
        files = [self.folder / f"{source}.safetensors" for source in sources]
        found = [_stored(file) for file in files]
        if missing := [i for i, tokens in enumerate(found) if tokens is None]:
            for i, tokens in zip(missing, compute(missing), strict=True):
                found[i] = tokens
                with atomic_write(files[i]) as temporary:
                    save_file({"tokens": tokens.contiguous()}, temporary)
        return torch.stack([tokens.to(device, non_blocking=True) for tokens in found])


def _stored(file: Path) -> Tensor | None:
    """Tokens of a file; None if it is missing or damaged."""
    try:
        return load_file(file)["tokens"]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def _name(visual: nn.Module, depth: int, made_by: Sequence[Any]) -> str:
    """Hash of all weights but those of the blocks from ``depth`` on, which the tokens precede."""
    above = {id(p) for block in take_apart(visual).blocks[depth:] for p in block.parameters()}
    digest = hashlib.sha256(sha256_json([depth, *made_by]).encode())
    for name, parameter in visual.named_parameters():
        if id(parameter) not in above:
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
