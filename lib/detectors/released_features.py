"""Released features in place of videos: found by name, and checked before they are used.

VadCLIP's authors release ``<name>__<crop>.npy``, a row per 16 frames; AnomalyCLIP's layout is
``<name>.npy``, a row per frame. Both may lie below one folder, in any subfolders.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from alertclip.model import AlertCLIP
from detectors.event_annotations import VideoTruth
from detectors.features import read_features
from media.errors import InputError

SAMPLE = 24  # files that a check reads, evenly spaced
# Of eleven real files of OpenAI's ViT-B/16, the mean cosine with class prompts is .20 to .25. In a
# space of D dimensions that is not theirs it is 0 with a deviation of 1 / sqrt(D), .04 for 512.
LEAST_COSINE = 0.1
WIDTHS = {512: "ViT-B/16 or ViT-B/32", 640: "RN101 or RN50x4", 768: "ViT-L/14",
          1024: "RN50, ViT-H/14 or I3D", 2048: "I3D or ResNet-50"}  # fmt: skip
PEAK = 442  # holds .5 to .7 of the mean direction in those files, whatever the video
B16 = "OpenAI's ViT-B/16, as VadCLIP's and AnomalyCLIP's are: backbone=ViT-B-16-quickgelu"


class FeatureSummary(NamedTuple):
    """A sample of files: the first, mean length of a row per file, mean unit row (D,)."""

    first: Path
    norms: np.ndarray
    direction: np.ndarray


def feature_index(folder: Path) -> dict[str, Path]:
    """Every .npy file below ``folder`` by its stem; InputError if none, or two share a name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.npy")):
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem]} share a name; keep one")
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder}: no feature files (.npy) below it; check the path of features")
    return found


def summarise(files: Sequence[Path]) -> FeatureSummary:
    """Read up to ``SAMPLE`` of the files; InputError names one of another width or without rows."""
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, SAMPLE).astype(int))]
    norms, means = [], []
    for path in chosen:
        length = np.linalg.norm(features := read_features(path), axis=1, keepdims=True)
        if not length.all():
            raise InputError(f"{path}: row {length.argmin()} is zero; extract it again")
        means.append((features / length).mean(axis=0))
        norms.append(length.mean())
        if (width := features.shape[1]) != len(means[0]):
            raise InputError(f"{path}: width {width}, but {chosen[0]} has {len(means[0])}")
    return FeatureSummary(chosen[0], np.array(norms), np.mean(means, axis=0))


@torch.inference_mode()
def anchors(model: AlertCLIP, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Unit vectors (n, D) that tell a model's space: of class prompts, a grey and a noisy image."""
    own = torch.Generator().manual_seed(0)  # a check must not seed what follows
    noise = torch.randint(0, 256, (3, *model.image_size), generator=own)
    images = torch.stack([torch.full_like(noise, 128), noise]).to(torch.uint8)
    v = normalize(model.image_features(images.to(model.mean.device)).float(), dim=-1)
    found = {"class prompts": model.encode_text(list(prompts)).float(), "blank images": v}
    return {name: vectors.cpu().numpy() for name, vectors in found.items()}


def likely_model(summary: FeatureSummary) -> str:
    """What made features of this width and direction, as far as these tell."""
    b16 = len(summary.direction) == 512 and np.abs(summary.direction).argmax() == PEAK
    return B16 if b16 else WIDTHS.get(len(summary.direction), "a model that is not known here")


def check_space(
    summary: FeatureSummary, known: Mapping[str, np.ndarray], backbone: str
) -> dict[str, float]:
    """Mean cosine of a feature with each kind of anchor.

    Raises InputError, naming what made them, if features are not ``backbone``'s, or mixed.
    """
    width, own = next(iter(known.values())).shape[1], len(summary.direction)
    where = f"{summary.first}: features of"
    instead = f"likely of {likely_model(summary)}; set backbone and pretrained to that model"
    if own != width:
        raise InputError(f"{where} width {own}, but {backbone} makes {width}; they are {instead}")
    found = {name: float((v @ summary.direction).mean()) for name, v in known.items()}
    if max(found.values()) < LEAST_COSINE:
        listed = ", ".join(f"{value:.2f} with {name}" for name, value in found.items())
        least = f"their mean cosine is {listed}, where {LEAST_COSINE} is the least"
        raise InputError(f"{where} another model than {backbone}: {least}; they are {instead}")
    unit = np.isclose(summary.norms, 1, atol=0.02)
    if unit.any() and not unit.all():
        count = f"{unit.sum()} of {len(unit)} sampled files hold unit rows"
        raise InputError(f"{where} two kinds: {count} and the others do not; bring all to one form")
    return found


def check_rate(
    rows: Mapping[str, int], truths: Sequence[VideoTruth], length: int, where: Path
) -> None:
    """Raise InputError if events and features, ``rows`` of ``length`` frames, have two clocks."""
    ends = [t.spans[-1][1] / (length * rows[t.name]) for t in truths if t.spans and t.name in rows]
    share = float(np.median(ends)) if ends else 0.5
    if not 0.07 <= share <= 1.1:
        raise InputError(
            f"{where}: at {length} frames per feature, the last event ends at {share:.2f} of a"
            " video (median; .07 to 1.1 is plausible): set snippet_length (NAME__CROP.npy) or"
            " frame_stride (NAME.npy) to the features' rate"
        )
