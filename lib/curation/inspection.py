"""All measurements of a set of clips: what decodes, its quality, its embeddings."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alertclip.cache import FrameCache
from alertclip.checkpoint import weights_hash
from alertclip.clips import ClipDataset
from alertclip.embeddings import ClipEmbeddings, embed_clips, reuse_or_embed
from alertclip.files import sha256_json
from alertclip.model import AlertCLIP
from alertclip.records import Item
from alertclip.video import DecodeError, DecodeWorker
from curation.quality import Quality, measure

FRAMES = 8  # embedded per clip, at the centres of equal bins
BATCH = 32


@dataclass(frozen=True)
class Inspected:
    """Readable clips in one order (``clips.keys``), and why the others are not readable, by key."""

    clips: ClipEmbeddings
    quality: list[Quality]
    content: list[str]  # equal where bytes and segment are
    failures: dict[str, str]
    dataset: ClipDataset

    def frames(self, number: int) -> list[np.ndarray]:
        """The embedded frames (H, W, 3) uint8 of a clip, in order of time, without padding."""
        sample = self.dataset[number]
        return list(sample["frames"][sample["mask"]])


def inspect(
    root: Path, items: Sequence[Item], model: AlertCLIP, store: Path, workers: int
) -> Inspected:
    """Measure every clip that can be read; InputError only if none can."""
    cache = FrameCache(store, model.backbone.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what cannot be read is a row of the result
        dataset = ClipDataset(root, items, FRAMES, cache, workers)
    failures = {finding.item: finding.reason for finding in dataset.failures}
    measured = _measure_all(root, dataset.items, cache, store / "quality", workers)
    failures |= {key: found for key, found in measured.items() if isinstance(found, str)}
    if len(failures) > len(dataset.failures):  # decoded once, but not in full
        readable = [item for item in dataset.items if item.key not in failures]
        dataset = ClipDataset(root, readable, FRAMES, cache, workers)
    failures = {key: reason.replace(f"{root}/", "") for key, reason in failures.items()}
    keys = [item.key for item in dataset.items]
    identity = {"model": weights_hash(model), "videos": dataset.digest(), "clips": keys}
    name = f"{sha256_json(identity)[:32]}.safetensors"
    device = model.mean.device
    clips = reuse_or_embed(
        store / "embeddings" / name, identity, lambda: embed_clips(model, dataset, BATCH, device)
    )
    quality = [measured[key] for key in keys]
    spans = [item.timestamps for item in dataset.items]
    content = [f"{q.sha256} {span}" for q, span in zip(quality, spans, strict=True)]
    return Inspected(clips, quality, content, failures, dataset)


def _measure_all(
    root: Path, items: Sequence[Item], cache: FrameCache, store: Path, workers: int
) -> dict[str, Quality | str]:
    """Quality of each clip, or why it cannot be measured; every thread has its own decoders."""
    count = max(1, min(workers, len(items)))
    parts = [items[start::count] for start in range(count)]
    with ThreadPoolExecutor(count) as threads:
        done = threads.map(lambda part: _measure_part(root, part, cache, store), parts)
        return {key: found for part in done for key, found in part.items()}


def _measure_part(
    root: Path, items: Sequence[Item], cache: FrameCache, store: Path
) -> dict[str, Quality | str]:
    worker, clock = DecodeWorker(), DecodeWorker(module="curation.timestamps")
    found: dict[str, Quality | str] = {}
    try:
        for item in items:
            path = root / item.video
            try:
                info = cache.info(path, worker)
                found[item.key] = measure(path, info, item.timestamps, store, worker, clock)
            except DecodeError as error:
                found[item.key] = str(error)
    finally:
        worker.close()
        clock.close()
    return found
