"""Scores on the validation split: they follow training, and never touch the test set."""

from collections.abc import Iterable

import torch
from torch import Tensor

from alertclip.data.clips import Batch
from alertclip.training.backward import Embed, Objective


@torch.no_grad()
def validate(
    batches: Iterable[Batch], embed: Embed, objective: Objective
) -> dict[str, float | None]:
    """Mean loss over batches, caption retrieval and signed gap over the whole split."""
    losses, v, t, captions, labels = [], [], [], [], []
    for batch in batches:
        embeddings = embed(batch)
        losses.append(objective(embeddings, [batch])[0])
        v.append(embeddings["v"])
        t.append(embeddings["t"])
        captions += batch.global_captions
        labels.append(batch.labels)
    similarity = (torch.cat(v) @ torch.cat(t).T).float().cpu()
    return {
        "validation_loss": float(torch.stack(losses).mean()),
        "recall_at_1": recall_at_1(similarity, captions),
        "signed_gap": signed_gap(similarity, torch.cat(labels)),
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
