"""Clips degraded step by step: attention against the annotated box, and the anomaly score.

The same clips, frames and boxes for every model; the first step of every kind is the clip as it
is. Attention is measured where an abnormal clip has a box, scores on all clips. Normal clips have
no actor to cover: they are covered where an abnormal clip, drawn by seed, has its own, so that the
cover tells nothing about the label.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from alertclip.attention_maps import FrameMaps, frame_gradients, frame_maps
from alertclip.clips import ClipDataset
from alertclip.errors import InputError
from alertclip.files import progress
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from alertclip.zero_shot import encode_sets
from companion.degradation import DEGRADATIONS, Clip, degrade
from companion.profiles import ROOT, Params
from companion.splits import Split, clip_dataset, prepare_data
from companion.stage_runs import resolve_device
from companion.tuned_models import STAGES, Stage, stage_model

MAPS = ("rollout", "relevance")


@dataclass(frozen=True)
class Sample(Clip):
    """A clip to degrade: its name, label (1 abnormal), real frames (T,), and whether the boxes are
    the annotator's (``located``) or lent by another clip. Boxes are in real frames alone."""

    key: str
    class_name: str
    label: int
    mask: Tensor
    located: bool

    @property
    def seen(self) -> Tensor:
        """Numbers of the frames in which the annotated actor is: (F,)."""
        return self.present.any(dim=0).nonzero().flatten()


def sample(dataset: ClipDataset, number: int) -> Sample:
    """One clip of a data set with the boxes of its annotated tracks; normal clips have none."""
    item, content = dataset.items[number], dataset[number]
    pairs = zip(item.regions, content["regions"], strict=True)
    tracks = [region for record, region in pairs if record.track]
    length = dataset.num_frames
    boxes = np.array([track[0] for track in tracks], np.float32).reshape(-1, length, 4)
    present = np.array([track[1] for track in tracks], bool).reshape(-1, length)
    return Sample(
        frames=torch.from_numpy(content["frames"]).permute(0, 3, 1, 2).contiguous(),
        boxes=torch.from_numpy(boxes),
        present=torch.from_numpy(present),
        key=item.key,
        class_name=item.class_name,
        label=int(item.is_abnormal),
        mask=torch.from_numpy(content["mask"]),
        located=bool(tracks),
    )


def load_samples(P: Params, image_size: tuple[int, int], split: Split = "test") -> list[Sample]:
    """``failure_clips`` clips drawn by seed, half of them abnormal with a box; None takes all."""
    rng = np.random.default_rng(P.seed)
    dataset, *chosen = _choose(P, image_size, split, rng)
    abnormal, normal = ([sample(dataset, number) for number in part] for part in chosen)
    lenders = rng.integers(len(abnormal), size=len(normal))
    return abnormal + [lend(abnormal[i], clip) for i, clip in zip(lenders, normal, strict=True)]


def _choose(
    P: Params, image_size: tuple[int, int], split: Split, rng: np.random.Generator
) -> tuple[ClipDataset, list[int], list[int]]:
    """The split, and the numbers of the abnormal and of the normal clips drawn from it."""
    prepare_data(P)
    dataset = clip_dataset(P, split, image_size)
    groups: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
    for number, item in enumerate(dataset.items):
        if not item.is_abnormal or any(region.track for region in item.regions):
            groups[item.is_abnormal].append((item.key, number))
    if not groups[True] or not groups[False]:
        raise InputError(f"{split}: needs normal clips and abnormal clips with boxes; check it")
    return dataset, *(_draw(sorted(groups[kind]), P.failure.clips, rng) for kind in (True, False))


