"""Clips degraded step by step: attention against the annotated box, and the anomaly score.

Every model sees the same clips, frames and boxes, and the first step of every kind is the clip as
it is. Attention is measured where an abnormal clip has a box, scores on all clips. A normal clip
has no actor to cover: it is covered where an abnormal clip, drawn by seed, has its own, so that
the cover says nothing about the label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from alertclip.attention_maps import FrameMaps, frame_gradients, frame_maps
from alertclip.clips import ClipDataset
from alertclip.errors import InputError
from alertclip.files import progress
from alertclip.intervals import Statistic, bootstrap_interval, mean, ratio
from alertclip.model import AlertCLIP
from alertclip.mss import encode_sets
from alertclip.prompts import load_prompts
from companion.degradation import DEGRADATIONS, Clip, degrade, described
from companion.profiles import ROOT, Params
from companion.splits import clip_dataset, prepare_data
from companion.stage_runs import resolve_device
from companion.tuned_models import STAGES, stage_model
from detectors.frame_metrics import auc_statistic

Levels = Mapping[str, Sequence[float]]
CURVES: dict[str, tuple[str | list[str], Statistic | None, float]] = {
    "relevance": (["mass_relevance", "area"], ratio, 1),
    "rollout": (["mass_rollout", "area"], ratio, 1),
    "pointing": ("hits_relevance", mean, 100),
    "margin": ("margin", mean, 1),
    "auc": ("margin", None, 100),
}
"""Curve of notebook 08 -> columns of ``degraded_scores``, their statistic (None: AUC) and scale."""


class Scored(NamedTuple):
    """What a model says of B clips of T frames."""

    margins: Tensor  # (B,), S_A - S_N of the clip
    scores: Tensor  # (B, T), the same of each frame; -inf in padding
    weights: Tensor  # (B, T), the temporal weight alpha
    gradients: Tensor  # (B, T, D), what each frame embedding adds to the frame scores


def load_clip(dataset: ClipDataset, number: int) -> Clip:
    """One clip of a data set with the boxes of its annotated tracks; normal clips have none."""
    item, content = dataset.items[number], dataset[number]
    pairs = zip(item.regions, content["regions"], strict=True)
    tracks = [region for record, region in pairs if record.track]
    boxes = np.array([track[0] for track in tracks], np.float32)
    present = np.array([track[1] for track in tracks], bool)
    return Clip(
        torch.from_numpy(content["frames"]).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(boxes.reshape(-1, dataset.num_frames, 4)),
        torch.from_numpy(present.reshape(-1, dataset.num_frames)),
        item.key,
        int(item.is_abnormal),
        torch.from_numpy(content["mask"]),
        bool(tracks),
    )


def load_clips(P: Params) -> list[Clip]:
    """``failure_clips`` test clips drawn by seed, the abnormal half (with boxes) first.

    None takes all. Normal clips get the boxes of abnormal ones. InputError without either sort.
    """
    prepare_data(P)
    dataset = clip_dataset(P, "test", stage_model(P, "clip").image_size)
    rng, drawn = np.random.default_rng(P.seed), []
    half = None if P.failure.clips is None else P.failure.clips // 2
    for abnormal in (True, False):
        found = sorted(
            (item.key, number)
            for number, item in enumerate(dataset.items)
            if item.is_abnormal == abnormal
            and (not abnormal or any(region.track for region in item.regions))
        )
        if not found:
            raise InputError("test: needs normal clips and abnormal clips with boxes; check it")
        order = sorted(rng.permutation(len(found))[:half])
        drawn.append([load_clip(dataset, found[i][1]) for i in order])
    lenders = rng.integers(len(drawn[0]), size=len(drawn[1]))
    pairs = zip(lenders, drawn[1], strict=True)
    return drawn[0] + [lend(drawn[0][i], clip) for i, clip in pairs]


def lend(lender: Clip, clip: Clip) -> Clip:
    """The clip with the boxes of another, in its own real frames."""
    return replace(clip, boxes=lender.boxes, present=lender.present & clip.mask)


def measure(P: Params, clips: Sequence[Clip]) -> pd.DataFrame:
    """``degraded_scores`` of the profile's three models."""
    models = {name: stage_model(P, stage) for stage, name in STAGES.items()}
    directions = {name: anomaly_direction(P, model) for name, model in models.items()}
    size = P.evaluation.batch_size
    return degraded_scores(models, directions, clips, P.failure.levels, P.seed, size)


