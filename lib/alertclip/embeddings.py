"""Clip and frame embeddings of a dataset, computed once and reused while nothing changed."""

import json
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alertclip.clips import collate
from alertclip.errors import InputError
from alertclip.files import atomic_write, progress, sha256_json

ARRAYS = ("embedding", "z", "v", "mask", "times", "labels")


@dataclass(frozen=True)
class ClipEmbeddings:
    """Embeddings of N clips of T frames; all vectors have unit length, so dot = cosine.

    embedding (N, D) clip; z (N, T, D) frames after the temporal transformer; v (N, T, D) frames
    before it; mask (N, T) True where a frame is real; times (N, T) seconds; labels (N,) 1
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

    def save(self, path: Path, digest: str) -> None:
        """Write ``path`` (safetensors), with names and ``digest`` among its metadata."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        names = json.dumps({"digest": digest, "classes": self.classes, "keys": self.keys})
        with atomic_write(path) as temporary:
            save_file(arrays, temporary, {"names": names})

    @classmethod
    def load(cls, path: Path, digest: str) -> "ClipEmbeddings | None":
        """What ``save`` wrote, None under another ``digest``; InputError if the file is damaged."""
        try:
            with safe_open(path, "numpy") as file:
                names = json.loads((file.metadata() or {}).get("names", "{}"))
                if names.get("digest") != digest:
                    return None
                arrays = map(file.get_tensor, ARRAYS)
                return cls(*arrays, names["classes"], names["keys"])
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not embeddings ({error}); delete it and run again") from None


def embed_clips(
    model: torch.nn.Module, dataset: Sized, batch_size: int = 8, device: str | torch.device = "cpu"
) -> ClipEmbeddings:
    """Embed every clip of a ClipDataset in its order, without gradients, in evaluation mode."""
    if not len(dataset):
        raise InputError("no clips to embed: the dataset is empty")
    model = model.to(device).eval()
    starts, parts, samples = range(0, len(dataset), batch_size), [], []
    for start in progress(starts, len(starts), "embed clips"):
        batch = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        parts.append(_embed(model, batch, torch.device(device)))
        samples += [(sample["class_name"], sample["key"]) for sample in batch]
    arrays = [np.concatenate([part[name] for part in parts]) for name in ARRAYS]
    classes, keys = map(list, zip(*samples, strict=True))
    return ClipEmbeddings(*arrays, classes, keys)


def reuse_or_embed(
    path: Path, identity: object, embed: Callable[[], ClipEmbeddings]
) -> ClipEmbeddings:
    """Load ``path`` if it was made under the same ``identity``, else embed and save.

    ``identity`` is anything JSON that decides the result: hashes of weights and data, frames.
    """
    digest = sha256_json(identity)
    found = ClipEmbeddings.load(path, digest) if path.exists() else None
    if found is None:
        found = embed()
        found.save(path, digest)
    return found


@torch.inference_mode()
def _embed(
    model: torch.nn.Module, samples: list[dict], device: torch.device
) -> dict[str, np.ndarray]:
    batch = collate(samples)
    frames = model.encode_frames(batch.frames.to(device))
    clip = model.pool_frames(frames.v, batch.mask.to(device))
    return {
        "embedding": _unit(clip.embedding),
        "z": _unit(clip.z),
        "v": _unit(frames.v),
        "mask": batch.mask.numpy(),
        "times": np.stack([np.asarray(sample["times"], np.float32) for sample in samples]),
        "labels": batch.labels.numpy(),
    }


def _unit(x: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(x.float(), dim=-1).cpu().numpy()
