"""LoRA on the split projections, by PEFT (Table 4: rank, alpha, dropout, "include k")."""

from collections.abc import Sequence

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from alertclip.errors import InputError
from alertclip.model.attention import SplitAttention

PROJECTIONS = ("q", "k", "v", "out")
EMBEDDING = "embedding"
TOWERS = {"visual": r"visual\.transformer", "text": r"transformer"}


def target_pattern(targets: Sequence[str], towers: Sequence[str]) -> str:
    """Regular expression of the adapted layers, in the visual and/or text tower.

    They are the projections q, k, v or out, and "embedding": the token embedding of the text tower.
    Raises InputError on any other name: PEFT would accept "attn" or "out_proj" and train nothing.
    """
    unknown = [*set(targets) - {*PROJECTIONS, EMBEDDING}, *set(towers) - set(TOWERS)]
    if unknown or not targets or not towers:
        raise InputError(
            f"LoRA targets {list(targets)} in towers {list(towers)}: choose targets from"
            f" {[*PROJECTIONS, EMBEDDING]} and towers from {list(TOWERS)}"
        )
    if EMBEDDING in targets and "text" not in towers:
        raise InputError("LoRA target embedding: it is in the text tower; add text to lora_towers")
    prefix = "|".join(TOWERS[tower] for tower in towers)
    projections = "|".join(target for target in targets if target != EMBEDDING)
    pattern = rf"({prefix})\.resblocks\.\d+\.attn\.({projections})_proj"
    return rf"{pattern}|token_embedding" if EMBEDDING in targets else pattern


def add_lora(
    clip: nn.Module,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str] = ("q", "k", "v"),
    towers: Sequence[str] = ("visual", "text"),
) -> PeftModel:
    """Freeze ``clip`` and add trainable adapters: output + alpha / rank * B A dropout(x).

    Raises InputError on a model that is not split, or that has adapters not merged yet.
    """
    if isinstance(clip, PeftModel):
        raise InputError("the model has adapters already: merge them first (merge_lora)")
    if any(isinstance(m, nn.MultiheadAttention) for m in clip.modules()) or not any(
        isinstance(m, SplitAttention) for m in clip.modules()
    ):
        raise InputError("LoRA needs split attention (split_attention): PEFT is wrong on packed")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_pattern(targets, towers),
    )
    return get_peft_model(clip, config)


def merge_lora(clip: nn.Module) -> nn.Module:
    """Fold the adapters into the weights and return the plain model; no adapters: unchanged."""
    return clip.merge_and_unload() if isinstance(clip, PeftModel) else clip


def parameter_groups(
    model: nn.Module, base_lr: float, text_lr: float, temporal_lr: float, weight_decay: float
) -> list[dict]:
    """AdamW groups of the trainable parameters: base (visual adapters), text, temporal.

    Biases, norms and other vectors or scalars do not decay.
    """
    rates = {"base": base_lr, "text": text_lr, "temporal": temporal_lr}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_kind(name), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "name": kind if decays else f"{kind}_no_decay",
            "params": parameters,
            "lr": rates[kind],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (kind, decays), parameters in groups.items()
    ]


def _kind(name: str) -> str:
    if name.startswith("temporal") or name.startswith("pooling"):
        return "temporal"
    return "base" if "visual." in name or "logit_scale" in name else "text"
