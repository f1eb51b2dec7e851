"""LoRA on the split projections, by PEFT (Table 4: rank, alpha, dropout, "include k")."""

import re
from collections.abc import Sequence

from torch import nn

from alertclip.attention import SPLIT
from media.errors import InputError

# Names by which the libraries know each layer; SigLIP's attention pooling is not adapted.
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
    """Regular expression of the adapted layers, in the visual and/or text tower.

    Targets: the projections q, k, v, out, and "embedding", the text tower's token embedding; any
    other name is a KeyError. ``blocks``: only in so many upper blocks of each tower.
    """
    names = [name for name, _ in clip.named_modules()]
    projections = "|".join(PROJECTIONS[target] for target in targets if target != "embedding")
    found = []
    for tower in towers:
        own = [n for n in names if re.fullmatch(rf"({TOWERS[tower]})\.({projections})", n)]
        number = {name: int(re.search(r"\.(\d+)\.", name)[1]) for name in own}
        last = max(number.values(), default=0)
        found += [name for name in own if blocks is None or number[name] > last - blocks]
    if "embedding" in targets:
        if "text" not in towers:
            raise InputError(
                "LoRA target embedding: it is in the text tower; add text to lora_towers"
            )
        found += [name for name in names if re.fullmatch(WORDS, name)]
    return "|".join(map(re.escape, found))


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

    ``blocks``: only in so many upper blocks of each tower; None: in all. Raises InputError on a
    model whose attention is not split (PEFT is wrong on packed), or that has adapters already.
    """
    if has_lora(clip) or any(type(m) in SPLIT for m in clip.modules()):
        raise InputError("LoRA needs split attention (split_attention), and merged adapters")
    from peft import LoraConfig, get_peft_model  # slow to import, and only training needs it
    from peft.tuners.tuners_utils import BaseTunerLayer

    pattern = target_pattern(clip, targets, towers, blocks)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern)
    adapted = get_peft_model(clip, config)
    for layer in (m for m in adapted.modules() if isinstance(m, BaseTunerLayer)):
        # PEFT would copy bf16 inputs to fp32, and autocast back: a tenth of a step for nothing.
        layer.cast_input_dtype_enabled = False
    return adapted


def merge_lora(clip: nn.Module) -> nn.Module:
    """Fold the adapters into the weights and return the plain model."""
    return clip.merge_and_unload() if has_lora(clip) else clip


def parameter_groups(
    model: nn.Module, base_lr: float, text_lr: float, temporal_lr: float, weight_decay: float
) -> list[dict]:
    """AdamW groups of the trainable parameters: base (visual adapters), text, temporal head.

    Biases, norms and other vectors or scalars have no weight decay.
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
