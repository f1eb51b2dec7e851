"""Attention inside the annotated box and anomaly scores of clips degraded step by step.

Attention is measured on abnormal clips with boxes, scores on all clips. For occlusion, a normal
clip, which has no actor, borrows the boxes of an abnormal clip drawn by seed, so that the cover
says nothing about the label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from alertclip.clips import ClipDataset
from alertclip.intervals import Statistic, bootstrap_interval, mean, ratio
from alertclip.model import AlertCLIP
from alertclip.mss import encode_sets
from companion.degradation import DEGRADATIONS, Clip, degrade
from companion.profiles import Params
from companion.relevance import FrameMaps, frame_gradients, frame_maps
from companion.splits import clip_dataset, prepare_data
from companion.stage_runs import resolve_device
from companion.tuned_models import prompts_of, stage_model
from detectors.frame_metrics import auc_statistic
from media.errors import InputError
from media.files import progress

CURVES: dict[str, tuple[str | list[str], Statistic | None, float]] = {
    "relevance": (["mass_relevance", "area"], ratio, 1),
    "rollout": (["mass_rollout", "area"], ratio, 1),
    "pointing": ("hits_relevance", mean, 100),
    "margin": ("margin", mean, 1),
    "auc": ("margin", None, 100),
}
"""Curve in notebook 08 -> its columns in ``degraded_scores``, statistic (None: AUC) and scale."""


class ClipScores(NamedTuple):
    """Output of a model for B clips of T frames."""

    margins: Tensor  # (B,), S_A - S_N of the clip
    scores: Tensor  # (B, T), the same per frame; -inf in padding
    weights: Tensor  # (B, T), the temporal weight alpha
    gradients: Tensor  # (B, T, D), of the frame scores by frame embedding


def load_clip(dataset: ClipDataset, number: int) -> Clip:
    """One clip of a dataset with the boxes of its annotated tracks; normal clips have none."""
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

    None takes all. Normal clips borrow boxes of abnormal ones. InputError if either half is empty.
    """
    prepare_data(P)
    dataset = clip_dataset(P, "test", stage_model(P, "clip").image_size)
    rng, items = np.random.default_rng(P.seed), list(enumerate(dataset.items))
    half = None if P.failure.clips is None else P.failure.clips // 2
    normal = [i for i, item in items if not item.is_abnormal]
    abnormal = [i for i, item in items if item.is_abnormal and any(r.track for r in item.regions)]
    halves = []
    for indices in (abnormal, normal):
        if not indices:
            raise InputError("the test split needs normal clips and abnormal clips with boxes")
        indices.sort(key=lambda i: (dataset.items[i].key, i))
        chosen = sorted(rng.permutation(len(indices))[:half])
        halves.append([load_clip(dataset, indices[i]) for i in chosen])
    lenders = rng.integers(len(halves[0]), size=len(halves[1]))
    pairs = zip(lenders, halves[1], strict=True)
    return halves[0] + [lend(halves[0][i], clip) for i, clip in pairs]


def lend(lender: Clip, clip: Clip) -> Clip:
    """``clip`` with the boxes of ``lender``, in its own frames without padding."""
    return replace(clip, boxes=lender.boxes, present=lender.present & clip.mask)


def degraded_scores(
    P: Params, models: Mapping[str, AlertCLIP], clips: Sequence[Clip]
) -> pd.DataFrame:
    """Scores and attention of every clip at every level of every kind in ``failure_levels``.

    One row per model, kind, step (0: undamaged) and clip: level (unit: see DEGRADATIONS), key,
    video, label, margin; for clips with annotated boxes (else nan), means over the boxed frames:
    area (share of the frame), reach (share of patches touched), mass_MAP and hits_MAP in the box.
    """
    levels, size, rows = P.failure.levels, P.evaluation.batch_size, []
    directions = {name: anomaly_direction(P, model) for name, model in models.items()}
    steps = [("", 0, float("nan")), *all_steps(levels)[len(levels) :]]
    for kind, step, level in progress(steps, len(steps), "degrade clips"):
        rows_of: dict[str, list[dict[str, object]]] = {name: [] for name in models}
        for start in range(0, len(clips), size):  # so that not all clips are copied at once
            batch = clips[start : start + size]
            if step:
                batch = [degrade(clip, kind, level, P.seed) for clip in batch]
            for name, model in models.items():
                rows_of[name] += _measured(model, batch, directions[name], size)
        at = {"kind": kind, "step": step, "level": level}
        rows += [{"model": name} | at | row for name, group in rows_of.items() for row in group]
    table = pd.DataFrame(rows)
    undamaged = table[table["step"] == 0]  # measured once for all kinds
    clean = [undamaged.assign(kind=kind, level=DEGRADATIONS[kind].clean) for kind in levels]
    return pd.concat([*clean, table[table["step"] > 0]], ignore_index=True)


def all_steps(levels: Mapping[str, Sequence[float]]) -> list[tuple[str, int, float]]:
    """(kind, step, level): the clean level of every kind, then each kind from mild to severe."""
    steps = [(kind, 0, DEGRADATIONS[kind].clean) for kind in levels]
    for kind, values in levels.items():
        ordered = sorted(values, reverse=DEGRADATIONS[kind].worst < DEGRADATIONS[kind].clean)
        steps += [(kind, step, level) for step, level in enumerate(ordered, start=1)]
    return steps


def anomaly_direction(P: Params, model: AlertCLIP) -> Tensor:
    """mean(P_A) - mean(P_N), (D,): its dot product with an embedding is the margin S_A - S_N."""
    normal, abnormal = encode_sets(model.encode_text, prompts_of(P).sets)
    return torch.from_numpy(abnormal.mean(axis=0) - normal.mean(axis=0)).to(resolve_device(P))


