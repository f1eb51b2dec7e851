"""Known faults planted into copies of a world's clips or hard negatives, to measure screening.

The clips' faults are those for which Alert-CLIP removes clips (supplementary A.3, Fig. 3):
duplicates, wrong class, weak event, corruption. The world itself is only read.
"""

import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import av
import cv2
import numpy as np
import pandas as pd

from alertclip.records import Item, box_at, item_key, region_span
from media.errors import InputError
from media.files import progress, read_json, sha256_file, sha256_json, write_json
from media.video import probe, read_frames
from miniworld import world

CLEAN = "clean"
COPIES = ("exact copy", "re-encoded copy", "cropped copy", "brighter copy")  # beside the original
LABELS = ("wrong class", "wrong polarity")  # the same content, filed under another class
EVENTS = ("late event", "faint event")  # need an annotated event
FAULTS = (*COPIES, *LABELS, *EVENTS, "truncated", "frozen", "blurred", "dark", "blocks")
ENCODING = {
    "re-encoded copy": {"crf": "32"},
    "blocks": {"crf": "51", "x264-params": "no-deblock=1"},
}

TEXT_FAULTS = ("missing", "over-long", "not English", "repeated", "equal to the positive",
               "cut off", "fantastical", "wrong polarity")  # fmt: skip
LONG_TAIL = ", seen by a fixed camera high up on a wall at some distance from everybody in view"
ACTS = ("floating in mid-air", "turning into statues", "glowing in the dark")
FOREIGN = "穿梭"  # "shuttle to and fro", found in eight of VAGTA's captions


class Job(NamedTuple):
    """One file to write: ``video`` (relative path), a copy of ``source`` with a fault ``kind``."""

    video: str
    source: Item
    kind: str
    seed: int


def plant(
    root: Path, items: Sequence[Item], out: Path, clean: int, each: int, seed: int, workers: int = 2
) -> pd.DataFrame:
    """Write ``clean`` untouched clips and ``each`` of every fault to ``out``; returns planted.csv.

    Columns video, kind, source, true_class, class_name (as filed). Clean clips are pairs of
    neighbours in ``items`` (in the mini world twins: same scene and beginning, another event).
    Copies are made of clean clips, other faults of the rest. The same arguments give the same
    files; a complete folder is reused.
    """
    jobs = _jobs(items, clean, each, seed)
    plan = [(job.video, job.source.key, job.kind, job.seed) for job in jobs]
    code = [sha256_file(file) for file in (__file__, world.__file__)]
    identity = sha256_json([plan, code, av.__version__, cv2.__version__, str(root)])
    mark = out / "planted.json"
    if not mark.exists() or read_json(mark) != identity:
        if out.exists() and any(out.iterdir()) and not mark.exists():
            raise InputError(f"{out}: holds other files; choose another folder")
        shutil.rmtree(out, ignore_errors=True)
        write_json(mark, "incomplete")
        with ThreadPoolExecutor(max(1, workers)) as threads:
            work = threads.map(lambda job: _write(root, out / job.video, job), jobs)
            list(progress(work, len(jobs), "planting faults"))
        rows = [(job.video, job.kind, job.source.video, job.source.class_name) for job in jobs]
        table = pd.DataFrame(rows, columns=["video", "kind", "source", "true_class"])
        table["class_name"] = table["video"].map(_class)
        table.to_csv(out / "planted.csv", index=False)
        write_json(mark, identity)
    return pd.read_csv(out / "planted.csv")