def degraded_scores(
    models: Mapping[str, AlertCLIP],
    directions: Mapping[str, Tensor],
    clips: Sequence[Clip],
    levels: Levels,
    seed: int,
    batch_size: int,
) -> pd.DataFrame:
    """Scores and attention of every clip at every step of every kind of ``levels``.

    ``directions`` (D,) give each model's margin. One row per model, kind, step and clip: level
    (its unit: degradation.DEGRADATIONS), key, video, label, margin, and where a box is (else nan),
    means over its frames: area (share of the frame), reach (share of patches it touches), mass_MAP
    inside the box, hits_MAP of the map's peak. Step 0 is the clip as it is.
    """
    steps = [("", 0, float("nan")), *(step for step in all_steps(levels) if step[1])]
    rows = []
    for kind, step, level in progress(steps, len(steps), "degrade clips"):
        found: dict[str, list[dict[str, object]]] = {name: [] for name in models}
        for start in range(0, len(clips), batch_size):  # never a second copy of all clips
            part = clips[start : start + batch_size]
            if step:
                part = [degraded(clip, kind, level, seed) for clip in part]
            for name, model in models.items():
                found[name] += _measured(model, part, directions[name], batch_size)
        how = {"kind": kind, "step": step, "level": level}
        rows += [{"model": name} | how | row for name, part in found.items() for row in part]
    table = pd.DataFrame(rows)
    first = table[table["step"] == 0]  # measured once, the same for every kind
    clean = [first.assign(kind=kind, level=DEGRADATIONS[kind].clean) for kind in levels]
    return pd.concat([*clean, table[table["step"] > 0]], ignore_index=True)


def all_steps(levels: Levels) -> list[tuple[str, int, float]]:
    """Kind, step and level: the clean level of every kind first, then kinds from mild to severe."""
    hows = {kind: described(kind) for kind in levels}
    steps = [(kind, 0, how.clean) for kind, how in hows.items()]
    for kind, how in hows.items():
        ordered = sorted(levels[kind], reverse=how.worst < how.clean)
        steps += [(kind, step, level) for step, level in enumerate(ordered, start=1)]
    return steps


def degraded(clip: Clip, kind: str, level: float, seed: int) -> Clip:
    """The clip at a level, with random parts of its own."""
    own = int(np.random.default_rng([seed, *clip.key.encode()]).integers(2**31))
    return degrade(clip, kind, level, own)


def anomaly_direction(P: Params, model: AlertCLIP) -> Tensor:
    """mean(P_A) - mean(P_N), (D,): its dot product with an embedding is the margin S_A - S_N."""
    sets = load_prompts(ROOT / P.evaluation.prompts).sets
    normal, abnormal = encode_sets(model.encode_text, sets)
    return torch.from_numpy(abnormal.mean(axis=0) - normal.mean(axis=0)).to(resolve_device(P))


def score(model: AlertCLIP, clips: Sequence[Clip], direction: Tensor) -> Scored:
    """Margins, frame scores and their gradients along a direction (D,) of the text space."""
    frames = torch.stack([clip.frames for clip in clips]).to(direction.device)
    mask = torch.stack([clip.mask for clip in clips]).to(direction.device)
    with torch.no_grad():
        v = model.encode_frames(frames).v
        pooled = model.pool_frames(v, mask)
        scores = normalize(pooled.z.float(), dim=-1) @ direction
    gradients = frame_gradients(model, v, mask, direction)
    scores = scores.masked_fill(~mask, float("-inf"))
    return Scored(pooled.embedding @ direction, scores, pooled.weights, gradients)


def explain(model: AlertCLIP, frames: Tensor, gradients: Tensor, batch_size: int) -> FrameMaps:
    """Maps (F, h, w) of frames (F, 3, H, W) for their gradients (F, D), in batches."""
    parts = zip(frames.split(batch_size), gradients.split(batch_size), strict=True)
    maps = [frame_maps(model, part.to(along.device), along) for part, along in parts]
    return FrameMaps(*(torch.cat(kind) for kind in zip(*maps, strict=True)))


