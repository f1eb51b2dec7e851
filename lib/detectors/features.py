"""Snippet features of whole videos: the input of the weakly supervised detectors.

One file per video and crop, ``<name>__<crop>.npy`` of (snippets, D) float32, as VadCLIP's authors
publish theirs, in a folder named by a hash of its features.json. How 16 frames became one published
feature is not disclosed; here it is the mean over evenly spaced frames of a snippet.
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
Crops = Sequence[int]  # crop numbers of a rule
Wanted = Mapping[Path, Crops]  # videos and their crops to extract
Target = tuple[AlertCLIP, Path]  # a model and the folder of its features
Missing = dict[Path, list[Target]]  # the models that lack a crop, by video
Precision = Literal["fp32", "bf16", "fp16"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
MARGIN = 8 / 7  # crops are taken from frames resized to 256 for 224


class Piece(NamedTuple):
    """Snippet frames (n * rule.frames, H, W, 3); ``reason``: what of the video failed to decode."""

    path: Path
    frames: np.ndarray = np.empty(0)
    last: bool = True
    reason: str = ""


@dataclass(frozen=True)
class SnippetRule:
    """How a video becomes features; crops: 1 whole, 5 centre and corners, 10 also mirrored."""

    length: int = 16  # frames of a snippet
    frames: int = 16  # of these, embedded and averaged
    crops: int = 1
    resize: Resize = "squash"

    def __post_init__(self) -> None:
        if self.resize == "clip" and self.crops > 1:
            raise InputError("snippet_resize clip takes the centre alone: set snippet_crops to 1")
        if self.frames > self.length:
            raise InputError(f"snippets of {self.length} frames: embed 1 to {self.length} of them")


def snippet_rule(params: DetectorParams, detector: Detector) -> SnippetRule:
    """Return a detector's rule: single frames for AnomalyCLIP, snippets for the others."""
    snippets = params.snippet_length, params.snippet_frames, params.snippet_crops
    frames = params.frame_stride, 1, 1
    return SnippetRule(*(frames if detector == "anomalyclip" else snippets), params.snippet_resize)


def scored_crop(params: DetectorParams, rule: SnippetRule) -> int:
    """Return the crop that is scored, the only one extracted from test videos."""
    return params.snippet_test_crop if params.snippet_test_crop < rule.crops else 0


