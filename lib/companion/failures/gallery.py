"""Frames with maps over them: one clip and a caption, the worst errors, and real clips.

What is shown follows from rules, never from looking: the clip of median score, the errors of
largest margin, the frames of highest score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alertclip.attention_maps import FrameMaps, frame_gradients
from alertclip.cache import FrameCache
from alertclip.clips import ClipDataset
from alertclip.model import AlertCLIP
from alertclip.records import Item
from companion.failures.measurement import (
    MAPS,
    Sample,
    anomaly_direction,
    box_measures,
    clip_maps,
    sample,
)
from companion.profiles import ROOT, Params
from companion.splits import Split, clip_dataset
from companion.stage_runs import resolve_device
from companion.tuned_models import STAGES, Stage, StageResult, stage_model

COLUMNS = 8  # frames of one clip
REAL_FRAMES = 2  # of each real clip
Pick = tuple[Sample, list[int]]
"""A clip and the numbers of the frames that are shown."""


@dataclass
class Panels:
    """Columns of a figure: a frame (H, W, 3), its boxes (R, 4), and a map (h, w) per row name.

    ``table`` has a line per column and row: column, title, key, model, frame, score of the frame,
    alpha (its temporal weight), row, map, and where a box is its area and the mass inside.
    """

    frames: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    maps: dict[str, list[np.ndarray]] = field(default_factory=dict)
    table: pd.DataFrame = field(default_factory=pd.DataFrame)


def worst_errors(result: StageResult, count: int) -> pd.DataFrame:
    """The abnormal clips of lowest margin ("missed") and the normal ones of highest.

    Ties go by name. Columns: error, key, class_name, margin, passed_by = share of the other class
    on the wrong side of the clip.
    """
    clips, margins = result.clips, result.margins
    table = pd.DataFrame(
        {"key": clips.keys, "class_name": clips.classes, "margin": margins, "label": clips.labels}
    )
    normal, abnormal = (table.loc[table["label"] == label, "margin"].to_numpy() for label in (0, 1))
    missed = table[table["label"] == 1].sort_values(["margin", "key"]).head(count)
    false = table[table["label"] == 0].sort_values(["margin", "key"], ascending=[False, True])
    false = false.head(count)
    missed = missed.assign(error="missed", passed_by=[(normal > m).mean() for m in missed.margin])
    false = false.assign(
        error="false alarm", passed_by=[(abnormal < m).mean() for m in false.margin]
    )
    names = ["error", "key", "class_name", "margin", "passed_by"]
    return pd.concat([missed, false], ignore_index=True)[names]


def caption_panels(P: Params, result: StageResult, split: Split = "test") -> tuple[Panels, str]:
    """One clip frame by frame: rollout, and relevance for its own region caption, per stage.

    The clip is the abnormal one with boxes whose margin in ``result`` is the median (the lower of
    two). Returns the caption too.
    """
    dataset = _dataset(P, split)
    margins = dict(zip(result.clips.keys, result.margins, strict=True))
    located = [
        (margins[item.key], item.key, number)
        for number, item in enumerate(dataset.items)
        if item.is_abnormal and any(region.track for region in item.regions)
    ]
    number = sorted(located)[(len(located) - 1) // 2][2]
    clip = sample(dataset, number)
    caption = next(r.caption for r in dataset.items[number].regions if r.track)
    real = clip.mask.nonzero().flatten()
    places = np.linspace(0, len(real) - 1, min(COLUMNS, len(real))).round().astype(int)
    frames = [int(real[place]) for place in places]
    titles = [f"frame {frame + 1}" for frame in frames]

    def towards_caption(model: AlertCLIP) -> Tensor:
        with torch.no_grad():
            return model.encode_text([caption])[0]

    return _panels(P, [(clip, frames)], titles, towards_caption, MAPS), caption


def error_panels(P: Params, errors: pd.DataFrame, split: Split = "test") -> Panels:
    """Relevance for the anomaly score of each error, a column per clip and a row per stage.

    The frame is the middle one of the annotated event, or without one the frame that the tuned
    model scores highest.
    """
    dataset = _dataset(P, split)
    place = {item.key: number for number, item in enumerate(dataset.items)}
    clips = [sample(dataset, place[key]) for key in errors["key"]]
    model = stage_model(P, "full")
    direction = anomaly_direction(P, model)
    picks = [(clip, [_middle(clip, model, direction)]) for clip in clips]
    titles = [
        f"{Path(row.key.split('#')[0]).stem.removesuffix('_x264')}\nmargin {row.margin:+.3f}"
        for row in errors.itertuples()
    ]
    return _panels(P, picks, titles, lambda m: anomaly_direction(P, m), MAPS[1:])


def real_panels(P: Params) -> Panels | None:
    """The same for real clips: of each, the frames that the tuned model scores highest.

    Looks below ``failure_videos`` (empty: the data root, if real) for names that begin with one of
    ``failure_names``. Without any, prints why and returns None.
    """
    dataset = _real_dataset(P)
    if dataset is None:
        return None
    model = stage_model(P, "full")
    direction = anomaly_direction(P, model)
    picks: list[Pick] = []
    titles: list[str] = []
    for number, item in enumerate(dataset.items):
        clip = sample(dataset, number)
        scores = _frame_scores(model, clip, direction)[1]
        best = sorted(scores.argsort(descending=True, stable=True)[:REAL_FRAMES].tolist())
        picks.append((clip, best))
        times = dataset[number]["times"]
        stem = Path(item.video).stem.removesuffix("_x264")
        titles += [f"{stem}\n{times[i]:.0f} s" for i in best]
    return _panels(P, picks, titles, lambda m: anomaly_direction(P, m), MAPS[1:])


def _dataset(P: Params, split: Split) -> ClipDataset:
    return clip_dataset(P, split, stage_model(P, "full").image_size)


def _real_dataset(P: Params) -> ClipDataset | None:
    if not P.failure.videos and P.data.world != "vagta":
        print("real clips: skipped, the data are synthetic; set failure_videos to a folder of them")
        return None
    folder = ROOT / P.failure.videos if P.failure.videos else P.data_dir
    found = {
        path.stem: path
        for path in sorted(folder.rglob("*.mp4"))
        if path.stem.startswith(tuple(P.failure.names))
    }
    if not found:
        print(f"real clips: skipped, {folder} has none of {', '.join(P.failure.names)} (.mp4)")
        return None
    items = [Item(str(path.relative_to(folder)), "", ()) for path in found.values()]
    size = stage_model(P, "full").image_size
    cache = FrameCache(P.cache_dir, size)
    return ClipDataset(folder, items, P.data.num_frames, cache, P.workers)


def _middle(clip: Sample, model: AlertCLIP, direction: Tensor) -> int:
    if len(clip.seen):
        return int(clip.seen[len(clip.seen) // 2])
    return int(_frame_scores(model, clip, direction)[1].argmax())


def _frame_scores(
    model: AlertCLIP, clip: Sample, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Frame embeddings (1, T, D), scores after the temporal transformer and alpha, both (T,)."""
    mask = clip.mask[None].to(direction.device)
    with torch.no_grad():
        v = model.encode_frames(clip.frames[None].to(direction.device)).v
        pooled = model.pool_frames(v, mask)
        z = torch.nn.functional.normalize(pooled.z[0].float(), dim=-1)
        scores = (z @ direction).masked_fill(~mask[0], float("-inf"))
    return v, scores, pooled.weights[0]


