"""LoRA on the split projections, with PEFT (Table 4: rank, alpha, dropout, "include k")."""

import re
from collections.abc import Sequence

from torch import nn

from alertclip.attention import SPLIT
from media.errors import InputError

# Layer names of the libraries. SigLIP's attention pooling is not adapted.
TOWERS = {
    "visual": r"visual\..+\.\d+\.(self_)?attn",
    "text": r"(text\.)?transformer\.resblocks\.\d+\.attn"
    r"|text\.encoder\.encoder\.layer\.\d+\.attention",  # BLIP
}
PROJECTIONS = {
    "q": r"q_proj|self\.query",
    "k": r"k_proj|self\.key",
    "v": r"v_proj|self\.value",
    "out": r"out_proj|output\.dense",
}
WORDS = r"(text\.)?token_embedding|text\.encoder\.embeddings\.word_embeddings"


def target_pattern(
    clip: nn.Module, targets: Sequence[str], towers: Sequence[str], blocks: int | None = None
) -> str:
    """Regular expression for the layers to adapt.

    Targets: the projections q, k, v, out, and "embedding", the text tower's token embedding; other
    names raise KeyError. Towers: "visual", "text". ``blocks``: only the last ``blocks`` ones.
    """
    names = [name for name, _ in clip.named_modules()]
    projections = "|".join(PROJECTIONS[target] for target in targets if target != "embedding")
    adapted = []
    for tower in towers:
        layers = [n for n in names if re.fullmatch(rf"({TOWERS[tower]})\.({projections})", n)]
        block = {name: int(re.search(r"\.(\d+)\.", name)[1]) for name in layers}
        last = max(block.values(), default=0)
        adapted += [name for name in layers if blocks is None or block[name] > last - blocks]
    if "embedding" in targets:
        if "text" not in towers:
            raise InputError("LoRA target embedding is in the text tower: add text to lora_towers")
        adapted += [name for name in names if re.fullmatch(WORDS, name)]
    return "|".join(map(re.escape, adapted))


def has_lora(clip: nn.Module) -> bool:
    """Whether the model has PEFT adapters."""
    return hasattr(clip, "peft_config")


def add_lora(
    clip: nn.Module,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str] = ("q", "k", "v"),
    towers: Sequence[str] = ("visual", "text"),
    blocks: int | None = None,
) -> nn.Module:
    """Freeze ``clip`` and add trainable adapters: output + alpha / rank * B A dropout(x).

    ``blocks``: only in the last ``blocks`` of each tower; None: in all. Raises InputError if
    attention is not split (PEFT is wrong on packed attention) or ``clip`` already has adapters.
    """
    if has_lora(clip) or any(type(m) in SPLIT for m in clip.modules()):
        raise InputError("LoRA needs split attention (split_attention) and no unmerged adapters")
    from peft import LoraConfig, get_peft_model  # slow to import, and only training needs it
    from peft.tuners.tuners_utils import BaseTunerLayer

    pattern = target_pattern(clip, targets, towers, blocks)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern)
    adapted = get_peft_model(clip, config)
    for layer in (m for m in adapted.modules() if isinstance(m, BaseTunerLayer)):
        # PEFT would cast bf16 inputs to fp32 and autocast back, which wastes a tenth of a step.
        layer.cast_input_dtype_enabled = False
    return adapted


def merge_lora(clip: nn.Module) -> nn.Module:
    """Fold the adapters into the weights and return the plain model."""
    return clip.merge_and_unload() if has_lora(clip) else clip


def parameter_groups(
    model: nn.Module, base_lr: float, text_lr: float, temporal_lr: float, weight_decay: float
) -> list[dict]:
    """AdamW groups of the trainable parameters: base (visual adapters), text, temporal head.

    Biases, norms and other vectors or scalars have no weight decay; the temperature is in base.
    """
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(("temporal", "pooling")):
            kind, rate = "temporal", temporal_lr
        elif "visual." in name or "logit_scale" in name:
            kind, rate = "base", base_lr
        else:
            kind, rate = "text", text_lr
        decays = parameter.ndim > 1
        label, decay = (kind, weight_decay) if decays else (f"{kind}_no_decay", 0.0)
        group = {"name": label, "params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay}
        groups.setdefault(label, group)["params"].append(parameter)
    return list(groups.values())
