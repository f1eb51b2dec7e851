"""How detectors are trained and tested on frozen features, and the settings of each.

Defaults are the official ones for UCF-Crime; presets hold what is published for other data sets.
"""

from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from alertclip.hyperparameters import Group
from media.errors import InputError, nearest

Detector = Literal["vadclip", "anomalyclip", "sultani", "rtfm"]
NAMES = "VadCLIP", "AnomalyCLIP", "Sultani et al.", "RTFM"
DETECTORS: dict[Detector, str] = dict(zip(get_args(Detector), NAMES, strict=True))
Resize = Literal["squash", "clip"]  # the whole frame, or CLIP's centre crop
Variant = Literal["official", "paper"]  # released code or text, where they differ
Term = Literal["direction_abnormal", "direction_normal", "abnormal_top", "abnormal_bottom",
               "normal_top", "sparsity", "smoothness"]  # fmt: skip
Extra = Literal["direction_bottom", "direction_normal_top"]


class DetectorParams(Group):
    """Benchmark, features and settings of the detectors."""

    PLAIN: ClassVar = (
        *("benchmark", "snippet_length", "snippet_frames", "snippet_crops", "snippet_test_crop"),
        *("snippet_resize", "frame_stride", "vadclip_preset", "vadclip_changes"),
        *("anomalyclip_preset", "anomalyclip_changes", "sultani_changes", "rtfm_changes"),
    )

    benchmark: str = "ucf_crime"  # a name of params/benchmarks.yaml
    seeds: list[int] = Field([0, 1, 2], min_length=1)  # tables average over them
    videos: int | None = None  # training videos, drawn by seed; None = all
    subset: Literal["all", "annotated"] = "all"  # annotated: VAGTA's videos alone
    snippet_length: int = Field(16, ge=1)  # frames per VadCLIP feature
    snippet_frames: int = Field(16, ge=1)  # of these, embedded and averaged; unpublished
    snippet_crops: Literal[1, 5, 10] = 10  # VadCLIP's; each is a training sample
    snippet_test_crop: int = Field(5, ge=0)  # VadCLIP's: 5 on UCF-Crime, 0 on XD-Violence
    snippet_resize: Resize = "squash"  # clip: CLIP's preprocessing, one crop
    frame_stride: int = Field(1, ge=1)  # frames per AnomalyCLIP feature
    variant: Variant = "official"
    vadclip_preset: Literal["ucf", "xd"] = "ucf"
    vadclip_changes: dict[str, Any] = {}  # overrides of the preset, by setting
    anomalyclip_preset: Literal["ucf", "xd", "sht"] = "ucf"
    anomalyclip_changes: dict[str, Any] = {}
    sultani_changes: dict[str, Any] = {}  # overrides of its published settings
    rtfm_changes: dict[str, Any] = {}


class VadCLIPSettings(Group):
    """VadCLIP's architecture and training: the paper's implementation details, official options.

    ``variant`` "paper" changes the graph (one shared W and the softmax of eq. 3, not four
    convolutions and exp(-d/e)), the visual prompt (eq. 6), the residual of eq. 7 (around t, not V +
    t) and L_cts (eq. 9). In both, windows do not overlap; the top K is per class over time.
    """

    learning_rate: float = Field(2e-5, gt=0)
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=1)  # videos per batch, both halves
    balanced: bool = True  # half of each batch is normal
    milestones: tuple[int, ...] = (4, 8)  # epochs after which the rate drops tenfold
    window: int = Field(8, ge=0)  # snippets; 0: no windows, the global transformer of Table 5
    layers: int = Field(2, ge=1)
    heads: int = Field(1, ge=1)
    length: int = Field(256, ge=1)  # snippets per forward pass
    prefix: int = Field(10, ge=0)  # learned tokens before the class name
    postfix: int = Field(10, ge=0)  # and after it; both 0: Table 6 without L-Prompt
    separation_weight: float = 1e-1  # lambda, eq. 10
    temperature: float = Field(0.07, gt=0)  # tau, eq. 8
    similarity_threshold: float = 0.7
    weight_decay: float = 0.01
    variant: Variant = "official"
    # Table 5: the LGT-Adapter, one of its parts, or a local and a global transformer
    adapter: Literal["full", "local", "graph", "transformers", "none"] = "full"
    focus: Literal["anomaly", "average", "none"] = "anomaly"  # visual prompt, Table 7
    binary_weight: float = 1.0  # Table 6: 0 trains the A-branch alone
    alignment_weight: float = 1.0  # Table 6: 0 trains the C-branch alone

    @model_validator(mode="after")
    def _check(self) -> "VadCLIPSettings":
        # The official code gives NaN otherwise: the last positions attend to nothing.
        if self.window and self.length % self.window:
            raise ValueError("window must divide length")
        if self.balanced and self.batch_size % 2:
            raise ValueError("batch_size must be even if balanced")
        return self


