"""Clip and frame embeddings of a dataset, computed once and reused until something changes."""

import json
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch.nn.functional import normalize

from alertclip.clips import collate
from media.errors import InputError
from media.files import atomic_write, progress, sha256_json

ARRAYS = ("embedding", "z", "v", "mask", "times", "labels")


@dataclass(frozen=True)
class ClipEmbeddings:
    """Embeddings of N clips of T frames; all vectors have unit length, so dot = cosine.

    embedding (N, D) clip; z (N, T, D) frames after the temporal transformer; v (N, T, D) frames
    before it; mask (N, T) True where a frame is real; times (N, T) in s; labels (N,) 1
    abnormal; classes and keys: N names.
    """

    embedding: np.ndarray
    z: np.ndarray
    v: np.ndarray
    mask: np.ndarray
    times: np.ndarray
    labels: np.ndarray
    classes: list[str]
    keys: list[str]


def embed_clips(
    model: torch.nn.Module, dataset: Sized, batch_size: int = 8, device: str | torch.device = "cpu"
) -> ClipEmbeddings:
    """Embed the clips of a ClipDataset in order, in evaluation mode and without gradients."""
    if not len(dataset):
        raise InputError("no clips to embed: the dataset is empty")
    model = model.to(device).eval()  # moved outside inference mode: it can still be trained
    starts, parts, classes, keys = range(0, len(dataset), batch_size), [], [], []
    for start in progress(starts, len(starts), "embed clips"):
        samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        batch = collate(samples)
        with torch.inference_mode():
            frames = model.encode_frames(batch.frames.to(device))
            clip = model.pool_frames(frames.v, batch.mask.to(device))
        vectors = [normalize(x.float(), dim=-1) for x in (clip.embedding, clip.z, frames.v)]
        times = np.stack([np.asarray(sample["times"], np.float32) for sample in samples])
        arrays = [x.cpu().numpy() for x in vectors]
        parts.append([*arrays, batch.mask.numpy(), times, batch.labels.numpy()])
        classes += [sample["class_name"] for sample in samples]
        keys += batch.keys
    return ClipEmbeddings(*map(np.concatenate, zip(*parts, strict=True)), classes, keys)


def reuse_or_embed(
    path: Path, identity: object, embed: Callable[[], ClipEmbeddings]
) -> ClipEmbeddings:
    """Load ``path`` if it was made under the same ``identity``, else embed and save.

    ``identity`` is any JSON value that determines the result, such as hashes of weights and data.
    Raises InputError if the safetensors file is damaged.
    """
    digest = sha256_json(identity)
    if path.exists():
        try:
            with safe_open(path, "numpy") as file:
                saved = json.loads((file.metadata() or {}).get("names", "{}"))
                if saved.get("digest") == digest:
                    arrays = map(file.get_tensor, ARRAYS)
                    return ClipEmbeddings(*arrays, saved["classes"], saved["keys"])
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not embeddings ({error}); delete it and run again") from None
    clips = embed()
    arrays = {name: np.ascontiguousarray(getattr(clips, name)) for name in ARRAYS}
    names = json.dumps({"digest": digest, "classes": clips.classes, "keys": clips.keys})
    with atomic_write(path) as temporary:
        save_file(arrays, temporary, {"names": names})
    return clips
