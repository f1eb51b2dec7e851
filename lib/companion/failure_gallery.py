"""Galleries of attention maps: one clip for a caption, the worst errors, the paper's real clips.

Rules choose what is shown: the clip of median margin, the errors of largest margin, the frames of
highest score. A gallery is a figure, with frames in a row and below them a row per model and map,
and its table with a line per map: column, title, key, model, frame, score of the frame, alpha (its
temporal weight), row, map and, for a frame with a box, the box's area and the mass inside.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alertclip.clips import ClipDataset
from alertclip.model import AlertCLIP
from alertclip.records import Item
from companion import failure_measures as measures
from companion.degradation import DEGRADATIONS, Clip, degrade
from companion.figures import Figure, frame_grid
from companion.figures.images import Cell
from companion.figures.style import short_name
from companion.profiles import ROOT, Params
from companion.relevance import FrameMaps
from companion.splits import clip_dataset
from companion.tuned_models import STAGES, StageResult, stage_model
from media.cache import FrameCache
from media.files import files_below, is_video

COLUMNS = 8  # frames of one clip
REAL_FRAMES = 2  # of each real clip
Pick = tuple[Clip, dict[int, str]]  # a clip and its shown frames, each with a title
Gallery = tuple[Figure, pd.DataFrame]


def worst_errors(result: StageResult, count: int) -> pd.DataFrame:
    """The ``count`` abnormal clips of lowest margin ("missed") and normal ones of highest.

    Ties are ordered by key. Columns: error ("missed" or "false alarm"), key, class_name, margin,
    passed_by (share of the other class's clips on the wrong side of this one).
    """
    clips, margins, tables = result.clips, result.margins, []
    table = pd.DataFrame({"key": clips.keys, "class_name": clips.classes, "margin": margins})
    for error, label, sign in (("missed", 1, 1), ("false alarm", 0, -1)):
        other, worst = margins[clips.labels != label], table[clips.labels == label]
        worst = worst.sort_values(["margin", "key"], ascending=[label == 1, True]).head(count)
        passed = [(sign * other > sign * margin).mean() for margin in worst["margin"]]
        tables.append(worst.assign(error=error, passed_by=passed))
    return pd.concat(tables, ignore_index=True)[["error", *table.columns, "passed_by"]]


def degraded_frames(P: Params, clip: Clip) -> tuple[list[list[Cell]], pd.DataFrame]:
    """Middle frame of a clip's event at every level: a row per step, a column per kind.

    The table has a row for each: kind, title, unit, step, level.
    """
    frame, rows = int(clip.seen[len(clip.seen) // 2]), []
    cells: defaultdict[int, dict[str, Cell]] = defaultdict(dict)
    for kind, step, level in measures.all_steps(P.failure.levels):
        degradation = DEGRADATIONS[kind]
        title = f"{level:g}" if step else f"{degradation.title}\n{fill(degradation.unit, 20)}"
        cells[step][kind] = _cell(degrade(clip, kind, level, P.seed), frame, title)
        rows.append((kind, degradation.title, degradation.unit, step, level))
    grid = [[row.get(kind, {}) for kind in P.failure.levels] for row in cells.values()]
    return grid, pd.DataFrame(rows, columns=["kind", "title", "unit", "step", "level"])


def caption_gallery(P: Params, result: StageResult, note: str) -> Gallery:
    """One clip frame by frame: rollout, and relevance for its own region caption, per stage.

    The clip is the abnormal one with boxes of median margin in ``result`` (the lower of two).
    """
    dataset = clip_dataset(P, "test", stage_model(P, "full").image_size)
    margins = dict(zip(result.clips.keys, result.margins, strict=True))
    located = sorted(
        (margins[item.key], item.key, index)
        for index, item in enumerate(dataset.items)
        if item.is_abnormal and any(region.track for region in item.regions)
    )
    *_, index = located[(len(located) - 1) // 2]
    clip = measures.load_clip(dataset, index)
    caption = next(region.caption for region in dataset.items[index].regions if region.track)
    real = clip.mask.nonzero().flatten()
    spaced = np.linspace(0, len(real) - 1, min(COLUMNS, len(real))).round().astype(int)
    pick = (clip, {frame: f"frame {frame + 1}" for frame in real[spaced].tolist()})

    def towards(P: Params, model: AlertCLIP) -> Tensor:
        with torch.no_grad():
            return model.encode_text([caption])[0]

    texts = f"Maps of one clip for: {caption}", note
    return _gallery(P, [pick], *texts, towards, FrameMaps._fields, "alpha")


def error_gallery(P: Params, errors: pd.DataFrame, title: str, note: str) -> Gallery:
    """Relevance for the anomaly score of each error: a column per clip, a row per stage.

    The frame is the middle one of the annotated event, else the one that Full scores highest.
    """
    model = stage_model(P, "full")
    dataset = clip_dataset(P, "test", model.image_size)
    index_of = {item.key: index for index, item in enumerate(dataset.items)}
    picks: list[Pick] = []
    for error in errors.itertuples():
        clip = measures.load_clip(dataset, index_of[error.key])
        event = clip.seen.tolist() or _highest(P, model, clip, 1)
        heading = f"{short_name(clip.key)}\nmargin {error.margin:+.3f}"
        picks.append((clip, {event[len(event) // 2]: heading}))
    return _gallery(P, picks, title, note)


def real_gallery(P: Params, title: str, note: str) -> Gallery | None:
    """Relevance for the anomaly score of the paper's clips, on the frames that Full scores highest.

    Looks below ``failure_videos`` (empty: the data root, if real) for names that begin with one of
    ``failure_names``. Prints why and returns None if there are none.
    """
    if not P.failure.videos and P.data.world != "vagta":
        print("real clips: skipped, the data are synthetic; set failure_videos to a folder of them")
        return None
    folder = ROOT / P.failure.videos if P.failure.videos else P.data_dir
    names = tuple(P.failure.names)
    videos = {p.stem: p for p in files_below(folder) if is_video(p) and p.stem.startswith(names)}
    if not videos:
        print(f"real clips: skipped, {folder} has none of {', '.join(names)}")
        return None
    model = stage_model(P, "full")
    items = [Item(str(path.relative_to(folder)), "", ()) for path in videos.values()]
    cache = FrameCache(P.cache_dir, model.image_size)
    sampled = P.data.num_frames, cache, P.workers, False, P.data.frame_spacing
    dataset = ClipDataset(folder, items, *sampled)
    picks: list[Pick] = []
    for index in range(len(dataset.items)):
        clip, times = measures.load_clip(dataset, index), dataset[index]["times"]
        frames = _highest(P, model, clip, REAL_FRAMES)
        picks.append((clip, {i: f"{short_name(clip.key)}\n{times[i]:.0f} s" for i in frames}))
    return _gallery(P, picks, title, note)


def _highest(P: Params, model: AlertCLIP, clip: Clip, count: int) -> list[int]:
    """The ``count`` frames of highest score, in temporal order."""
    scores = measures.score(model, [clip], measures.anomaly_direction(P, model)).scores[0]
    return sorted(scores.argsort(descending=True, stable=True)[:count].tolist())


def _gallery(
    P: Params,
    picks: Sequence[Pick],
    title: str,
    note: str,
    towards: Callable[[Params, AlertCLIP], Tensor] = measures.anomaly_direction,
    kinds: Sequence[str] = ("relevance",),
    value: str = "score",
) -> Gallery:
    """Maps of the picked frames along ``towards``, per stage, with ``value`` above each."""
    cells = [[_cell(clip, *shot) for clip, titles in picks for shot in titles.items()]]
    rows, names = [], ["frame"]
    for stage, name in STAGES.items():
        model = stage_model(P, stage)
        direction = towards(P, model)
        map_cells: dict[str, list[Cell]] = {kind: [] for kind in kinds}
        for clip, titles in picks:
            frames, scored = list(titles), measures.score(model, [clip], direction)
            gradients = scored.gradients[0][frames]
            maps = measures.explain(model, clip.frames[frames], gradients, P.evaluation.batch_size)
            for i, (frame, heading) in enumerate(titles.items()):
                one = FrameMaps(*(kind_maps[i : i + 1] for kind_maps in maps))
                base = {"column": len(map_cells[kinds[0]]), "title": heading, "key": clip.key}
                base |= {"model": name, "frame": frame, "score": float(scored.scores[0, frame])}
                base |= {"alpha": float(scored.weights[0, frame])}
                boxed = bool(clip.present[:, frame].any())
                stats = measures.box_measures(one, clip, torch.tensor([frame])) if boxed else {}
                for kind in kinds:
                    cell = _cell(clip, frame, f"{value} {base[value]:.3f}")
                    map_cells[kind].append(cell | {"attention": getattr(one, kind)[0].numpy()})
                    row = {"row": name if len(kinds) == 1 else f"{name} {kind}", "map": kind}
                    row |= {"area": stats.get("area"), "mass": stats.get(f"mass_{kind}")}
                    rows.append(base | row)
        cells += map_cells.values()
        names += [name if len(kinds) == 1 else f"{name}\n{kind}" for kind in kinds]
    return frame_grid(cells, title, note, names), pd.DataFrame(rows)


def _cell(clip: Clip, frame: int, title: str) -> Cell:
    boxes = clip.boxes[clip.present[:, frame], frame].numpy()
    picture = clip.frames[frame].permute(1, 2, 0).numpy()
    return {"frame": picture, "title": title, "boxes": boxes}
