"""What tuning forgets: zero-shot classification and retrieval before and after it.

The paper reports no such test. The mini world has its held-out synthetic stills; on real data give
``retention_imagenet``, ImageNet's validation folder (val/<synset>/*.JPEG), and ``retention_coco``,
a folder with captions_val2017.json and val2017/.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.datasets import ImageFolder

from alertclip.errors import InputError
from alertclip.files import progress, read_json
from alertclip.intervals import bootstrap_interval
from alertclip.model import AlertCLIP
from companion import tuned_models
from companion.profiles import ROOT, Params
from companion.result_tables import per_cent
from companion.world_gates import held_out_stills, still_accuracy

BATCH = 64


def retention_table(P: Params, wanted: Sequence[tuned_models.Stage]) -> pd.DataFrame:
    """Accuracy and recall (per cent) of each model on whatever the profile names.

    Columns setting, model, value, low, high, n; intervals resample images. A profile that names
    nothing gets one row without a value, and a warning. InputError if a file is missing.
    """
    images, rows = None, []
    if P.data.world == "miniworld":
        images = held_out_stills(P, tuned_models.stage_model(P, wanted[0]))
    for stage in wanted:
        model = tuned_models.stage_model(P, stage)
        found = still_accuracy(P, model, images) if images else []
        if P.evaluation.retention_imagenet:
            found += [
                _row(
                    "ImageNet: top-1", imagenet_hits(model, ROOT / P.evaluation.retention_imagenet)
                )
            ]
        if P.evaluation.retention_coco:
            found += [
                _row(f"COCO, {direction}: R@1", hits)
                for direction, hits in coco_hits(model, ROOT / P.evaluation.retention_coco).items()
            ]
        rows += [{**row, "model": tuned_models.STAGES[stage]} for row in found or [_unmeasured()]]
    return per_cent(pd.DataFrame(rows).rename(columns={"measure": "setting"}))


def _unmeasured() -> dict[str, object]:
    warnings.warn(
        "retention is not measured: set retention_imagenet to ImageNet's validation folder, or"
        " retention_coco to the folder of captions_val2017.json and val2017/",
        stacklevel=3,
    )
    return {"measure": "not measured", "value": np.nan, "low": np.nan, "high": np.nan, "n": 0}


@torch.inference_mode()
def imagenet_hits(model: AlertCLIP, folder: Path) -> np.ndarray:
    """Zero-shot top-1 hits (images,): open_clip's class names and templates (Radford et al.)."""
    try:
        data = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        raise InputError(
            f"retention_imagenet: {folder} is no folder of classes ({error})"
        ) from None
    names = open_clip.IMAGENET_CLASSNAMES
    if len(data.classes) != len(names):
        raise InputError(
            f"retention_imagenet: {folder} has {len(data.classes)} class folders, not {len(names)}"
        )
    text = torch.stack([_class_embedding(model, name) for name in names])  # in order of synsets
    paths, truth = zip(*data.samples, strict=True)
    v = _embed_images(model, [Path(path) for path in paths])
    return ((v @ text.T).argmax(dim=1).cpu().numpy() == np.array(truth)).astype(float)


def _class_embedding(model: AlertCLIP, name: str) -> Tensor:
    sentences = [template(name) for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    return normalize(model.encode_text(sentences).mean(dim=0), dim=0)


@torch.inference_mode()
def coco_hits(model: AlertCLIP, folder: Path) -> dict[str, np.ndarray]:
    """Recall@1 hits of image-text retrieval: per image (any of its captions) and per caption."""
    listing = read_json(folder / "captions_val2017.json")
    numbers = {image["id"]: i for i, image in enumerate(listing["images"])}
    owner = torch.tensor([numbers[note["image_id"]] for note in listing["annotations"]])
    captions = [note["caption"] for note in listing["annotations"]]
    v = _embed_images(model, [folder / "val2017" / i["file_name"] for i in listing["images"]]).cpu()
    parts = [captions[i : i + BATCH] for i in range(0, len(captions), BATCH)]
    text = torch.cat([model.encode_text(part).cpu() for part in parts])
    first = {
        "image to text": owner[_argmax(v, text)] == torch.arange(len(v)),
        "text to image": _argmax(text, v) == owner,
    }
    return {direction: hits.numpy().astype(float) for direction, hits in first.items()}


def _argmax(query: Tensor, among: Tensor) -> Tensor:
    """Place of the most similar row of ``among`` for each row of ``query``."""
    return torch.cat([(part @ among.T).argmax(dim=1) for part in query.split(1024)])


def _embed_images(model: AlertCLIP, paths: Sequence[Path]) -> Tensor:
    """Unit embeddings (N, D); images are squashed to the model's size, as its video frames are."""
    batches = -(-len(paths) // BATCH)
    parts = [
        normalize(model.image_features(pixels.to(model.mean.device)).float(), dim=-1)
        for pixels in progress(_pixels(paths, model.image_size), batches, "retention images")
    ]
    return torch.cat(parts)


def _pixels(paths: Sequence[Path], size: tuple[int, int]) -> Iterator[Tensor]:
    for start in range(0, len(paths), BATCH):
        frames = [_read(path, size) for path in paths[start : start + BATCH]]
        yield torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: not a readable image ({error}); fetch it again") from None


def _row(measure: str, hits: np.ndarray) -> dict[str, object]:
    return {"measure": measure, **bootstrap_interval(hits)._asdict()}
