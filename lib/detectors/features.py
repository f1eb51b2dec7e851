"""Snippet features of whole videos: the input of the weakly supervised detectors.

One file per video and crop, ``<name>__<crop>.npy`` of (snippets, D) float32, as VadCLIP's authors
publish theirs, in a folder named by a hash of what features.json spells out. How 16 frames became
one published feature is not disclosed; here it is the mean over evenly spaced frames of a snippet.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose

from alertclip.checkpoint import weights_hash
from alertclip.model import AlertCLIP
from detectors.event_annotations import load_array
from detectors.training_protocol import Detector, DetectorParams, Resize
from media import files
from media.cache import FrameCache, parallel_probe, parts_ahead
from media.errors import InputError
from media.video import DecodeError, read_in_order

PIECE = 2048  # frames decoded at once
Crops = Sequence[int]  # some of a rule's
Wanted = Mapping[Path, Crops]  # videos, and which of their crops
Made = tuple[AlertCLIP, Path]  # a model and the folder of its features
Precision = Literal["fp32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
MARGIN = 8 / 7  # crops are taken from frames resized to 256 for 224


class Piece(NamedTuple):
    """Frames of a video (n * rule.frames, H, W, 3); the last says what does not decode, or why."""

    path: Path
    frames: np.ndarray = np.empty(0)
    last: bool = True
    reason: str = ""


@dataclass(frozen=True)
class SnippetRule:
    """How a video becomes features; crops: 1 whole, 5 centre and corners, 10 mirrored too."""

    length: int = 16  # frames of a snippet
    frames: int = 16  # of which are embedded and averaged
    crops: int = 1
    resize: Resize = "squash"

    def __post_init__(self) -> None:
        if self.resize == "clip" and self.crops > 1:
            raise InputError("snippet_resize clip takes the centre alone: set snippet_crops to 1")
        if self.frames > self.length:
            raise InputError(f"snippets of {self.length} frames: embed 1 to {self.length} of them")


def snippet_rule(params: DetectorParams, detector: Detector) -> SnippetRule:
    """How videos become features: single frames for AnomalyCLIP, snippets for the others."""
    rule = params.snippet_length, params.snippet_frames, params.snippet_crops
    frame = params.frame_stride, 1, 1
    return SnippetRule(*(frame if detector == "anomalyclip" else rule), params.snippet_resize)


def scored_crop(params: DetectorParams, rule: SnippetRule) -> int:
    """The crop that is scored; nothing else is extracted of a test video."""
    return params.snippet_test_crop if params.snippet_test_crop < rule.crops else 0


def snippet_frames(n_frames: int, rule: SnippetRule) -> np.ndarray:
    """Native indices (n, rule.frames) of the whole snippets; a shorter video makes one snippet."""
    starts = np.arange(max(1, n_frames // rule.length)) * rule.length
    offsets = (np.arange(rule.frames) + 0.5) * rule.length / rule.frames
    return np.minimum(starts[:, None] + offsets.astype(int), n_frames - 1)


def clip_view(size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """CLIP's own view, open_clip's up to the tensor: (H', W', 3) uint8 -> its centre (*size, 3)."""
    options = {"resize_mode": "shortest", "interpolation": "bicubic"}
    prepare = Compose(open_clip.image_transform(size, is_train=False, **options).transforms[:2])
    return lambda picture: np.asarray(prepare(Image.fromarray(picture)))


def take_crop(frames: Tensor, size: tuple[int, int], crop: int) -> Tensor:
    """Crop 0 centre, 1-4 corners, 5-9 the same mirrored: (F, H', W', 3) -> (F, *size, 3)."""
    height, width = (have - want for have, want in zip(frames.shape[1:3], size, strict=True))
    corners = [(0, 0), (0, width), (height, 0), (height, width)]
    top, left = [(height // 2, width // 2), *corners][crop % 5]
    part = frames[:, top : top + size[0], left : left + size[1]]
    return part.flip(2) if crop >= 5 else part.contiguous()


@torch.inference_mode()
def embed_crops(
    model: AlertCLIP, frames: Tensor, rule: SnippetRule, precision: str = "fp32", crops: Crops = ()
) -> np.ndarray:
    """Features (crops, n, D) of snippet frames (n * rule.frames, H', W', 3) uint8, on the GPU."""
    found, pixels, half = [], frames.to(model.mean.device), HALF.get(precision)
    for crop in crops or range(rule.crops):
        part = take_crop(pixels, model.image_size, crop).permute(0, 3, 1, 2)
        with torch.autocast(pixels.device.type, half, enabled=half is not None):
            v = torch.cat([model.image_features(chunk) for chunk in part.split(64)])
        found.append(v.unflatten(0, (-1, rule.frames)).mean(1))
    return torch.stack(found).cpu().numpy()


def extract_features(
    models: Sequence[AlertCLIP],
    videos: Wanted,
    rule: SnippetRule,
    root: Path,
    cache_root: Path,
    workers: int,
    precision: Precision = "fp32",
    shard: slice = files.WHOLE,
) -> list[Path]:
    """Write the missing crops of ``videos`` under ``root``; returns each model's folder.

    Every video is decoded once for all models, in ``workers`` threads ahead of the embedding.
    failures.json says which videos or frames (the last one before stands for them) cannot be
    decoded; videos.json keeps every file's bytes, so that another of its name is extracted anew.
    Raises InputError if two videos share a name, which the layout cannot tell apart.
    """
    owner = {path.stem: path for path in videos}
    if twice := [path for path in videos if owner[path.stem] != path]:
        raise InputError(f"{twice[0]} and {owner[twice[0].stem]} share a name; rename one")
    made = [(model, _folder(model, rule, root, precision)) for model in models]
    crops = {path: videos[path] for path in [*videos][shard]}
    own = "" if shard == files.WHOLE else f".{shard.start + 1}-of-{shard.step}"
    lock = root / f"{own}.lock"
    with files.locked(lock):  # runs at once want the same features: one makes them
        sizes = {path.stem: path.stat().st_size for path in crops if path.is_file()}
        wanting = _wanting(made, crops, sizes)
        _note(made, root, "videos", sizes)
        pieces = decoded_pieces([*wanting], models[0].image_size, rule, cache_root, workers)
        threads = torch.get_num_threads()  # a matmul waits for its slowest thread: leave
        torch.set_num_threads(max(1, threads - workers))  # cores to the decoding threads
        try:
            embed = partial(embed_crops, rule=rule, precision=precision)
            done = _embedded(pieces, wanting, crops, embed)
            found = dict(files.progress(done, len(wanting), "snippet features"))
        finally:
            torch.set_num_threads(threads)
        _note(made, root, "failures", found)
    return [folder for _, folder in made]


def _note(made: Sequence[Made], root: Path, name: str, rows: dict[str, Any]) -> None:
    with files.locked(root / ".failures.lock"):  # other shares and splits keep theirs
        for _, folder in made:
            known = sorted((_noted(folder, name) | rows).items())
            files.write_json(folder / f"{name}.json", {key: row for key, row in known if row})


def _noted(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return files.read_json(path) if path.exists() else {}


def _wanting(made: Sequence[Made], crops: Wanted, sizes: dict[str, int]) -> dict[Path, list[Made]]:
    """The models by video of which a crop is not there; those of another file of its name go."""
    wanting: dict[Path, list[Made]] = {}
    for model, folder in made:
        known = _noted(folder, "videos")
        for path, numbers in crops.items():
            before = known.get(path.stem)
            if before and sizes.get(path.stem, before) != before:
                for crop in range(10):
                    feature_file(folder, path, crop).unlink(missing_ok=True)
            if not all(feature_file(folder, path, crop).exists() for crop in numbers):
                wanting.setdefault(path, []).append((model, folder))
    return wanting


def _embedded(
    pieces: Iterable[Piece], wanting: dict[Path, list[Made]], crops: Wanted, embed: Callable
) -> Iterator[tuple[str, str]]:
    """Write each video's features once its last piece is there: name, what did not decode."""
    features: dict[Path, list[list[np.ndarray]]] = {path: [] for path in wanting}
    for path, frames, last, reason in pieces:  # of several videos, in turns
        if len(frames):  # otherwise it cannot be read to its end
            device = wanting[path][0][0].mean.device
            pixels = torch.from_numpy(frames).to(device)  # once for all models
            features[path].append([embed(m, pixels, crops=crops[path]) for m, _ in wanting[path]])
        if last and len(frames):
            by_model = zip(*features.pop(path), strict=True)
            for (_, folder), parts in zip(wanting[path], by_model, strict=True):
                for crop, part in zip(crops[path], np.concatenate(parts, axis=1), strict=True):
                    with files.atomic_write(feature_file(folder, path, crop)) as temporary:
                        np.save(temporary, part, allow_pickle=False)
        if last:
            yield path.name, reason


