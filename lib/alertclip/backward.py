"""Gradients of one optimiser step from its micro-batches.

``micro``: InfoNCE contrasts each clip with its own micro-batch, as Table 4 reads literally (8).
``accumulated``: with all clips of the optimiser step (128). The embeddings of every micro-batch
are computed without a graph, the loss is taken on all of them, and each micro-batch is computed
again to carry the gradient of its embeddings on (GradCache, Gao et al. 2021; open_clip's
``accum_freq``). That costs a second forward pass and no memory.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from alertclip.checkpoint import set_torch_rng, torch_rng

Embeddings = dict[str, Tensor]
Loss = tuple[Tensor, dict[str, Tensor]]  # scalar with graph, its terms
Embed = Callable[[Any], Embeddings]
Objective = Callable[[Embeddings, Sequence[Any]], Loss]


def micro_backward(batches: Sequence[Any], embed: Embed, objective: Objective) -> Loss:
    """Accumulate the gradient of the mean loss over micro-batches, each contrasted by itself."""
    losses, terms = [], []
    for batch in batches:
        loss, parts = objective(embed(batch), [batch])
        (loss / len(batches)).backward()
        losses.append(loss.detach())
        terms.append(parts)
    names = dict.fromkeys(name for part in terms for name in part)
    means = {n: torch.stack([part[n] for part in terms if n in part]).mean() for n in names}
    return torch.stack(losses).mean(), means


def accumulated_backward(
    batches: Sequence[Any], embed: Embed, objective: Objective, device: torch.device
) -> Loss:
    """Accumulate the gradient of the loss that contrasts the clips of all micro-batches.

    Equal to one large batch as far as clips do not interact inside the model; dropout masks are
    replayed between the two passes.
    """
    cached, states = [], []
    with torch.no_grad():
        for batch in batches:
            states.append(torch_rng(device))
            cached.append(embed(batch))
    leaves = [{name: t.requires_grad_() for name, t in part.items()} for part in cached]
    loss, terms = objective(concatenate(leaves), batches)
    loss.backward()  # fills the leaves' gradients, and those of the temperature
    after = torch_rng(device)
    for batch, state, part in zip(batches, states, leaves, strict=True):
        set_torch_rng(state, device)
        tensors = embed(batch)
        names = [
            n for n, leaf in part.items() if leaf.grad is not None and tensors[n].requires_grad
        ]
        torch.autograd.backward([tensors[n] for n in names], [part[n].grad for n in names])
    set_torch_rng(after, device)
    return loss.detach(), terms


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Join embeddings of micro-batches along the first axis.

    Where one batch has more hard negatives per region, the others are padded; the mask knows.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    joined = {}
    for name in names:
        tensors = [part[name] for part in parts if name in part]
        if name in ("t_neg", "negative_mask"):  # (R, K, D) and (R, K)
            k = max(t.shape[1] for t in tensors)
            after_k = [0] * 2 * (tensors[0].ndim - 2)
            tensors = [pad(t, [*after_k, 0, k - t.shape[1]]) for t in tensors]
        joined[name] = torch.cat(tensors)
    return joined