class AnomalyCLIPSettings(Group):
    """AnomalyCLIP's architecture and training: Appendices A and B, official configurations."""

    normal_id: int = Field(7, ge=0)  # index of the normal class; the authors sort by name
    learning_rate: float = Field(1e-5, gt=0)
    epochs: int = Field(50, ge=1)
    warmup_epochs: int = Field(5, ge=0)
    emb_size: int = Field(256, ge=1)
    depth: int = Field(1, ge=1)
    inputs: Literal["features", "logits", "both"] = "features"  # Temporal model, Table 15
    heads: int = Field(8, ge=1)
    segments: int = Field(32, ge=1)  # S
    segment_frames: int = Field(16, ge=1)  # F
    context_tokens: int = Field(8, ge=0)
    top_k: int = Field(3, ge=1)
    bottom_k: int = Field(3, ge=1)
    keep_probability: float = Field(0.3, gt=0, le=1)  # share of segments not masked in selection
    batch_size: int = Field(32, ge=1)  # videos per half of a batch, normal or abnormal
    weight_decay: float = 0.2
    sparsity_weight: float = 8e-3  # lambda_1
    smoothness_weight: float = 8e-4  # lambda_2
    variant: Variant = "official"
    left_out: tuple[Term, ...] = ()  # loss terms, Tables 12 and 13
    extra: tuple[Extra, ...] = ()  # further terms: eqs. 15 and 16, Table 14
    temporal: Literal["axial", "mlp", "short", "long", "mtn"] = "axial"  # Table 10
    tune_projection: bool = True  # of the text encoder, Table 7
    # Context per class, shared by all (Table 8), or learned points without text (Table 7).
    directions: Literal["class", "shared", "free"] = "class"
    template: str = Field("{}.", pattern=r"\{\}")  # words around a class name
    likelihood: Literal["projection", "cosine"] = "projection"  # S or CLIP's cosines, Table 9
    selection: Literal["likelihood", "magnitude"] = "likelihood"  # what ranks segments, Table 9

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
        """AdamW's betas: 0.98 in Appendix B, torch's default in the released code."""
        return (0.9, 0.98) if self.variant == "paper" else (0.9, 0.999)


class SultaniSettings(Group):
    """Training of Sultani's head; 20 epochs of 1000 batches are the official 20,000 steps."""

    learning_rate: float = Field(1e-2, gt=0)  # official code; 1e-3 in the text
    epochs: int = Field(20, ge=1)
    epoch_steps: int = Field(1000, ge=1)  # batches per epoch
    batch_size: int = Field(30, ge=1)  # bags per half of a batch, abnormal or normal
    segments: int = Field(32, ge=1)  # S
    dropout: float = Field(0.6, ge=0, lt=1)
    weight_decay: float = 6.7e-5  # official: .001 |W|^2 beside a loss 30 times ours
    sparsity_weight: float = 8e-5
    smoothness_weight: float = 8e-5


class RTFMSettings(SultaniSettings):
    """Training of RTFM; 15 epochs of 1000 batches are the official 15,000 steps."""

    learning_rate: float = Field(1e-3, gt=0)
    epochs: int = Field(15, ge=1)
    batch_size: int = Field(32, ge=1)
    dropout: float = Field(0.7, ge=0, lt=1)
    weight_decay: float = 5e-3
    sparsity_weight: float = 8e-3
    smoothness_weight: float = 8e-4
    top_k: int = Field(3, ge=1)  # segments selected by magnitude
    margin: float = 100.0  # m
    magnitude_weight: float = 1e-4  # alpha

    @model_validator(mode="after")
    def _check(self) -> "RTFMSettings":
        if self.top_k > self.segments:
            raise ValueError("top_k must be at most segments")
        return self


KINDS = VadCLIPSettings, AnomalyCLIPSettings, SultaniSettings, RTFMSettings
SETTINGS: dict[Detector, type[Group]] = dict(zip(DETECTORS, KINDS, strict=True))
VADCLIP_XD = {"learning_rate": 1e-5, "batch_size": 96, "balanced": False, "milestones": (3, 6, 10),
              "window": 64, "layers": 1, "separation_weight": 1e-4}  # fmt: skip
# The text gives no learning-rate schedule, hence a fixed rate, and no way to draw batches.
TEXT = {"batch_size": 64, "milestones": (), "layers": 1}
PRESETS: dict[tuple[str, ...], dict[str, Any]] = {
    ("vadclip", "xd", "official"): VADCLIP_XD,
    ("vadclip", "ucf", "paper"): {**TEXT, "learning_rate": 1e-5},
    ("vadclip", "xd", "paper"): VADCLIP_XD | {**TEXT, "learning_rate": 2e-5, "epochs": 20},
    ("anomalyclip", "xd"): {"normal_id": 4, "learning_rate": 5e-6, "emb_size": 128},
    ("anomalyclip", "sht"): {"normal_id": 8, "learning_rate": 5e-4, "epochs": 100,
                             "warmup_epochs": 10, "depth": 2, "inputs": "both"},
}  # fmt: skip


def detector_settings(name: Detector, detector: DetectorParams, **overrides: Any) -> Group:
    """Return a detector's published settings for its preset and variant, with its changes.

    ``overrides`` of the preset, such as the index of the normal class, give way to changes.
    InputError names a wrong change.
    """
    kind, what, changes = SETTINGS[name], f"{name}_changes", getattr(detector, f"{name}_changes")
    for unknown in changes.keys() - kind.model_fields.keys():
        raise InputError(f"{what}: no setting {unknown}{nearest(unknown, kind.model_fields)}")
    key = name, getattr(detector, f"{name}_preset", ""), detector.variant
    values = PRESETS.get(key) or PRESETS.get(key[:2], {})
    if "variant" in kind.model_fields:
        overrides["variant"] = detector.variant
    try:
        return kind.model_validate(values | overrides | changes)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()]
        raise InputError(f"{what}: {'; '.join(problems)}") from None
