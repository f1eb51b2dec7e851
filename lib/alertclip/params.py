"""Every knob of a run: typed, flat, and refused when misspelt.

A profile (``params/<profile>.yaml``) states only where it deviates from the defaults below,
which are the paper's values (supplementary Table 4) or, where it is silent, ours.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from alertclip.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "params"
PAPER_RESULTS = PROFILES / "paper_results.yaml"
BENCHMARKS = PROFILES / "benchmarks.yaml"
ABLATIONS = PROFILES / "ablations.yaml"
NOT_PROFILES = (
    "ablations",
    "benchmarks",
    "negative_prompts",
    "paper_results",
    "prompts",
)  # other files of the folder

Projection = Literal["q", "k", "v", "out", "embedding"]
Tower = Literal["visual", "text"]


class Params(BaseModel):
    """All parameters of a run. Paths are relative to the project root, annotations to data_root."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = "paper"
    seed: int = Field(42, ge=0)  # Table 4
    device: str = "auto"  # auto = cuda where present, else cpu
    workers: int = Field(2, ge=0)  # processes that decode or render
    notebooks_at_once: int = Field(1, ge=1)  # 1 with one GPU; more on a CPU, where they share cores

    # Data. world: "vagta" = the published files; "miniworld" = rendered here, synthetic.
    world: Literal["vagta", "miniworld"] = "vagta"
    data_root: str = "${ALERTCLIP_DATA}"
    annotations_train: str = "Final_ucf_fgclip_translated_qwen_train.json"
    annotations_test: str = "Final_ucf_fgclip_translated_qwen_test.json"
    annotations_dev: str = ""  # empty = a share of the training videos
    hard_negatives_train: str = "qwen_vl_train.json"
    hard_negatives_test: str = ""
    validation_fraction: float = Field(0.05, gt=0, lt=1)  # ours: the test set selects nothing
    strip_class_prefix: bool = False  # the caption prefix states the class
    world_train: int = Field(800, ge=2)
    world_dev: int = Field(160, ge=2)
    world_test: int = Field(400, ge=2)
    world_style: Literal["flat", "line"] = "flat"
    world_seed: int = Field(0, ge=0)

    # Model.
    backbone: str = "ViT-B-32-quickgelu"  # Table 4 text; B/16 is an overlay
    pretrained: str | None = "openai"
    num_frames: int = Field(256, ge=1)  # Table 4
    lora_targets: list[Projection] = ["q", "k", "v"]  # Table 4 "include k"
    lora_towers: list[Tower] = ["visual", "text"]
    lora_blocks: int | None = Field(None, ge=1)  # adapters in so many upper blocks; None: in all
    cache_prefix: bool = False  # keep the outputs of the frozen lower vision blocks on disk (CPU)
    region_pooling: Literal["mean", "temporal"] = "mean"  # supplementary C.2
    patch_tokens: Literal["plain", "value"] = "plain"
    temporal_head: Literal["transformer", "pooling", "mean"] = "transformer"  # what is trained
    temporal_layers: int = Field(2, ge=1)  # supplementary C.1
    temporal_heads: int = Field(8, ge=1)
    temporal_dropout: float = Field(0.1, ge=0, lt=1)
    compile: bool = False  # torch.compile of the vision tower's blocks in training
    checkpointing: str = "auto"  # none | all | k: every k-th block | auto: by a GPU's memory
    region_negatives: Literal["hard", "standard"] = "hard"  # standard = other regions' captions
    negatives: Literal["micro", "accumulated"] = "micro"  # micro = 8-way, as Table 4 reads
    evaluation_batch_size: int = Field(8, ge=1)
    evaluation_precision: Literal["fp32", "bf16"] = "fp32"  # of snippet features
    validate_steps: int = Field(50, ge=1)  # ours: optimiser steps between validations
    bootstrap_samples: int = Field(1000, ge=10)
    prompts: str = "params/prompts.yaml"

    # Stage I, Table 4, first column.
    stage1_batch_size: int = Field(8, ge=1)
    stage1_accumulation: int = Field(16, ge=1)
    stage1_base_lr: float = Field(5e-6, gt=0)
    stage1_text_lr: float = Field(2e-6, gt=0)
    stage1_temporal_lr: float = Field(5e-6, gt=0)  # Table 4 names none: the base rate
    stage1_weight_decay: float = Field(0.01, ge=0)
    stage1_warmup_ratio: float = Field(0.05, ge=0, lt=1)
    stage1_grad_norm: float = Field(1.0, gt=0)
    stage1_epochs: int = Field(100, ge=1)
    stage1_steps: int | None = None  # optimiser steps; overrides epochs
    stage1_precision: Literal["fp32", "bf16"] = "fp32"
    stage1_lora_rank: int = Field(4, ge=1)
    stage1_lora_alpha: float = Field(8, gt=0)
    stage1_lora_dropout: float = Field(0.05, ge=0, lt=1)
    stage1_save_steps: int = Field(50, ge=1)
    stage1_save_limit: int = Field(10, ge=1)

    # Stage II, Table 4, second column. The loss weights are unpublished ("weighted").
    stage2_batch_size: int = Field(8, ge=1)
    stage2_accumulation: int = Field(16, ge=1)
    stage2_base_lr: float = Field(4e-6, gt=0)
    stage2_text_lr: float = Field(1.5e-6, gt=0)
    stage2_temporal_lr: float = Field(4e-6, gt=0)
    stage2_weight_decay: float = Field(0.01, ge=0)
    stage2_warmup_ratio: float = Field(0.10, ge=0, lt=1)
    stage2_grad_norm: float = Field(1.0, gt=0)
    stage2_epochs: int = Field(20, ge=1)
    stage2_steps: int | None = None
    from_scratch: bool = False  # Stage II without Stage I: joint training
    stage2_precision: Literal["fp32", "bf16"] = "bf16"
    stage2_lora_rank: int = Field(16, ge=1)
    stage2_lora_alpha: float = Field(32, gt=0)
    stage2_lora_dropout: float = Field(0.05, ge=0, lt=1)
    stage2_save_steps: int = Field(100, ge=1)
    stage2_save_limit: int = Field(2, ge=1)
    loss_global_weight: float = Field(1.0, ge=0)
    loss_region_weight: float = Field(1.0, ge=0)
    loss_hard_weight: float = Field(1.0, ge=0)

    # Detectors on frozen features, and the benchmark they are trained and tested on.
    benchmark: str = "ucf_crime"  # a name of params/benchmarks.yaml
    transfer: dict[str, dict[str, Any]] = {}  # other domains: title -> changes to the profile
    open_vocabulary_changes: dict[str, Any] = {}  # for a benchmark without base and novel classes
    retention_imagenet: str = ""  # folder val/ with a folder per class
    retention_coco: str = ""  # folder with captions_val2017.json and val2017/
    detector_seeds: list[int] = Field([0, 1, 2], min_length=1)  # every table averages them
    detector_videos: int | None = None  # training videos, drawn by seed; None = all
    detector_subset: Literal["all", "annotated"] = "all"  # annotated = only VAGTA's videos
    snippet_length: int = Field(16, ge=1)  # frames per VadCLIP feature
    snippet_frames: int = Field(16, ge=1)  # of which embedded and averaged; unpublished
    snippet_crops: Literal[1, 5, 10] = 10  # VadCLIP; in training every crop is a sample
    snippet_test_crop: int = Field(5, ge=0)  # VadCLIP: 5 on UCF-Crime, 0 on XD-Violence
    frame_stride: int = Field(1, ge=1)  # frames per AnomalyCLIP feature
    detector_variant: Literal["official", "paper"] = "official"
    vadclip_preset: Literal["ucf", "xd"] = "ucf"
    vadclip_changes: dict[str, Any] = {}  # to the preset, by name of its settings
    anomalyclip_preset: Literal["ucf", "xd", "sht"] = "ucf"
    anomalyclip_changes: dict[str, Any] = {}

    # Questions and answers of notebook 10 (VA-GPT).
    qa_joined: int = Field(1, ge=1)  # test videos joined to one footage; 1 = the paper's
    qa_max_iou: float = Field(0.5, gt=0, lt=1)  # of a wrong interval with the true one; ours
    qa_learning_rate: float = Field(1e-3, gt=0)
    qa_batch_size: int = Field(32, ge=1)
    qa_hidden: int = Field(256, ge=1)  # ours: unpublished
    qa_epochs: int = Field(100, ge=1)  # ours: unpublished
    qa_token_share: float = Field(0.5, gt=0, le=1)
    qa_token_videos: int | None = None  # answered with selected tokens; None = all

    # Ablations of notebook 07: variants of params/ablations.yaml; the changes are those of every
    # variant that tunes CLIP.
    ablation_variants: list[str] = []  # empty = all
    ablation_seeds: list[int] = Field([0, 1, 2, 3, 4], min_length=1)
    ablation_changes: dict[str, Any] = {}
    ablation_backbone: Literal["clip", "stage1", "full"] = "clip"  # of the detectors' own variants
    ablation_detector: bool = True  # where marked, by VadCLIP too: features anew for each

    # Failures under controlled degradation (notebook 08).
    failure_clips: int | None = Field(None, ge=4)  # drawn by seed, half abnormal; None = all
    failure_levels: dict[str, list[float]] = {  # by kind, in the units of degradation.py
        "blur": [1, 2, 4, 8],
        "darkness": [2, 4, 6, 8],
        "noise": [10, 20, 40, 80],
        "compression": [40, 20, 10, 5],
        "resolution": [112, 56, 28, 14],
        "occlusion": [0.25, 0.5, 0.75, 1],
        "actor size": [0.7, 0.5, 0.35, 0.25],
    }
    failure_gallery: int = Field(4, ge=1)  # worst errors shown of either sort
    failure_videos: str = ""  # a folder of real clips to show; empty = the data root, if real
    failure_names: list[str] = ["Abuse011", "RoadAccidents018", "RoadAccidents022", "Arson016"]

    # Notebook 00.
    video: str = ""  # a file to score; empty = one of the run's test videos

    @model_validator(mode="after")
    def _check(self) -> "Params":
        if not self.lora_targets or not self.lora_towers:
            raise ValueError("lora_targets and lora_towers must not be empty")
        if self.checkpointing not in ("none", "all", "auto") and not self.checkpointing.isdigit():
            raise ValueError("checkpointing must be none, all, auto or a number of blocks")
        for changes in filter(
            None, (*self.transfer.values(), self.open_vocabulary_changes, self.ablation_changes)
        ):
            type(self).model_validate(changes)  # a misspelt name stops the run before any work
        return self

    @field_validator("backbone", "pretrained")
    @classmethod
    def _from_root(cls, value: str | None) -> str | None:
        """Files are named from the project root, wherever the notebook runs."""
        kind, _, name = (value or "").partition(":")
        if kind == "local-dir" or (kind == "blip" and (ROOT / name).is_dir()):
            return f"{kind}:{ROOT / name}"
        return str(ROOT / value) if value and (ROOT / value).is_file() else value

    @property
    def run_dir(self) -> Path:
        """Folder into which this profile's run writes."""
        return ROOT / "runs" / self.profile

    @property
    def cache_dir(self) -> Path:
        """Decoded frames and frozen tokens, named by content: every profile shares them."""
        return ROOT / "runs" / "cache"

    @property
    def data_dir(self) -> Path:
        """The data root with environment variables resolved; equal mini worlds share one."""
        if self.world == "miniworld":
            sizes = f"{self.world_train}-{self.world_dev}-{self.world_test}"
            return ROOT / "runs" / "worlds" / f"{self.world_style}-{sizes}-{self.world_seed}"
        expanded = os.path.expandvars(self.data_root)
        if "$" in expanded:
            raise InputError(
                f"data_root is {self.data_root} and that variable is not set: set it to the folder"
                " that holds UCF_Crimes_Videos/, MSAD/ and the VAGTA json files, or pass"
                " -p data_root=FOLDER"
            )
        return ROOT / expanded


