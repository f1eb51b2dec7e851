"""Settings of AnomalyCLIP: the paper's Appendix A and the official configurations."""

from typing import Literal

from pydantic import Field, model_validator

from alertclip.hyperparameters import Group
from detectors.training_protocol import DetectorParams, Variant, changed_settings

Term = Literal[
    "direction_abnormal", "direction_normal", "abnormal_top", "abnormal_bottom", "normal_top",
    "sparsity", "smoothness",
]  # fmt: skip


class AnomalyCLIPSettings(Group):
    """Architecture and training of one model. The defaults are those of UCF-Crime."""

    normal_id: int = Field(7, ge=0)  # place of the normal class; the authors sort by name
    learning_rate: float = Field(1e-5, gt=0)
    epochs: int = Field(50, ge=1)
    warmup_epochs: int = Field(5, ge=0)
    emb_size: int = Field(256, ge=1)
    depth: int = Field(1, ge=1)
    concat_logits: bool = False
    heads: int = Field(8, ge=1)
    segments: int = Field(32, ge=1)  # S
    segment_frames: int = Field(16, ge=1)  # F
    context_tokens: int = Field(8, ge=0)
    top_k: int = Field(3, ge=1)
    bottom_k: int = Field(3, ge=1)
    keep_probability: float = Field(0.3, gt=0, le=1)  # share of segments open to selection
    batch_size: int = Field(32, ge=1)  # videos of each half of a batch, normal and abnormal
    weight_decay: float = 0.2
    sparsity_weight: float = 8e-3  # lambda_1
    smoothness_weight: float = 8e-4  # lambda_2
    variant: Variant = "official"
    left_out: tuple[Term, ...] = ()  # loss terms, Tables 12 and 13
    axes: Literal["both", "short", "long"] = "both"  # Table 10: attention in and across segments
    tune_projection: bool = True  # Table 7: of the text encoder

    @model_validator(mode="after")
    def _check(self) -> "AnomalyCLIPSettings":
        if self.emb_size % self.heads:
            raise ValueError("heads must divide emb_size")
        if max(self.top_k, self.bottom_k) > self.segments:
            raise ValueError("top_k and bottom_k must be at most segments")
        if self.warmup_epochs >= self.epochs:
            raise ValueError("warmup_epochs must be less than epochs")
        return self

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


def anomalyclip_settings(
    detector: DetectorParams, normal_id: int | None = None
) -> AnomalyCLIPSettings:
    """The preset of ``detector`` with its changes; InputError names a wrong setting.

    ``normal_id`` is the place of the normal class, where it is not the preset's.
    """
    own = {} if normal_id is None else {"normal_id": normal_id}
    changes = {**own, "variant": detector.variant} | detector.anomalyclip_changes
    return changed_settings(PRESETS[detector.anomalyclip_preset], changes, "anomalyclip_changes")