def _draw(keys: list[tuple[str, int]], clips: int | None, rng: np.random.Generator) -> list[int]:
    order = sorted(rng.permutation(len(keys))[: None if clips is None else clips // 2])
    return [keys[i][1] for i in order]


def lend(lender: Sample, clip: Sample) -> Sample:
    """The clip with the boxes of another, in its own real frames."""
    return replace(clip, boxes=lender.boxes, present=lender.present & clip.mask)


def measure(P: Params, wanted: Sequence[Stage] = tuple(STAGES)) -> pd.DataFrame:
    """``degraded_scores`` of the profile's models on ``failure_clips`` clips of the test split."""
    models = {STAGES[stage]: stage_model(P, stage) for stage in wanted}
    directions = {name: anomaly_direction(P, model) for name, model in models.items()}
    samples = load_samples(P, next(iter(models.values())).image_size)
    return degraded_scores(
        models, directions, samples, P.failure.levels, P.seed, P.evaluation.batch_size
    )


def degraded_scores(
    models: Mapping[str, AlertCLIP],
    directions: Mapping[str, Tensor],
    samples: Sequence[Sample],
    levels: Mapping[str, Sequence[float]],
    seed: int,
    batch_size: int,
) -> pd.DataFrame:
    """Scores and attention of every clip at every step of every kind of ``levels``.

    ``directions`` (D,) give each model's margin. One row per model, kind, step and clip: level
    (its unit: degradation.DEGRADATIONS), key, video, label, margin, and where a box is (else nan),
    means over its frames: area (share of the frame), reach (share of patches it touches), mass_MAP
    inside the box, hits_MAP of the map's peak. Step 0 is the clip as it is.
    """
    rows, steps = [], list(_steps(levels))
    for kind, step, level in progress(steps, len(steps), "degrade clips"):
        found: dict[str, list[dict[str, object]]] = {name: [] for name in models}
        for start in range(0, len(samples), batch_size):  # no second copy of all clips at a time
            part: Sequence[Sample] = samples[start : start + batch_size]
            if step:
                part = [_degraded(clip, kind, level, seed) for clip in part]
            for name, model in models.items():
                found[name] += _measured(model, part, directions[name], batch_size)
        how = {"kind": kind, "step": step, "level": level}
        rows += [{"model": name} | how | row for name, part in found.items() for row in part]
    return _with_first_steps(pd.DataFrame(rows), list(levels))


def degraded_frames(P: Params) -> tuple[list[np.ndarray], list[np.ndarray], pd.DataFrame]:
    """What the levels look like: one frame (H, W, 3) of the first located clip at every step.

    Frames, boxes (R, 4), and a table with a line for each: kind, title, unit, step, level.
    """
    size, rng = stage_model(P, "full").image_size, np.random.default_rng(P.seed)
    dataset, (first, *_), _ = _choose(P, size, "test", rng)
    clip = sample(dataset, first)
    number = int(clip.seen[len(clip.seen) // 2])
    frames, boxes, rows = [], [], []
    clean = [(kind, 0, DEGRADATIONS[kind].clean) for kind in P.failure.levels]
    for kind, step, level in [*clean, *(s for s in _steps(P.failure.levels) if s[1])]:
        found = _degraded(clip, kind, level, P.seed)
        frames.append(found.frames[number].permute(1, 2, 0).numpy())
        boxes.append(found.boxes[found.present[:, number], number].numpy())
        how = {"title": DEGRADATIONS[kind].title, "unit": DEGRADATIONS[kind].unit}
        rows.append({"kind": kind, **how, "step": step, "level": level})
    return frames, boxes, pd.DataFrame(rows)


def _steps(levels: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, int, float]]:
    """Clean once for all kinds, then every kind from its mildest level on."""
    for kind in levels:
        if kind not in DEGRADATIONS:
            known = ", ".join(DEGRADATIONS)
            raise InputError(f"failure_levels: no degradation {kind}; there are {known}")
    yield "", 0, float("nan")
    for kind, values in levels.items():
        how = DEGRADATIONS[kind]
        for step, level in enumerate(sorted(values, reverse=how.worst < how.clean), start=1):
            yield kind, step, level


def _with_first_steps(table: pd.DataFrame, kinds: list[str]) -> pd.DataFrame:
    clean = table[table["step"] == 0]
    first = [clean.assign(kind=kind, level=DEGRADATIONS[kind].clean) for kind in kinds]
    return pd.concat([*first, table[table["step"] > 0]], ignore_index=True)


def _degraded(clip: Sample, kind: str, level: float, seed: int) -> Sample:
    own = int(np.random.default_rng([seed, *clip.key.encode()]).integers(2**31))
    return degrade(clip, kind, level, own)


def anomaly_direction(P: Params, model: AlertCLIP) -> Tensor:
    """mean(P_A) - mean(P_N), (D,): its product with an embedding is the margin S_A - S_N."""
    normal, abnormal = encode_sets(
        model.encode_text, load_prompts(ROOT / P.evaluation.prompts).sets
    )
    return torch.from_numpy(abnormal.mean(axis=0) - normal.mean(axis=0)).to(resolve_device(P))


def _measured(
    model: AlertCLIP, samples: Sequence[Sample], direction: Tensor, batch_size: int
) -> list[dict[str, object]]:
    margins, gradients = _scored(model, samples, direction)
    rows: list[dict[str, object]] = [
        {"key": clip.key, "video": clip.key.split("#")[0], "label": clip.label, "margin": margin}
        for clip, margin in zip(samples, margins, strict=True)
    ]
    located = [i for i, clip in enumerate(samples) if clip.located]
    wanted = [(samples[i], gradients[i], samples[i].seen) for i in located]
    for i, found in zip(located, clip_maps(model, wanted, batch_size), strict=True):
        rows[i] |= box_measures(found, samples[i], samples[i].seen)
    return rows


def _scored(
    model: AlertCLIP, samples: Sequence[Sample], direction: Tensor
) -> tuple[list[float], Tensor]:
    """Margin of each clip, and what each frame embedding adds to its own score (B, T, D)."""
    frames = torch.stack([clip.frames for clip in samples]).to(direction.device)
    mask = torch.stack([clip.mask for clip in samples]).to(direction.device)
    with torch.no_grad():
        v = model.encode_frames(frames).v
        margins = model.pool_frames(v, mask).embedding @ direction
    return margins.tolist(), frame_gradients(model, v, mask, direction)


def clip_maps(
    model: AlertCLIP, wanted: Sequence[tuple[Sample, Tensor, Tensor]], batch_size: int
) -> list[FrameMaps]:
    """Maps of some frames of each clip: (clip, gradient (T, D), frame numbers (F,)) -> (F, h, w).

    Frames of all clips run together, ``batch_size`` at a time, so that long clips fit into memory.
    """
    if not wanted:
        return []
    frames = torch.cat([clip.frames[numbers] for clip, _, numbers in wanted])
    gradients = torch.cat([gradient[numbers] for _, gradient, numbers in wanted])
    pieces = [
        frame_maps(model, piece.to(gradient.device), gradient)
        for piece, gradient in zip(
            frames.split(batch_size), gradients.split(batch_size), strict=True
        )
    ]
    joined = [torch.cat(maps) for maps in zip(*pieces, strict=True)]
    counts = [len(numbers) for _, _, numbers in wanted]
    return [FrameMaps(*maps) for maps in zip(*(m.split(counts) for m in joined), strict=True)]


def box_measures(maps: FrameMaps, clip: Clip, frames: Tensor) -> dict[str, float]:
    """Area, reach, mass and hits of the maps (F, h, w) of ``frames`` (F,), averaged over them."""
    cover = box_cover(clip, frames, maps.rollout.shape[-2:])
    row = {"area": float(cover.mean()), "reach": float((cover > 0).float().mean())}
    for name, found in zip(MAPS, maps, strict=True):
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