def load_params(profile: str, overrides: dict[str, Any] | None = None) -> Params:
    """Read ``params/<profile>.yaml`` and overlays, apply ``overrides``, check every name and type.

    A profile may add overlays with ``+`` ("paper+paper-b16"): later ones win, and the whole name is
    the run's. Raises InputError naming the parameter, the file and the nearest name.
    """
    values: dict[str, Any] = {"profile": profile}
    for name in profile.split("+"):
        values |= _read_yaml(PROFILES / f"{name}.yaml")
    return _validate(values | (overrides or {}), f"params/{profile}.yaml or -p")


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["stage1_steps=20", "lora_targets=[q, v]"]`` -> names and values read as YAML."""
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            overrides[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"-p {pair}: the value is not valid YAML; quote it") from None
        if not equals:
            raise InputError(f"-p {pair}: write it as -p name=value")
    return overrides


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        known = sorted(p.stem for p in PROFILES.glob("*.yaml") if p.stem not in NOT_PROFILES)
        raise InputError(f"{path.name}: no such profile in params/; there are {', '.join(known)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path.name}: not valid YAML: {error}") from None
    _validate({"profile": path.stem} | values, f"params/{path.name}")
    return values


def _validate(values: dict[str, Any], source: str) -> Params:
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(_explain(e) for e in error.errors())) from None


def _explain(error: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "parameters"
    if error["type"] != "extra_forbidden":
        return f"{name}: {error['msg']} (got {error['input']!r})"
    near = difflib.get_close_matches(name, Params.model_fields, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name}: no such parameter{hint}"
