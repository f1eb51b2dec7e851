"""What one training stage needs to know: a column of supplementary Table 4."""

from dataclasses import asdict, dataclass
from typing import Any

from alertclip.errors import InputError
from companion.profiles import Params


@dataclass(frozen=True)
class StageSettings:
    """Hyper-parameters of one stage. Rates are per optimiser step, lengths in optimiser steps."""

    batch_size: int
    accumulation: int
    base_lr: float
    text_lr: float
    temporal_lr: float
    weight_decay: float
    warmup_ratio: float
    grad_norm: float
    epochs: int
    precision: str
    save_steps: int
    save_limit: int
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    steps: int | None = None
    negatives: str = "micro"
    loss_global_weight: float = 1.0
    loss_region_weight: float = 0.0
    loss_hard_weight: float = 0.0
    validate_steps: int = 50

    @property
    def items_per_step(self) -> int:
        """Clips that one optimiser step sees."""
        return self.batch_size * self.accumulation

    def total_steps(self, items: int) -> int:
        """Optimiser steps of the stage for ``items`` training clips (at least one)."""
        if self.steps is not None:
            return self.steps
        return max(1, self.epochs * items // self.items_per_step)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for logs and hashes."""
        return asdict(self)


def stage_settings(params: Params, stage: int) -> StageSettings:
    """Column ``stage`` (1 or 2) of Table 4: Stage I trains on the global loss alone."""
    if stage not in (1, 2):
        raise InputError(f"stage {stage}: there are stages 1 (global) and 2 (global and region)")
    prefix = f"stage{stage}_"
    column = {
        name.removeprefix(prefix): value
        for name, value in params.flat().items()
        if name.startswith(prefix)
    }
    weights = {"loss_global_weight": 1.0}
    if stage == 2:
        names = ("loss_global_weight", "loss_region_weight", "loss_hard_weight")
        weights = {name: getattr(params.training, name) for name in names}
    return StageSettings(
        **column,
        **weights,
        negatives=params.training.negatives,
        validate_steps=params.training.validate_steps,
    )
