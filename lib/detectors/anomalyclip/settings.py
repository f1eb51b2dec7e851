"""Hyper-parameters of AnomalyCLIP: the paper's Appendix A and the official configurations."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from alertclip.errors import InputError

Variant = Literal["official", "paper"]
"""Where the released code and the text differ: do as the one or as the other."""


@dataclass(frozen=True)
class AnomalyCLIPSettings:
    """Architecture and training of one model. The defaults are those of UCF-Crime.

    ``normal_id`` is the place of the normal class among the class names, which the authors sort
    alphabetically; ``batch_size`` counts the videos of each half, normal and abnormal, of a batch;
    ``keep_probability`` is the share of segments open to selection; the four rates are one.
    """

    normal_id: int = 7
    learning_rate: float = 1e-5
    epochs: int = 50
    warmup_epochs: int = 5
    emb_size: int = 256
    depth: int = 1
    concat_logits: bool = False
    heads: int = 8
    segments: int = 32  # S
    segment_frames: int = 16  # F
    context_tokens: int = 8
    top_k: int = 3
    bottom_k: int = 3
    keep_probability: float = 0.3
    batch_size: int = 32
    weight_decay: float = 0.2
    sparsity_weight: float = 8e-3  # lambda_1
    smoothness_weight: float = 8e-4  # lambda_2
    variant: Variant = "official"
    left_out: tuple[str, ...] = ()  # loss terms, Tables 12 and 13
    axes: Literal["both", "short", "long"] = "both"  # Table 10: attention in and across segments
    tune_projection: bool = True  # Table 7: of the text encoder

    def __post_init__(self) -> None:
        terms = ("direction_abnormal", "direction_normal", "abnormal_top", "abnormal_bottom",
                 "normal_top", "sparsity", "smoothness")  # fmt: skip
        checks = {
            f"left_out must name terms of {', '.join(terms)}": set(self.left_out) <= set(terms),
            "axes must be both, short or long": self.axes in ("both", "short", "long"),
            "variant must be official or paper": self.variant in ("official", "paper"),
            "normal_id must not be negative": self.normal_id >= 0,
            "heads must divide emb_size": self.emb_size % self.heads == 0,
            "top_k and bottom_k must be 1 to segments": (
                min(self.top_k, self.bottom_k) >= 1
                and max(self.top_k, self.bottom_k) <= self.segments
            ),
            "keep_probability must be in (0, 1]": 0 < self.keep_probability <= 1,
            "warmup_epochs must be less than epochs": 0 <= self.warmup_epochs < self.epochs,
            "batch_size must be positive": self.batch_size > 0,
        }
        broken = [rule for rule, kept in checks.items() if not kept]
        if broken:
            raise InputError(f"AnomalyCLIP settings: {'; '.join(broken)}")

    @property
    def window(self) -> int:
        """Frames of one forward pass, S * F."""
        return self.segments * self.segment_frames

    @property
    def betas(self) -> tuple[float, float]:
        """AdamW's betas: Appendix A names 0.98, the released code leaves torch's default."""
        return (0.9, 0.98) if self.variant == "paper" else (0.9, 0.999)


PRESETS = {
    "ucf": AnomalyCLIPSettings(),
    "xd": AnomalyCLIPSettings(normal_id=4, learning_rate=5e-6, emb_size=128),
    "sht": AnomalyCLIPSettings(
        normal_id=8, learning_rate=5e-4, epochs=100, warmup_epochs=10, depth=2, concat_logits=True
    ),
}


def preset(name: str, **changes: Any) -> AnomalyCLIPSettings:
    """The published settings of ucf, xd (XD-Violence) or sht (ShanghaiTech), with changes."""
    if name not in PRESETS:
        raise InputError(f"AnomalyCLIP preset {name}: choose one of {', '.join(PRESETS)}")
    unknown = changes.keys() - {field.name for field in fields(AnomalyCLIPSettings)}
    if unknown:
        raise InputError(f"AnomalyCLIP has no setting {', '.join(sorted(unknown))}")
    return replace(PRESETS[name], **changes)