def snippet_frames(n_frames: int, rule: SnippetRule) -> np.ndarray:
    """Native frame indices (n, rule.frames) of full snippets; a shorter video makes one snippet."""
    starts = np.arange(max(1, n_frames // rule.length)) * rule.length
    offsets = (np.arange(rule.frames) + 0.5) * rule.length / rule.frames
    return np.minimum(starts[:, None] + offsets.astype(int), n_frames - 1)


def clip_view(size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """Return open_clip's resizing and centre crop: (H', W', 3) uint8 -> (*size, 3)."""
    options = {"resize_mode": "shortest", "interpolation": "bicubic"}
    prepare = Compose(open_clip.image_transform(size, is_train=False, **options).transforms[:2])
    return lambda picture: np.asarray(prepare(Image.fromarray(picture)))


def take_crop(frames: Tensor, size: tuple[int, int], crop: int) -> Tensor:
    """Take crop 0 centre, 1-4 corners or 5-9 these mirrored: (F, H', W', 3) -> (F, *size, 3)."""
    bottom, right = (have - want for have, want in zip(frames.shape[1:3], size, strict=True))
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    top, left = [(bottom // 2, right // 2), *corners][crop % 5]
    cropped = frames[:, top : top + size[0], left : left + size[1]]
    return cropped.flip(2) if crop >= 5 else cropped.contiguous()


@torch.inference_mode()
def embed_crops(
    model: AlertCLIP, frames: Tensor, rule: SnippetRule, precision: str = "fp32", crops: Crops = ()
) -> np.ndarray:
    """Embed snippet frames (n * rule.frames, H', W', 3) uint8: features (crops, n, D)."""
    features, pixels, half = [], frames.to(model.mean.device), HALF.get(precision)
    for crop in crops or range(rule.crops):
        cropped = take_crop(pixels, model.image_size, crop).permute(0, 3, 1, 2)
        with torch.autocast(pixels.device.type, half, enabled=half is not None):
            v = torch.cat([model.image_features(chunk) for chunk in cropped.split(64)])
        features.append(v.unflatten(0, (-1, rule.frames)).mean(1))
    return torch.stack(features).cpu().numpy()


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
    """Write the missing crops of ``videos`` under ``root``; return each model's folder.

    Each video is decoded once for all models, by ``workers`` threads ahead of the embedding.
    failures.json lists videos and frames that do not decode (the last one that does replaces them);
    videos.json holds file sizes, so that another file of the same name is extracted again. Raises
    InputError if two videos share a name, which the layout cannot tell apart.
    """
    owner = {path.stem: path for path in videos}
    if repeated := [path for path in videos if owner[path.stem] != path]:
        raise InputError(f"{repeated[0]} and {owner[repeated[0].stem]} share a name; rename one")
    targets = [(model, _folder(model, rule, root, precision)) for model in models]
    crops = {path: videos[path] for path in [*videos][shard]}
    suffix = "" if shard == files.WHOLE else f".{shard.start + 1}-of-{shard.step}"
    lock = root / f"{suffix}.lock"
    with files.locked(lock):  # concurrent runs: one extracts, the others wait
        sizes = {path.stem: path.stat().st_size for path in crops if path.is_file()}
        missing = _missing(targets, crops, sizes)
        _note(targets, root, "videos", sizes)
        pieces = decoded_pieces([*missing], models[0].image_size, rule, cache_root, workers)
        threads = torch.get_num_threads()  # leave cores to the decoding threads: a matmul
        torch.set_num_threads(max(1, threads - workers))  # waits for its slowest thread
        try:
            embed = partial(embed_crops, rule=rule, precision=precision)
            done = _embedded(pieces, missing, crops, embed)
            failures = dict(files.progress(done, len(missing), "snippet features"))
        finally:
            torch.set_num_threads(threads)
        _note(targets, root, "failures", failures)
    return [folder for _, folder in targets]


def _note(targets: Sequence[Target], root: Path, name: str, rows: dict[str, Any]) -> None:
    with files.locked(root / ".failures.lock"):  # other shards and splits add theirs
        for _, folder in targets:
            known = sorted((_noted(folder, name) | rows).items())
            files.write_json(folder / f"{name}.json", {key: row for key, row in known if row})


def _noted(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return files.read_json(path) if path.exists() else {}


def _missing(targets: Sequence[Target], crops: Wanted, sizes: dict[str, int]) -> Missing:
    """Return the models that lack a crop, by video; delete crops of another file of its name."""
    missing: Missing = {}
    for model, folder in targets:
        known = _noted(folder, "videos")
        for path, numbers in crops.items():
            size = known.get(path.stem)
            if size and sizes.get(path.stem, size) != size:
                for crop in range(10):
                    feature_file(folder, path, crop).unlink(missing_ok=True)
            if not all(feature_file(folder, path, crop).exists() for crop in numbers):
                missing.setdefault(path, []).append((model, folder))
    return missing


def _embedded(
    pieces: Iterable[Piece], missing: Missing, crops: Wanted, embed: Callable
) -> Iterator[tuple[str, str]]:
    """Write each video's features after its last piece; yield its name and what did not decode."""
    features: dict[Path, list[list[np.ndarray]]] = {path: [] for path in missing}
    for path, frames, last, reason in pieces:  # of several videos, interleaved
        if len(frames):  # none: the video cannot be decoded
            device = missing[path][0][0].mean.device
            pixels = torch.from_numpy(frames).to(device)  # once for all models
            features[path].append([embed(m, pixels, crops=crops[path]) for m, _ in missing[path]])
        if last and len(frames):
            by_model = zip(*features.pop(path), strict=True)
            for (_, folder), parts in zip(missing[path], by_model, strict=True):
                for crop, part in zip(crops[path], np.concatenate(parts, axis=1), strict=True):
                    with files.atomic_write(feature_file(folder, path, crop)) as temporary:
                        np.save(temporary, part, allow_pickle=False)
        if last:
            yield path.name, reason


def _folder(model: AlertCLIP, rule: SnippetRule, root: Path, precision: Precision) -> Path:
    recipe = {
        "backbone": weights_hash(model.clip.visual),
        "config": model.backbone.config,
        "pixels": [model.image_size, model.backbone.mean, model.backbone.std, MARGIN],
        "precision": precision,
        **asdict(rule),
    }
    if rule.resize == "squash":  # the default, left out so that older folders keep their hash
        del recipe["resize"]
    folder = root / f"features-{files.sha256_json(recipe)[:8]}"
    files.write_json(folder / "features.json", recipe)
    return folder


def decoded_pieces(
    videos: Sequence[Path], size: tuple[int, int], rule: SnippetRule, root: Path, workers: int
) -> Iterator[Piece]:
    """Yield snippet frames of the videos in pieces: an hour of frames does not fit in memory."""
    size = tuple(round(side * MARGIN) if rule.crops > 1 else side for side in size)
    infos = parallel_probe(FrameCache(root, size), videos, workers)

    def read(path: Path) -> Iterator[Piece]:
        if isinstance(info := infos[path], str):
            yield Piece(path, reason=info)
            return
        indices = snippet_frames(info.frames, rule)
        parts = np.array_split(indices, -(-indices.size // PIECE))
        try:
            decoded_size = size if rule.resize == "squash" else (info.height, info.width)
            frames = read_in_order(path, info.shown(indices.ravel()), decoded_size, info)
            if rule.resize == "clip":
                frames = map(clip_view(size), frames)
            for number, part in enumerate(parts, start=1):
                piece = np.stack(list(islice(frames, part.size)))
                yield Piece(path, piece, number == len(parts), info.report)
        except DecodeError as error:
            yield Piece(path, reason=str(error))

    return parts_ahead(read, videos, workers)


def feature_file(folder: Path, video: Path, crop: int) -> Path:
    """Return the path of a video's features in the official layout."""
    return folder / f"{video.stem}__{crop}.npy"


def read_features(path: Path) -> np.ndarray:
    """Read a feature file, ours or published, as (n, D) float32; InputError says what is wrong."""
    features = load_array(path)
    where, kind = f"{path}: shape {features.shape}", features.dtype
    if features.ndim != 2 or not features.size or kind.kind != "f":
        raise InputError(f"{where} of {kind}, not features (n, D) of real numbers")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, refused below
        features = features.astype(np.float32)
    if not (finite := np.isfinite(features).all(axis=1)).all():
        raise InputError(f"{where}, row {finite.argmin()} is not finite; extract it again")
    return features
