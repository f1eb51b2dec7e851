"""The objective of a stage: gradients of an optimiser step, and validation metrics.

InfoNCE takes its negatives from the micro-batch (``micro``: 8 clips, Table 4 read literally), or
else from the whole optimiser step (``accumulated``: 128 clips). The latter is GradCache (Gao et al.
2021; open_clip's ``accum_freq``): embed every micro-batch without a graph, compute the loss and the
gradients of all embeddings, then embed each micro-batch again and backpropagate its gradients. That
costs a second forward pass but no memory.
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
        """Embed one micro-batch, under bf16 autocast if that is the stage's precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model(batch.to(self.device), regions=self.regions)

    def loss(self, parts: Sequence[Embeddings]) -> Losses:
        """Losses over the micro-batches of all processes; ``parts`` are this process's."""
        embeddings = distributed.share(parts, self.device)
        return total_loss(embeddings, self.model.logit_scale.exp(), self.weights)

    def backward(self, batches: Iterable[Batch], count: int) -> Losses:
        """Accumulate gradients over ``count`` micro-batches; return the losses of the whole step.

        Only accumulated negatives need all micro-batches at once.
        """
        if self.negatives == "accumulated" and count > 1:
            return self._accumulated(list(batches))
        rows = []
        for batch in batches:
            losses = self.loss([self.embed(batch)])
            (losses.total / count).backward()
            rows.append([None if x is None else x.detach() for x in losses])
        terms = ([x for x in column if x is not None] for column in zip(*rows, strict=True))
        return Losses(*(torch.stack(term).mean() if term else None for term in terms))

    def _accumulated(self, batches: Sequence[Batch]) -> Losses:
        """Accumulate the gradients of the loss over all micro-batches together; return the losses.

        Equals one large batch as long as clips do not interact inside the model. The second pass
        replays the dropout masks of the first.
        """
        leaves, states = [], []
        with torch.no_grad():
            for batch in batches:
                states.append(random_states(self.device))
                leaves.append(self.embed(batch))
        leaves = [e.map(lambda t: t.requires_grad_(t.is_floating_point())) for e in leaves]
        losses = self.loss(leaves)
        losses.total.backward()  # gradients of the leaves and of the temperature
        state_after = random_states(self.device)
        for batch, state, leaf in zip(batches, states, leaves, strict=True):
            set_random_states(state, self.device)
            outputs = self.embed(batch).tensors()
            gradients = {n: t.grad for n, t in leaf.tensors().items() if t.grad is not None}
            names = [name for name in gradients if outputs[name].requires_grad]
            torch.autograd.backward([outputs[n] for n in names], [gradients[n] for n in names])
        set_random_states(state_after, self.device)
        return Losses(*(None if x is None else x.detach() for x in losses))


@torch.no_grad()
def validate(batches: Iterable[Batch], objective: StageObjective) -> dict[str, float | None]:
    """Mean loss over batches; caption retrieval and signed gap over the whole split.

    With several processes each takes some of the batches, and all return the same result.
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
    """Share of clips whose nearest caption has the text of their own; similarity (B, B)."""
    best = similarity.argmax(dim=1).tolist()
    return sum(captions[j] == captions[i] for i, j in enumerate(best)) / len(captions)


def signed_gap(similarity: Tensor, labels: Tensor) -> float | None:
    """MeanSignScore with the split's own captions as prompt sets; similarity (B, B).

    S_A - S_N of abnormal clips and S_N - S_A of normal ones, averaged over clips, where S_A and S_N
    are mean similarities to the abnormal and the normal captions. None if a class is absent.
    """
    abnormal = labels.cpu().bool()
    if abnormal.all() or not abnormal.any():
        return None
    gap = similarity[:, abnormal].mean(dim=1) - similarity[:, ~abnormal].mean(dim=1)
    return float(torch.where(abnormal, gap, -gap).mean())