def _measured(
    model: AlertCLIP, clips: Sequence[Clip], direction: Tensor, batch_size: int
) -> list[dict[str, object]]:
    found = score(model, clips, direction)
    rows: list[dict[str, object]] = [
        {"key": clip.key, "video": clip.key.split("#")[0], "label": clip.label, "margin": margin}
        for clip, margin in zip(clips, found.margins.tolist(), strict=True)
    ]
    located = [i for i, clip in enumerate(clips) if clip.located]
    if located:
        frames = torch.cat([clips[i].frames[clips[i].seen] for i in located])
        gradients = torch.cat([found.gradients[i][clips[i].seen] for i in located])
        counts = [len(clips[i].seen) for i in located]
        maps = explain(model, frames, gradients, batch_size)
        own = zip(*(kind.split(counts) for kind in maps), strict=True)
        for i, pair in zip(located, own, strict=True):
            rows[i] |= box_measures(FrameMaps(*pair), clips[i], clips[i].seen)
    return rows


def box_measures(maps: FrameMaps, clip: Clip, frames: Tensor) -> dict[str, float]:
    """Area, reach, mass and hits of the maps (F, h, w) of ``frames`` (F,), averaged over them."""
    cover = box_cover(clip, frames, maps.rollout.shape[-2:])
    row = {"area": float(cover.mean()), "reach": float((cover > 0).float().mean())}
    for name, found in maps._asdict().items():
        row[f"mass_{name}"] = float((found * cover).sum(dim=(1, 2)).mean())
        row[f"hits_{name}"] = float(pointing_hits(found, cover).mean())
    return row


def box_cover(clip: Clip, frames: Tensor, grid: Sequence[int]) -> Tensor:
    """Share of each patch that lies in any box of ``frames`` (F,): (F, h, w), by whole pixels."""
    height, width = clip.frames.shape[-2:]
    boxes, present = clip.boxes[:, frames], clip.present[:, frames]  # (R, F, 4), (R, F)
    x1, y1, x2, y2 = (side[..., None] for side in boxes.unbind(dim=-1))
    x, y = ((torch.arange(n) + 0.5) / n for n in (width, height))
    columns, rows = (x >= x1) & (x < x2), (y >= y1) & (y < y2)  # (R, F, W), (R, F, H)
    inside = rows[..., None] & columns[..., None, :] & present[..., None, None]
    return adaptive_avg_pool2d(inside.any(dim=0).float(), tuple(grid))


def pointing_hits(maps: Tensor, cover: Tensor) -> Tensor:
    """Pointing game (Zhang et al. 2018): 1 where a map's highest patch touches the box, else 0.

    maps, cover (F, h, w) -> (F,). Patches are the resolution of a map, so touching counts, as the
    original allows 15 pixels. Ties share the hit, so a uniform map scores the guessing level.
    """
    peak = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (peak & (cover > 0)).sum(dim=(1, 2)) / peak.sum(dim=(1, 2))


def curves(P: Params, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The curve ``name`` (a key of CURVES) along the levels, from ``degraded_scores``.

    Columns: kind, step, level, model, value, low, high (95% bootstrap over videos), title, unit, n.
    Mass is a ratio of means over videos (1 = no more than the box's share of the area); pointing
    and AUC are in per cent. Curves of maps have a column chance; the margin has a column of, which
    says whether its clips are abnormal.
    """
    columns, statistic, scale = CURVES[name]
    parts = {"": table if name == "auc" else table[table["area"].notna()]}
    if name == "margin":
        parts = {
            "abnormal clips": table[table["label"] == 1],
            "normal clips": table[table["label"] == 0],
        }
    rows, place = [], ["kind", "step", "level", "model"]
    draws = P.evaluation.bootstrap_samples, P.seed
    for of, chosen in parts.items():
        for at, part in chosen.groupby(place, sort=False):
            how = statistic or auc_statistic(part["label"].to_numpy())
            values, videos = part[columns].to_numpy(), part["video"].tolist()
            *found, n = bootstrap_interval(values, how, *draws, videos)
            kind = DEGRADATIONS[at[0]]
            row = dict(zip(place, at, strict=True))
            row |= dict(zip(("value", "low", "high"), (scale * x for x in found), strict=True))
            row |= {"title": kind.title, "unit": kind.unit}
            if statistic is ratio:  # a map even over the picture, without the ground around it
                row["chance"] = row["level"] ** -2 if row["kind"] == "actor size" else 1.0
            elif name == "pointing":
                row["chance"] = 100 * part["reach"].mean()
            rows.append(row | {"n": n} | ({"of": of} if of else {}))
    return pd.DataFrame(rows)
