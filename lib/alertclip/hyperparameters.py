"""Hyper-parameters of the method in typed groups; the defaults are the paper's Table 4.

Profiles use flat names: ``stage1_base_lr`` is ``stage1.base_lr`` (group and field). Groups marked
``PLAIN`` use the field alone: ``num_frames`` is ``data.num_frames``.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Projection = Literal["q", "k", "v", "out", "embedding"]


class Group(BaseModel):
    """A group of typed parameters; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    PLAIN: ClassVar[tuple[str, ...] | bool] = ()  # fields named without the group


class DataParams(Group):
    """Annotations and clips."""

    PLAIN: ClassVar = True

    world: Literal["vagta", "miniworld"] = "vagta"
    data_root: str = "${ALERTCLIP_DATA}"
    annotations_train: str = "Final_ucf_fgclip_translated_qwen_train.json"
    annotations_test: str = "Final_ucf_fgclip_translated_qwen_test.json"
    annotations_dev: str = ""  # empty = a share of the training videos
    hard_negatives_train: str = "qwen_vl_train.json"
    hard_negatives_test: str = ""
    validation_fraction: float = Field(0.05, gt=0, lt=1)  # ours: no selection on the test set
    strip_class_prefix: bool = False  # drop the caption prefix that states the class
    num_frames: int = Field(256, ge=1)  # Table 4
    frame_spacing: Literal["index", "time"] = "index"  # papers' rule; differs at variable rate
    skip_lost_clips: bool = False  # resume training without clips that got lost
    region_negatives: Literal["hard", "standard"] = "hard"  # standard = other regions' captions


class ModelParams(Group):
    """Backbone, adapters, temporal head."""

    PLAIN: ClassVar = True

    backbone: str = "ViT-B-32-quickgelu"  # Table 4 text; B/16 is an overlay
    pretrained: str | None = "openai"
    lora_targets: list[Projection] = Field(["q", "k", "v"], min_length=1)  # Table 4 "include k"
    lora_towers: list[Literal["visual", "text"]] = Field(["visual", "text"], min_length=1)
    lora_blocks: int | None = Field(None, ge=1)  # adapters in the last n blocks; None: in all
    region_pooling: Literal["mean", "temporal"] = "mean"  # supplementary C.2
    patch_tokens: Literal["plain", "value"] = "plain"
    temporal_head: Literal["transformer", "pooling", "mean"] = "transformer"  # what is trained
    temporal_layers: int = Field(2, ge=1)  # supplementary C.1
    temporal_heads: int = Field(8, ge=1)
    temporal_dropout: float = Field(0.1, ge=0, lt=1)
    checkpointing: Literal["none", "all"] = "none"  # all: recompute blocks, less memory


class TrainingParams(Group):
    """Settings of both stages. The paper does not give the loss weights of Stage II."""

    PLAIN: ClassVar = True

    negatives: Literal["micro", "accumulated"] = "micro"  # micro = 8-way, as Table 4 reads
    validate_steps: int = Field(50, ge=1)  # ours: optimiser steps between validations
    from_scratch: bool = False  # joint training: Stage II alone, with the steps of both
    loss_global_weight: float = Field(1.0, ge=0)
    loss_region_weight: float = Field(1.0, ge=0)
    loss_hard_weight: float = Field(1.0, ge=0)


class StageParams(Group):
    """One column of Table 4; the defaults are Stage I's."""

    batch_size: int = Field(8, ge=1)
    accumulation: int = Field(16, ge=1)
    base_lr: float = Field(5e-6, gt=0)
    text_lr: float = Field(2e-6, gt=0)
    temporal_lr: float = Field(5e-6, gt=0)  # not in Table 4: the base rate
    weight_decay: float = Field(0.01, ge=0)
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    grad_norm: float = Field(1.0, gt=0)
    epochs: int = Field(100, ge=1)
    steps: int | None = Field(None, ge=1)  # optimiser steps; overrides epochs
    precision: Literal["fp32", "bf16"] = "fp32"
    lora_rank: int = Field(4, ge=1)
    lora_alpha: float = Field(8, gt=0)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    save_steps: int = Field(50, ge=1)
    save_limit: int = Field(10, ge=1)

    @property
    def items_per_step(self) -> int:
        """Clips that one optimiser step sees."""
        return self.batch_size * self.accumulation

    def total_steps(self, items: int) -> int:
        """Optimiser steps of the stage for ``items`` training clips (at least one)."""
        return self.steps or max(1, self.epochs * items // self.items_per_step)


STAGE2 = dict(  # where Table 4's second column differs
    base_lr=4e-6, text_lr=1.5e-6, temporal_lr=4e-6, warmup_ratio=0.10, epochs=20, precision="bf16",
    lora_rank=16, lora_alpha=32, save_steps=100, save_limit=2,
)  # fmt: skip
