"""From clips to a batch, its embeddings, and the stage's loss."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from alertclip.clips import Batch, collate
from alertclip.losses import total_loss
from alertclip.stage_settings import StageSettings


@dataclass(frozen=True)
class Texts:
    """What losses and scores need of a batch beside its embeddings; JSON values throughout."""

    global_captions: list[str]
    region_captions: list[str]
    labels: list[int]
    keys: list[str]

    @classmethod
    def of(cls, batch: Batch) -> "Texts":
        """The texts of a batch, without its frames."""
        labels = batch.labels.tolist()
        return cls(batch.global_captions, batch.region_captions, labels, batch.keys)


def collate_seen(samples: Sequence[dict[str, Any]]) -> Batch:
    """``collate`` without the regions of which no sampled frame shows anything."""
    batch = collate(samples)
    seen = batch.region_mask.any(dim=1)
    kept = seen.nonzero().flatten().tolist()
    return replace(
        batch,
        region_clip=batch.region_clip[seen],
        boxes=batch.boxes[seen],
        region_mask=batch.region_mask[seen],
        region_captions=[batch.region_captions[i] for i in kept],
        hard_negatives=[batch.hard_negatives[i] for i in kept],
    )


def embed(
    model: nn.Module, batch: Batch, *, regions: bool, device: torch.device, precision: str
) -> dict[str, Tensor]:
    """Forward pass of one batch: the tensors of the model's output, by name, in fp32."""
    regions = regions and len(batch.region_captions) > 0
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = model(batch.to(device), regions=regions)
    named = {f.name: getattr(output, f.name) for f in fields(output)}
    return {name: value.float() for name, value in named.items() if value is not None}


def objective(
    model: nn.Module,
    embeddings: dict[str, Tensor],
    texts: Sequence[Texts],
    *,
    settings: StageSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of embeddings and the texts they come with; its terms, detached for the log."""
    losses = total_loss(
        embeddings,
        model.logit_scale.exp(),
        [caption for part in texts for caption in part.global_captions],
        [caption for part in texts for caption in part.region_captions],
        (settings.loss_global_weight, settings.loss_region_weight, settings.loss_hard_weight),
    )
    terms = {"loss_global": losses.global_.detach()}
    if "v_r" in embeddings:
        terms |= {"loss_region": losses.region.detach(), "loss_hard": losses.hard.detach()}
    return losses.total, terms
