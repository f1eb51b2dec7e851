"""The stage's objective: gradients of an optimiser step, and scores on the validation split.

Negatives of InfoNCE. ``micro``: each clip is contrasted with its own micro-batch, as Table 4 reads
literally (8). ``accumulated``: with all clips of the optimiser step (128), as GradCache does (Gao
et al. 2021; open_clip's ``accum_freq``): the embeddings of every micro-batch are computed without
a graph, the loss is taken on all of them, and each micro-batch is computed again to carry the
gradient of its embeddings on. That costs a second forward pass and no memory.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from alertclip import distributed
from alertclip.checkpoint import random_states, set_random_states
from alertclip.clips import Batch
from alertclip.hyperparameters import TrainingParams
from alertclip.losses import Embeddings, Losses, total_loss


class StageObjective:
    """Embeddings and loss of a stage: ``regions`` adds the region and hard-negative losses."""

    def __init__(
        self,
        model: nn.Module,
        training: TrainingParams,
        precision: str,
        regions: bool,
        device: torch.device,
    ) -> None:
        self.model, self.regions, self.device = model, regions, device
        self.precision, self.negatives = precision, training.negatives
        weights = training.loss_global_weight, training.loss_region_weight
        self.weights = (*weights, training.loss_hard_weight) if regions else (1.0, 0.0, 0.0)

    def embed(self, batch: Batch) -> Embeddings:
        """Forward pass of one micro-batch, with bf16 matmuls if the stage's precision says so."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model(batch.to(self.device), regions=self.regions)

    def loss(self, parts: Sequence[Embeddings]) -> Losses:
        """Losses over the clips of all parts, and of all processes."""
        together = distributed.share(parts, self.device)
        return total_loss(together, self.model.logit_scale.exp(), self.weights)

    def backward(self, batches: Iterable[Batch], count: int) -> Losses:
        """Accumulate gradients of this process's part of an optimiser step; losses of the whole.

        ``count`` micro-batches; only accumulated negatives need all of them at once.
        """
        if self.negatives == "accumulated" and count > 1:
            return self._accumulated(list(batches))
        found = []
        for batch in batches:  # each contrasted by itself
            losses = self.loss([self.embed(batch)])
            (losses.total / count).backward()
            found.append([None if x is None else x.detach() for x in losses])
        columns = ([x for x in column if x is not None] for column in zip(*found, strict=True))
        return Losses(*(torch.stack(column).mean() if column else None for column in columns))

    def _accumulated(self, batches: Sequence[Batch]) -> Losses:
        """Gradient of the loss that contrasts the clips of all micro-batches.

        Equal to one large batch as far as clips do not interact inside the model; dropout masks
        are replayed between the two passes.
        """
        leaves, states = [], []
        with torch.no_grad():
            for batch in batches:
                states.append(random_states(self.device))
                leaves.append(self.embed(batch))
        leaves = [e.map(lambda t: t.requires_grad_(t.is_floating_point())) for e in leaves]
        losses = self.loss(leaves)
        losses.total.backward()  # fills the leaves' gradients, and that of the temperature
        after = random_states(self.device)
        for batch, state, leaf in zip(batches, states, leaves, strict=True):
            set_random_states(state, self.device)
            again = self.embed(batch).tensors()
            kept = {n: t.grad for n, t in leaf.tensors().items() if t.grad is not None}
            names = [name for name in kept if again[name].requires_grad]
            torch.autograd.backward([again[n] for n in names], [kept[n] for n in names])
        set_random_states(after, self.device)
        return Losses(*(None if x is None else x.detach() for x in losses))


@torch.no_grad()
def validate(batches: Iterable[Batch], objective: StageObjective) -> dict[str, float | None]:
    """Mean loss over batches, caption retrieval and signed gap over the whole split.

    Several processes each take some of the batches; all return the scores of the whole.
    """
    parts, losses, labels = [], [], []
    for batch in batches:
        e = objective.embed(batch)
        parts.append(Embeddings(e.v, e.t, e.captions))
        losses.append(float(total_loss(e, objective.model.logit_scale.exp(), objective.weights)[0]))
        labels += batch.labels.tolist()
    whole = distributed.share(parts, objective.device)
    similarity = (whole.v @ whole.t.T).float().cpu()
    losses, labels = (sum(distributed.gather(values), []) for values in (losses, labels))
    return {
        "validation_loss": float(torch.tensor(losses).mean()),
        "recall_at_1": recall_at_1(similarity, whole.captions),
        "signed_gap": signed_gap(similarity, torch.tensor(labels)),
    }


def recall_at_1(similarity: Tensor, captions: list[str]) -> float:
    """Share of clips whose nearest caption reads like their own; similarity (B, B)."""
    best = similarity.argmax(dim=1).tolist()
    return sum(captions[j] == captions[i] for i, j in enumerate(best)) / len(captions)


def signed_gap(similarity: Tensor, labels: Tensor) -> float | None:
    """Mean sign score with the split's own captions as prompt sets; similarity (B, B).

    S_A - S_N of abnormal clips and S_N - S_A of normal ones, averaged over clips, where S_A and S_N
    are mean similarities to the abnormal and the normal captions. None if a class is absent.
    """
    abnormal = labels.cpu().bool()
    if abnormal.all() or not abnormal.any():
        return None
    gap = similarity[:, abnormal].mean(dim=1) - similarity[:, ~abnormal].mean(dim=1)
    return float(torch.where(abnormal, gap, -gap).mean())