def score(model: AlertCLIP, clips: Sequence[Clip], direction: Tensor) -> ClipScores:
    """Margins, frame scores and their gradients for a direction (D,) in the text space."""
    frames = torch.stack([clip.frames for clip in clips]).to(direction.device)
    mask = torch.stack([clip.mask for clip in clips]).to(direction.device)
    with torch.no_grad():
        v = model.encode_frames(frames).v
        pooled = model.pool_frames(v, mask)
        scores = normalize(pooled.z.float(), dim=-1) @ direction
    gradients = frame_gradients(model, v, mask, direction)
    scores = scores.masked_fill(~mask, float("-inf"))
    return ClipScores(pooled.embedding @ direction, scores, pooled.weights, gradients)


def explain(model: AlertCLIP, frames: Tensor, gradients: Tensor, batch_size: int) -> FrameMaps:
    """Maps (F, h, w) of frames (F, 3, H, W) given their gradients (F, D), in batches."""
    pairs = zip(frames.split(batch_size), gradients.split(batch_size), strict=True)
    maps = [frame_maps(model, batch.to(direction.device), direction) for batch, direction in pairs]
    return FrameMaps(*(torch.cat(batches) for batches in zip(*maps, strict=True)))


def _measured(
    model: AlertCLIP, clips: Sequence[Clip], direction: Tensor, batch_size: int
) -> list[dict[str, object]]:
    scored, rows = score(model, clips, direction), []
    for i, clip in enumerate(clips):
        row = {"key": clip.key, "video": clip.key.split("#")[0], "label": clip.label}
        row |= {"margin": scored.margins[i].item()}
        if clip.located:
            gradients = scored.gradients[i][clip.seen]
            maps = explain(model, clip.frames[clip.seen], gradients, batch_size)
            row |= box_measures(maps, clip, clip.seen)
        rows.append(row)
    return rows


def box_measures(maps: FrameMaps, clip: Clip, frames: Tensor) -> dict[str, float]:
    """Area, reach, mass and hits of the maps (F, h, w) of ``frames`` (F,), mean over frames."""
    cover = box_cover(clip, frames, maps.rollout.shape[-2:])
    row = {"area": float(cover.mean()), "reach": float((cover > 0).float().mean())}
    for name, values in maps._asdict().items():
        row[f"mass_{name}"] = float((values * cover).sum(dim=(1, 2)).mean())
        row[f"hits_{name}"] = float(pointing_hits(values, cover).mean())
    return row


def box_cover(clip: Clip, frames: Tensor, grid: Sequence[int]) -> Tensor:
    """Share of each patch inside any box of ``frames`` (F,), in whole pixels: (F, h, w)."""
    height, width = clip.frames.shape[-2:]
    boxes, present = clip.boxes[:, frames], clip.present[:, frames]  # (R, F, 4), (R, F)
    x1, y1, x2, y2 = (side[..., None] for side in boxes.unbind(dim=-1))
    x, y = ((torch.arange(n) + 0.5) / n for n in (width, height))
    columns, rows = (x >= x1) & (x < x2), (y >= y1) & (y < y2)  # (R, F, W), (R, F, H)
    inside = rows[..., None] & columns[..., None, :] & present[..., None, None]
    return adaptive_avg_pool2d(inside.any(dim=0).float(), tuple(grid))


def pointing_hits(maps: Tensor, cover: Tensor) -> Tensor:
    """Pointing game (Zhang et al. 2018): 1 where a map's highest patch touches the box, else 0.

    maps, cover (F, h, w) -> (F,). Tied patches share the hit, so a uniform map scores at chance.
    """
    peak = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (peak & (cover > 0)).sum(dim=(1, 2)) / peak.sum(dim=(1, 2))


def curves(P: Params, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Curve ``name`` (a key of CURVES) over the levels, from ``degraded_scores``.

    Columns: kind, step, level, model, value, low, high (95% bootstrap over videos), title, unit, n.
    Mass is a ratio of means over videos (1: no more than the box's share of the area); pointing and
    AUC are in per cent. Curves of maps also have chance; the margin has of (abnormal or normal).
    """
    columns, statistic, scale = CURVES[name]
    keys, extra, rows = ["kind", "step", "level", "model"], [], []
    if name == "margin":
        table, extra = table.sort_values("label", ascending=False, kind="stable"), ["of"]
        table = table.assign(of=table["label"].map({1: "abnormal clips", 0: "normal clips"}))
    elif name != "auc":
        table = table[table["area"].notna()]
    for values, group in table.groupby([*keys, *extra], sort=False):
        row = dict(zip(keys, values, strict=False))
        metric = statistic or auc_statistic(group["label"].to_numpy())
        groups = group["video"].tolist()
        *interval, n = bootstrap_interval(group[columns].to_numpy(), metric, *P.draws, groups)
        row |= {key: scale * x for key, x in zip(("value", "low", "high"), interval, strict=True)}
        row |= {"title": DEGRADATIONS[row["kind"]].title, "unit": DEGRADATIONS[row["kind"]].unit}
        if statistic is ratio:  # a map uniform over the shrunken picture, 0 around it
            row["chance"] = row["level"] ** -2 if row["kind"] == "actor size" else 1.0
        elif name == "pointing":
            row["chance"] = 100 * group["reach"].mean()
        rows.append(row | {"n": n} | dict(zip(extra, values[len(keys) :], strict=True)))
    return pd.DataFrame(rows)