def _panels(
    P: Params,
    picks: Sequence[Pick],
    titles: Sequence[str],
    towards: Callable[[AlertCLIP], Tensor],
    kinds: Sequence[str],
) -> Panels:
    """Maps of the picked frames for every stage; ``towards`` gives the direction explained."""
    panels, rows = Panels(), []
    for clip, numbers in picks:
        panels.frames += [clip.frames[i].permute(1, 2, 0).numpy() for i in numbers]
        panels.boxes += [clip.boxes[clip.present[:, i], i].numpy() for i in numbers]
    for stage in STAGES:
        model = stage_model(P, stage).to(resolve_device(P))
        direction = towards(model)
        column = 0
        for clip, numbers in picks:
            maps, scores, weights = _explained(P, model, clip, numbers, direction)
            for place, number in enumerate(numbers):
                one = FrameMaps(*(part[place : place + 1] for part in maps))
                base = {"column": column, "title": titles[column], "key": clip.key}
                base |= {"model": STAGES[stage], "frame": number}
                base |= {"score": float(scores[number]), "alpha": float(weights[number])}
                rows += _cells(panels, base, clip, number, one, kinds, stage)
                column += 1
    panels.table = pd.DataFrame(rows)
    return panels


def _explained(
    P: Params, model: AlertCLIP, clip: Sample, numbers: list[int], direction: Tensor
) -> tuple[FrameMaps, Tensor, Tensor]:
    v, scores, weights = _frame_scores(model, clip, direction)
    mask = clip.mask[None].to(direction.device)
    gradient = frame_gradients(model, v, mask, direction)[0]
    maps = clip_maps(model, [(clip, gradient, torch.tensor(numbers))], P.evaluation.batch_size)[0]
    return maps, scores, weights


def _cells(
    panels: Panels,
    base: dict[str, object],
    clip: Sample,
    number: int,
    maps: FrameMaps,
    kinds: Sequence[str],
    stage: Stage,
) -> list[dict[str, object]]:
    boxed = bool(clip.present[:, number].any())
    found = box_measures(maps, clip, torch.tensor([number])) if boxed else {}
    rows = []
    for kind in kinds:
        row = STAGES[stage] if len(kinds) == 1 else f"{STAGES[stage]}\n{kind}"
        panels.maps.setdefault(row, []).append(getattr(maps, kind)[0].numpy())
        inside = {"area": found.get("area"), "mass": found.get(f"mass_{kind}")}
        rows.append(base | {"row": row.replace("\n", " "), "map": kind} | inside)
    return rows