def _jobs(items: Sequence[Item], clean: int, each: int, seed: int) -> list[Job]:
    """Clean clips first, then the faulty ones in random order: a copy follows its original."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(len(items) // 2)
    order = [items[2 * pair + twin] for pair in pairs for twin in (0, 1)]
    kept, spare = order[:clean], order[clean:]
    folders = {item.class_name: PurePosixPath(item.video).parent for item in items}
    jobs = [Job(item.video, item, CLEAN, 0) for item in kept]
    faulty = []
    for kind in FAULTS:
        for source in _sources(kind, kept, spare, each, rng):
            folder, number = PurePosixPath(source.video).parent, len(faulty) + 1
            if kind == "wrong polarity" and source.is_abnormal:
                folder = folders["Normal"]
            elif kind in LABELS:
                others = sorted(set(folders) - {"Normal", source.class_name})
                folder = folders[others[rng.integers(len(others))]]
            name = f"{PurePosixPath(source.video).stem}_{seed}{number:04d}.mp4"
            faulty.append(Job(str(folder / name), source, kind, number))
    return jobs + [faulty[i] for i in rng.permutation(len(faulty))]


def _sources(
    kind: str, kept: Sequence[Item], spare: list[Item], each: int, rng: np.random.Generator
) -> list[Item]:
    """Draw ``each`` clips for a fault: copies from ``kept``, others removed from ``spare``."""
    abnormal_only = kind in (*EVENTS, "wrong class")
    pool = kept if kind in COPIES else spare
    pool = [item for item in pool if item.is_abnormal or not abnormal_only]
    if len(pool) < each:
        raise InputError(f"{kind}: {each} clips asked for, {len(pool)} left; plant fewer")
    chosen = [pool[i] for i in rng.permutation(len(pool))[:each]]
    if kind not in COPIES:
        spare[:] = [item for item in spare if item not in chosen]
    return chosen


def _write(root: Path, target: Path, job: Job) -> None:
    source = root / job.source.video
    target.parent.mkdir(parents=True, exist_ok=True)
    if job.kind in (CLEAN, "exact copy", *LABELS):
        shutil.copyfile(source, target)
        return
    info = probe(source)
    frames = read_frames(source, range(info.frames), (info.height, info.width))
    rng = np.random.default_rng([job.seed, info.frames])
    whole = {"movflags": "faststart"} if job.seed % 2 else {}
    changed = list(_changed(job, frames, info.fps, rng))
    world.write_video(changed, target, info.fps, ENCODING.get(job.kind), whole)
    if job.kind == "truncated":  # the index stands first in every second file: its start decodes
        data = target.read_bytes()
        target.write_bytes(data[: int(len(data) * rng.uniform(0.25, 0.5))])


def _changed(
    job: Job, frames: np.ndarray, fps: float, rng: np.random.Generator
) -> Iterable[np.ndarray]:
    """The frames (T, H, W, 3) with the fault of a job."""
    height, width = frames.shape[1:3]
    if job.kind == "cropped copy":
        top, bottom, left, right = rng.uniform(0.02, 0.08, 4)
        rows = slice(int(top * height), int((1 - bottom) * height))
        columns = slice(int(left * width), int((1 - right) * width))
        return [cv2.resize(frame[rows, columns], (width, height)) for frame in frames]
    if job.kind == "brighter copy":
        gain, offset = rng.uniform(1.1, 1.3), rng.uniform(0, 20)
        return [cv2.convertScaleAbs(frame, alpha=gain, beta=offset) for frame in frames]
    if job.kind == "late event":  # the clip ends half a second into its event
        start = region_span(job.source.regions[0])[0]
        return frames[: max(2, round((start + 0.5) * fps))]
    if job.kind == "faint event":
        return _faint(job.source, frames, fps)
    if job.kind == "frozen":  # for the last 60 to 80 % of the clip
        last = int(rng.uniform(0.2, 0.4) * len(frames))
        return [frames[min(i, last)] for i in range(len(frames))]
    if job.kind == "blurred":
        sigma = rng.uniform(0.012, 0.025) * height
        return [cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames]
    if job.kind == "dark":
        gain = rng.uniform(0.05, 0.15)
        return [cv2.convertScaleAbs(frame, alpha=gain) for frame in frames]
    return frames  # the fault is in the encoding or the cut-off file


def _faint(item: Item, frames: np.ndarray, fps: float) -> Iterable[np.ndarray]:
    """The event's box blended at 20 % over the empty scene, the median of the frames over time."""
    empty = np.median(frames, axis=0)
    height, width = frames.shape[1:3]
    for i, frame in enumerate(frames):
        box = box_at(item.regions[0].track, i / fps)
        blended = frame.copy()
        if box is not None:
            x1, y1, x2, y2 = (np.array(box) * [width, height, width, height]).astype(int)
            part = np.s_[y1 : y2 + 1, x1 : x2 + 1]
            blended[part] = (0.2 * frame[part] + 0.8 * empty[part]).astype(np.uint8)
        yield blended


def plant_text_faults(path_in: Path, path_out: Path, share: float, seed: int) -> pd.DataFrame:
    """Write a copy of a hard-negative file with faults in a random ``share`` of its regions.

    TEXT_FAULTS take turns; each affects all negatives of its region ("repeated": all but the
    first). "wrong polarity" uses captions of other regions of the same class, which keep the
    polarity. Returns key, position, kind, before, after (empty for "missing").
    """
    content = read_json(path_in)
    regions, rng, rows = content["items"], np.random.default_rng(seed), []
    faulty: dict[int, list[str]] = {}
    chosen = rng.permutation(len(regions))[: round(share * len(regions))]
    for number, index in enumerate(chosen):
        region, kind = regions[index], TEXT_FAULTS[number % len(TEXT_FAULTS)]
        before = region["hard_negative"] or []
        faulty[index] = after = _with_fault(kind, region, regions, rng)
        span = region["timestamps"] and tuple(region["timestamps"])
        key = f"{item_key(region['video'], span)} region {region['region_index']}"
        for position, texts in enumerate(zip(before, after or [""] * len(before), strict=True)):
            if not (kind == "repeated" and position == 0):
                rows.append((key, position, kind, *texts))
    for index, texts in faulty.items():
        regions[index]["hard_negative"] = texts
    write_json(path_out, content)
    return pd.DataFrame(rows, columns=["key", "position", "kind", "before", "after"])


def _with_fault(
    kind: str, region: dict, regions: Sequence[dict], rng: np.random.Generator
) -> list[str]:
    """The negatives of a region, each with the fault ``kind``."""
    texts, caption = region["hard_negative"] or [], region["region_caption"]
    if kind == "wrong polarity":
        name = _class(region["video"])
        captions = {r["region_caption"] for r in regions if _class(r["video"]) == name}
        others = sorted(captions - {caption}) or [caption]
        return [others[i] for i in rng.integers(len(others), size=len(texts))]
    return {
        "missing": [],
        "over-long": [text.rstrip(".") + LONG_TAIL for text in texts],
        "not English": [text.replace(" ", f"{FOREIGN} ", 1) for text in texts],
        "cut off": [" ".join(text.split()[:-2]) for text in texts],
        "repeated": texts[:1] * len(texts),
        "equal to the positive": [caption] * len(texts),
        "fantastical": [f"{caption.rstrip('.')} while {act}" for act in ACTS[: len(texts)]],
    }[kind]


def _class(video: str) -> str:
    return Item(video, "", ()).class_name
