"""How detectors are trained and tested on frozen features."""

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
    sultani_changes: dict[str, Any] = {}  # to its published settings, lib/detectors/mil.py
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
