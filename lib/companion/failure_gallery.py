"""Frames with maps over them: one clip and a caption, the worst errors, the paper's real clips.

Rules choose what is shown, never the eye: the clip of median score, the errors of largest margin,
the frames of highest score. A gallery is a figure, with frames in a row and below them a row per
model and map, and its table with a line per map: column, title, key, model, frame, score of the
frame, alpha (its temporal weight), row, map, and where a box is, its area and the mass inside.
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
Pick = tuple[Clip, dict[int, str]]  # a clip, and of its shown frames the title above each
Gallery = tuple[Figure, pd.DataFrame]


def worst_errors(result: StageResult, count: int) -> pd.DataFrame:
    """The abnormal clips of lowest margin ("missed") and the normal ones of highest.

    Ties go by name. Columns: error, key, class_name, margin, passed_by = share of the other class
    on the wrong side of the clip.
    """
    clips, margins, parts = result.clips, result.margins, []
    table = pd.DataFrame({"key": clips.keys, "class_name": clips.classes, "margin": margins})
    for error, label, sign in (("missed", 1, 1), ("false alarm", 0, -1)):
        other, own = margins[clips.labels != label], table[clips.labels == label]
        own = own.sort_values(["margin", "key"], ascending=[label == 1, True]).head(count)
        passed = [(sign * other > sign * margin).mean() for margin in own["margin"]]
        parts.append(own.assign(error=error, passed_by=passed))
    return pd.concat(parts, ignore_index=True)[["error", *table.columns, "passed_by"]]


def degraded_frames(P: Params, clip: Clip) -> tuple[list[list[Cell]], pd.DataFrame]:
    """The middle frame of a clip's event at every level: a row per step, a column per kind.

    The table has a line for each: kind, title, unit, step, level.
    """
    number, rows = int(clip.seen[len(clip.seen) // 2]), []
    cells: defaultdict[int, dict[str, Cell]] = defaultdict(dict)
    for kind, step, level in measures.all_steps(P.failure.levels):
        how = DEGRADATIONS[kind]
        title = f"{level:g}" if step else f"{how.title}\n{fill(how.unit, 20)}"
        cells[step][kind] = _cell(degrade(clip, kind, level, P.seed), number, title)
        rows.append((kind, how.title, how.unit, step, level))
    grid = [[row.get(kind, {}) for kind in P.failure.levels] for row in cells.values()]
    return grid, pd.DataFrame(rows, columns=["kind", "title", "unit", "step", "level"])


def caption_gallery(P: Params, result: StageResult, note: str) -> Gallery:
    """One clip frame by frame: rollout, and relevance for its own region caption, per stage.

    Of the abnormal clips with boxes, the one of median margin in ``result`` (of two the lower).
    """
    dataset = clip_dataset(P, "test", stage_model(P, "full").image_size)
    margins = dict(zip(result.clips.keys, result.margins, strict=True))
    located = sorted(
        (margins[item.key], item.key, number)
        for number, item in enumerate(dataset.items)
        if item.is_abnormal and any(region.track for region in item.regions)
    )
    number = located[(len(located) - 1) // 2][2]
    clip = measures.load_clip(dataset, number)
    caption = next(region.caption for region in dataset.items[number].regions if region.track)
    real = clip.mask.nonzero().flatten()
    places = np.linspace(0, len(real) - 1, min(COLUMNS, len(real))).round().astype(int)
    pick = (clip, {frame: f"frame {frame + 1}" for frame in real[places].tolist()})

    def towards(P: Params, model: AlertCLIP) -> Tensor:
        with torch.no_grad():
            return model.encode_text([caption])[0]

    texts = f"Maps of one clip for: {caption}", note
    return _gallery(P, [pick], *texts, towards, FrameMaps._fields, "alpha")


def error_gallery(P: Params, errors: pd.DataFrame, title: str, note: str) -> Gallery:
    """Relevance for the anomaly score of each error, a column per clip and a row per stage.

    The frame is the middle one of the annotated event, else that of highest score in Full.
    """
    model = stage_model(P, "full")
    dataset = clip_dataset(P, "test", model.image_size)
    place = {item.key: number for number, item in enumerate(dataset.items)}
    picks: list[Pick] = []
    for error in errors.itertuples():
        clip = measures.load_clip(dataset, place[error.key])
        event = clip.seen.tolist() or _highest(P, model, clip, 1)
        above = f"{short_name(clip.key)}\nmargin {error.margin:+.3f}"
        picks.append((clip, {event[len(event) // 2]: above}))
    return _gallery(P, picks, title, note)


def real_gallery(P: Params, title: str, note: str) -> Gallery | None:
    """The same for the paper's clips: of each, the frames that the tuned model scores highest.

    Looks below ``failure_videos`` (empty: the data root, if real) for names that begin with one of
    ``failure_names``. Without any, prints why and returns None.
    """
    if not P.failure.videos and P.data.world != "vagta":
        print("real clips: skipped, the data are synthetic; set failure_videos to a folder of them")
        return None
    folder = ROOT / P.failure.videos if P.failure.videos else P.data_dir
    names = tuple(P.failure.names)
    found = {p.stem: p for p in files_below(folder) if is_video(p) and p.stem.startswith(names)}
    if not found:
        print(f"real clips: skipped, {folder} has none of {', '.join(names)}")
        return None
    model = stage_model(P, "full")
    items = [Item(str(path.relative_to(folder)), "", ()) for path in found.values()]
    cache = FrameCache(P.cache_dir, model.image_size)
    sampled = P.data.num_frames, cache, P.workers, False, P.data.frame_spacing
    dataset = ClipDataset(folder, items, *sampled)
    picks: list[Pick] = []
    for number in range(len(dataset.items)):
        clip, times = measures.load_clip(dataset, number), dataset[number]["times"]
        best = _highest(P, model, clip, REAL_FRAMES)
        picks.append((clip, {i: f"{short_name(clip.key)}\n{times[i]:.0f} s" for i in best}))
    return _gallery(P, picks, title, note)


def _highest(P: Params, model: AlertCLIP, clip: Clip, count: int) -> list[int]:
    """The ``count`` frames of highest score, in order of time."""
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
    """Maps of the picked frames along ``towards`` for every stage, ``value`` written above each."""
    cells = [[_cell(clip, *shot) for clip, titles in picks for shot in titles.items()]]
    rows, names = [], ["frame"]
    for stage, name in STAGES.items():
        model = stage_model(P, stage)
        direction = towards(P, model)
        shown: dict[str, list[Cell]] = {kind: [] for kind in kinds}
        for clip, titles in picks:
            frames, scored = list(titles), measures.score(model, [clip], direction)
            along = scored.gradients[0][frames]
            maps = measures.explain(model, clip.frames[frames], along, P.evaluation.batch_size)
            for i, (frame, above) in enumerate(titles.items()):
                one = FrameMaps(*(part[i : i + 1] for part in maps))
                base = {"column": len(shown[kinds[0]]), "title": above, "key": clip.key}
                base |= {"model": name, "frame": frame, "score": float(scored.scores[0, frame])}
                base |= {"alpha": float(scored.weights[0, frame])}
                boxed = bool(clip.present[:, frame].any())
                found = measures.box_measures(one, clip, torch.tensor([frame])) if boxed else {}
                for kind in kinds:
                    cell = _cell(clip, frame, f"{value} {base[value]:.3f}")
                    shown[kind].append(cell | {"attention": getattr(one, kind)[0].numpy()})
                    row = {"row": name if len(kinds) == 1 else f"{name} {kind}", "map": kind}
                    row |= {"area": found.get("area"), "mass": found.get(f"mass_{kind}")}
                    rows.append(base | row)
        cells += shown.values()
        names += [name if len(kinds) == 1 else f"{name}\n{kind}" for kind in kinds]
    return frame_grid(cells, title, note, names), pd.DataFrame(rows)


def _cell(clip: Clip, frame: int, title: str) -> Cell:
    boxes = clip.boxes[clip.present[:, frame], frame].numpy()
    picture = clip.frames[frame].permute(1, 2, 0).numpy()
    return {"frame": picture, "title": title, "boxes": boxes}
