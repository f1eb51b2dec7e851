"""What tuning forgets: zero-shot classification and retrieval before and after it.

Document 001 claims "no regression (and even some gains)" on ImageNet and COCO retrieval, without
numbers. The mini world has its own held-out stills. For real data set ``retention_imagenet`` to
ImageNet's validation folder (val/<synset>/*.JPEG) and ``retention_coco`` to the folder of
captions_val2017.json and val2017/.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.datasets import ImageFolder

from alertclip.intervals import bootstrap_interval
from alertclip.model import AlertCLIP
from companion import tuned_models
from companion.profiles import ROOT, Params
from companion.result_tables import per_cent
from companion.world_gates import still_accuracy
from detectors.features import clip_view
from media.errors import InputError
from media.files import progress, read_json

BATCH = 64
NOTHING = {"measure": "not measured", "value": np.nan, "low": np.nan, "high": np.nan, "n": 0}


def retention_table(P: Params, wanted: Sequence[tuned_models.Stage]) -> pd.DataFrame:
    """Accuracy and recall (per cent) of each model on the images that the profile names.

    Columns: setting, model, value, low, high, n; intervals resample images. If the profile names
    none, one row per model without a value, and a warning. InputError if a file is missing.
    """
    imagenet, coco = P.evaluation.retention_imagenet, P.evaluation.retention_coco
    models = [tuned_models.stage_model(P, stage) for stage in wanted]
    synthetic, rows = P.data.world == "miniworld", []
    if not (synthetic or imagenet or coco):
        warnings.warn(
            "retention is not measured: set retention_imagenet or retention_coco", stacklevel=2
        )
    measured = still_accuracy(P, models) if synthetic else [[] for _ in models]
    for stage, model, measures in zip(wanted, models, measured, strict=True):
        hits = {"ImageNet: top-1": imagenet_hits(model, ROOT / imagenet)} if imagenet else {}
        hits |= coco_hits(model, ROOT / coco) if coco else {}
        measures += [{"measure": k, **bootstrap_interval(v)._asdict()} for k, v in hits.items()]
        rows += [row | {"model": tuned_models.STAGES[stage]} for row in measures or [NOTHING]]
    return per_cent(pd.DataFrame(rows).rename(columns={"measure": "setting"}))


@torch.inference_mode()
def imagenet_hits(model: AlertCLIP, folder: Path) -> np.ndarray:
    """Zero-shot top-1 hits (images,), open_clip's class names and templates (Radford et al.)."""
    try:
        data = ImageFolder(str(folder))
    except OSError as error:
        raise InputError(f"retention_imagenet: {folder} has no class folders ({error})") from None
    names, templates = open_clip.IMAGENET_CLASSNAMES, open_clip.OPENAI_IMAGENET_TEMPLATES
    if len(data.classes) != len(names):
        mismatch = f"{len(data.classes)} class folders, not {len(names)}"
        raise InputError(f"retention_imagenet: {folder} has {mismatch}")
    sentences = ([template(name) for template in templates] for name in names)
    text = [normalize(model.encode_text(prompts).mean(dim=0), dim=0) for prompts in sentences]
    v = _embed_images(model, [Path(path) for path, _ in data.samples])
    predicted = (v @ torch.stack(text).T).argmax(dim=1).cpu()
    return (predicted == torch.tensor(data.targets)).double().numpy()


@torch.inference_mode()
def coco_hits(model: AlertCLIP, folder: Path) -> dict[str, np.ndarray]:
    """Recall@1 hits of retrieval: per image (any of its captions counts) and per caption."""
    listing = read_json(folder / "captions_val2017.json")
    index_of = {image["id"]: i for i, image in enumerate(listing["images"])}
    image_of = torch.tensor([index_of[note["image_id"]] for note in listing["annotations"]])
    captions = [note["caption"] for note in listing["annotations"]]
    v = _embed_images(model, [folder / "val2017" / i["file_name"] for i in listing["images"]]).cpu()
    batches = [captions[i : i + BATCH] for i in range(0, len(captions), BATCH)]
    similarity = v @ torch.cat([model.encode_text(batch).cpu() for batch in batches]).T
    hits = {
        "COCO, image to text: R@1": image_of[similarity.argmax(dim=1)] == torch.arange(len(v)),
        "COCO, text to image: R@1": similarity.argmax(dim=0) == image_of,
    }
    return {name: hit.double().numpy() for name, hit in hits.items()}


def _embed_images(model: AlertCLIP, paths: Sequence[Path]) -> Tensor:
    """Unit embeddings (N, D) of images, preprocessed as for CLIP."""
    embeddings, view = [], clip_view(model.image_size)
    for start in progress(range(0, len(paths), BATCH), -(-len(paths) // BATCH), "retention images"):
        images = [view(_read(path)) for path in paths[start : start + BATCH]]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(model.mean.device)
        embeddings.append(normalize(model.image_features(pixels).float(), dim=-1))
    return torch.cat(embeddings)


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: not a readable image ({error}); fetch it again") from None
