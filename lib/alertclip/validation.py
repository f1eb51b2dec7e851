"""Scores on the validation split: they follow training, and never touch the test set."""

from collections.abc import Iterable

import torch
from torch import Tensor

from alertclip.backward import Embed, Objective, concatenate
from alertclip.clips import Batch
from alertclip.distributed import share
from alertclip.objective import Texts


@torch.no_grad()
def validate(
    batches: Iterable[Batch], embed: Embed, objective: Objective, device: torch.device
) -> dict[str, float | None]:
    """Mean loss over batches, caption retrieval and signed gap over the whole split.

    Of several processes each takes some of the batches; all return the scores of the whole.
    """
    parts, texts = [], []
    for batch in batches:
        embeddings = embed(batch)
        texts.append(Texts.of(batch))
        loss = objective(embeddings, texts[-1:])[0]
        parts.append({"loss": loss[None], "v": embeddings["v"], "t": embeddings["t"]})
    whole, texts = share(concatenate(parts), texts, device)
    similarity = (whole["v"] @ whole["t"].T).float().cpu()
    labels = torch.tensor([label for part in texts for label in part.labels])
    return {
        "validation_loss": float(whole["loss"].mean()),
        "recall_at_1": recall_at_1(similarity, [c for part in texts for c in part.global_captions]),
        "signed_gap": signed_gap(similarity, labels),
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