def _folder(model: AlertCLIP, rule: SnippetRule, root: Path, precision: Precision) -> Path:
    made_by = {
        "backbone": weights_hash(model.clip.visual),
        "config": model.backbone.config,
        "pixels": [model.image_size, model.backbone.mean, model.backbone.std, MARGIN],
        "precision": precision,
        **asdict(rule),
    }
    if rule.resize == "squash":  # as all features were before there was a choice
        del made_by["resize"]
    folder = root / f"features-{files.sha256_json(made_by)[:8]}"
    files.write_json(folder / "features.json", made_by)
    return folder


def decoded_pieces(
    videos: Sequence[Path], size: tuple[int, int], rule: SnippetRule, root: Path, workers: int
) -> Iterator[Piece]:
    """Snippet frames of the videos, in pieces: an hour of frames fits no memory."""
    size = tuple(round(side * MARGIN) if rule.crops > 1 else side for side in size)
    infos = parallel_probe(FrameCache(root, size), videos, workers)

    def read(path: Path) -> Iterator[Piece]:
        if isinstance(info := infos[path], str):
            yield Piece(path, reason=info)
            return
        indices = snippet_frames(info.frames, rule)
        parts = np.array_split(indices, -(-indices.size // PIECE))
        try:
            decoded = size if rule.resize == "squash" else (info.height, info.width)
            frames = read_in_order(path, info.shown(indices.ravel()), decoded, info)
            if rule.resize == "clip":
                frames = map(clip_view(size), frames)
            for number, part in enumerate(parts, start=1):
                taken = np.stack(list(islice(frames, part.size)))
                yield Piece(path, taken, number == len(parts), info.report)
        except DecodeError as error:
            yield Piece(path, reason=str(error))

    return parts_ahead(read, videos, workers)


def feature_file(folder: Path, video: Path, crop: int) -> Path:
    """File of a video's features, in the official layout."""
    return folder / f"{video.stem}__{crop}.npy"


def read_features(path: Path) -> np.ndarray:
    """Features (n, D) float32 of a file of this layout, ours or published; InputError names it."""
    features = load_array(path)
    where, kind = f"{path}: shape {features.shape}", features.dtype
    if features.ndim != 2 or not features.size or kind.kind != "f":
        raise InputError(f"{where} of {kind}, not features (n, D) of real numbers")
    with np.errstate(over="ignore"):  # of float64; it is refused as infinite
        features = features.astype(np.float32)
    if not (finite := np.isfinite(features).all(axis=1)).all():
        raise InputError(f"{where}, row {finite.argmin()} is not finite; extract it again")
    return features
