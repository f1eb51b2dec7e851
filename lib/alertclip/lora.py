"""LoRA on the split projections, by PEFT (Table 4: rank, alpha, dropout, "include k")."""

import re
from collections.abc import Sequence

from torch import nn

from alertclip.attention import SPLIT
from alertclip.errors import InputError

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
EMBEDDING = "embedding"
_BLOCK = re.compile(r"\.(\d+)\.")  # its number, the only one in a layer's name
WORDS = r"(text\.)?token_embedding|text\.encoder\.embeddings\.word_embeddings"


def target_pattern(targets: Sequence[str], towers: Sequence[str]) -> str:
    """Regular expression of the adapted layers, in the visual and/or text tower.

    Targets: the projections q, k, v, out, and "embedding", the text tower's token embedding.
    Raises InputError on any other name: PEFT would accept "attn" or "out_proj" and train nothing.
    """
    known = set(targets) <= {*PROJECTIONS, EMBEDDING} and set(towers) <= set(TOWERS)
    if not known or not targets or not towers:
        raise InputError(
            f"LoRA targets {list(targets)} in towers {list(towers)}: choose targets from"
            f" {[*PROJECTIONS, EMBEDDING]} and towers from {list(TOWERS)}"
        )
    if EMBEDDING in targets and "text" not in towers:
        raise InputError("LoRA target embedding: it is in the text tower; add text to lora_towers")
    attention = "|".join(TOWERS[tower] for tower in towers)
    projections = "|".join(PROJECTIONS[target] for target in targets if target != EMBEDDING)
    pattern = rf"({attention})\.({projections})"
    return f"{pattern}|{WORDS}" if EMBEDDING in targets else pattern


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

    pattern = target_pattern(targets, towers)
    if blocks is not None:
        pattern = _in_upper_blocks(clip, pattern, blocks)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern)
    adapted = get_peft_model(clip, config)
    for layer in (m for m in adapted.modules() if isinstance(m, BaseTunerLayer)):
        # PEFT would copy bf16 inputs to fp32, and autocast back: a tenth of a step for nothing.
        layer.cast_input_dtype_enabled = False
    return adapted


def _in_upper_blocks(clip: nn.Module, pattern: str, blocks: int) -> str:
    """The pattern of the layers in the last blocks of each tower; the word embedding stays."""
    names = [name for name, _ in clip.named_modules() if re.fullmatch(pattern, name)]
    place = {n: (n.startswith("visual"), int(b[1])) for n in names if (b := _BLOCK.search(n))}
    depth = {tower: max(b for t, b in place.values() if t == tower) for tower, _ in place.values()}
    kept = (n for n in names if n not in place or place[n][1] > depth[place[n][0]] - blocks)
    return "|".join(map(re.escape, kept))


def merge_lora(clip: nn.Module) -> nn.Module:
    """Fold the adapters into the weights and return the plain model."""
    return clip.merge_and_unload() if has_lora(clip) else clip


def parameter_groups(
    model: nn.Module, base_lr: float, text_lr: float, temporal_lr: float, weight_decay: float
) -> list[dict]:
    """AdamW groups of the trainable parameters: base (visual adapters), text, temporal head.

    Biases, norms and other vectors or scalars have no weight decay.
    """
    rates = {"base": base_lr, "text": text_lr, "temporal": temporal_lr}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_kind(name), parameter.ndim > 1), []).append(parameter)
    found = []
    for (kind, decays), members in groups.items():
        group = {"name": kind if decays else f"{kind}_no_decay", "params": members}
        rate = {"lr": rates[kind], "initial_lr": rates[kind]}
        found.append(group | rate | {"weight_decay": weight_decay if decays else 0.0})
    return found


def _kind(name: str) -> str:
    if name.startswith(("temporal", "pooling")):
        return "temporal"
    return "base" if "visual." in name or "logit_scale" in name else "text"
