"""How detectors are trained and tested on frozen features; settings of the heads without text."""

from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError

from alertclip.errors import InputError, nearest
from alertclip.hyperparameters import Group

Detector = Literal["vadclip", "anomalyclip", "sultani", "rtfm"]
DETECTORS: dict[Detector, str] = {
    **{"vadclip": "VadCLIP", "anomalyclip": "AnomalyCLIP"},
    **{"sultani": "Sultani et al.", "rtfm": "RTFM"},
}
Variant = Literal["official", "paper"]  # where the released code and the text differ
Settings = TypeVar("Settings", bound=Group)


class DetectorParams(Group):
    """Benchmark, features and settings of the detectors."""

    PLAIN: ClassVar = (
        *("benchmark", "snippet_length", "snippet_frames", "snippet_crops", "snippet_test_crop"),
        *("frame_stride", "vadclip_preset", "vadclip_changes"),
        *("anomalyclip_preset", "anomalyclip_changes", "sultani_changes", "rtfm_changes"),
    )

    benchmark: str = "ucf_crime"  # a name of params/benchmarks.yaml
    seeds: list[int] = Field([0, 1, 2], min_length=1)  # every table averages them
    videos: int | None = None  # training videos, drawn by seed; None = all
    subset: Literal["all", "annotated"] = "all"  # annotated = only VAGTA's videos
    snippet_length: int = Field(16, ge=1)  # frames per VadCLIP feature
    snippet_frames: int = Field(16, ge=1)  # of which embedded and averaged; unpublished
    snippet_crops: Literal[1, 5, 10] = 10  # VadCLIP; in training every crop is a sample
    snippet_test_crop: int = Field(5, ge=0)  # VadCLIP: 5 on UCF-Crime, 0 on XD-Violence
    frame_stride: int = Field(1, ge=1)  # frames per AnomalyCLIP feature
    variant: Variant = "official"
    vadclip_preset: Literal["ucf", "xd"] = "ucf"
    vadclip_changes: dict[str, Any] = {}  # to the preset, by name of its settings
    anomalyclip_preset: Literal["ucf", "xd", "sht"] = "ucf"
    anomalyclip_changes: dict[str, Any] = {}
    sultani_changes: dict[str, Any] = {}  # to its published settings, below
    rtfm_changes: dict[str, Any] = {}


def changed_settings(settings: Settings, changes: dict[str, Any], what: str) -> Settings:
    """``settings`` with ``changes``, checked; ``what`` names their source in an InputError."""
    for name in changes.keys() - type(settings).model_fields.keys():
        raise InputError(f"{what}: no setting {name}{nearest(name, type(settings).model_fields)}")
    try:
        return type(settings).model_validate(settings.model_dump() | changes)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()]
        raise InputError(f"{what}: {'; '.join(found)}") from None


class SultaniSettings(Group):
    """Training of the ranking head; 20 epochs of 1000 batches are the official 20,000 steps."""

    learning_rate: float = Field(1e-2, gt=0)  # official code; 1e-3 in the text
    epochs: int = Field(20, ge=1)
    epoch_steps: int = Field(1000, ge=1)  # batches of one epoch
    batch_size: int = Field(30, ge=1)  # bags of each half, abnormal and normal
    segments: int = Field(32, ge=1)  # S
    dropout: float = Field(0.6, ge=0, lt=1)
    weight_decay: float = 6.7e-5  # official .001 |W|^2 of a loss that is 30 times ours
    sparsity_weight: float = 8e-5
    smoothness_weight: float = 8e-5


class RTFMSettings(SultaniSettings):
    """Training of RTFM; 15 epochs of 1000 batches are the official 15,000 steps.

    ``variant`` "paper" has the hinge of the text in place of the released code's magnitude loss.
    """

    learning_rate: float = Field(1e-3, gt=0)
    epochs: int = Field(15, ge=1)
    batch_size: int = Field(32, ge=1)
    dropout: float = Field(0.7, ge=0, lt=1)
    weight_decay: float = 5e-3
    sparsity_weight: float = 8e-3
    smoothness_weight: float = 8e-4
    top_k: int = Field(3, ge=1)  # segments of largest magnitude; must be at most segments
    margin: float = 100.0  # m
    magnitude_weight: float = 1e-4  # alpha
    variant: Variant = "official"


def sultani_settings(detector: DetectorParams) -> SultaniSettings:
    """The published settings with the changes of ``detector``; InputError names a wrong one."""
    return changed_settings(SultaniSettings(), detector.sultani_changes, "sultani_changes")


def rtfm_settings(detector: DetectorParams) -> RTFMSettings:
    """The same for RTFM, in the detector's variant."""
    changes = {"variant": detector.variant} | detector.rtfm_changes
    settings = changed_settings(RTFMSettings(), changes, "rtfm_changes")
    if settings.top_k > settings.segments:
        raise InputError("rtfm_changes: top_k must be at most segments")
    return settings
