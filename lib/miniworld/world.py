"""A whole world: its clips and annotation files, made by worker processes, resumed if interrupted.

The annotation files have the schemas of VAGTA and UCF-Crime.
"""

import hashlib
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.files import atomic_write, locked, progress, read_json, sha256_json, write_json
from miniworld.captions import describe
from miniworld.events import event_frames, event_of
from miniworld.plan import DIALS, FACTS_FILE, FPS, PAIRS, SECONDS, SEED_ROOM, SEED_START, draw_plan
from miniworld.world_video import Job, encode, keyframes, relative_path

ABNORMAL_SHARE = 0.4  # of the training clips; other splits hold both twins of every pair
VIDEO_ROOTS = ("UCF_Crimes_Videos", "MSAD")
NOT_DRAWING = ("stills.py", "planted_faults.py", "prior.py")  # no clip depends on these
Entries = tuple[dict, dict, dict]


def clip_jobs(split: str, count: int, style: str, seed: int) -> list[Job]:
    """The ``count`` clips of a split, twins next to each other."""
    abnormal = round(count * ABNORMAL_SHARE) if split == "train" else count // 2
    pairs = count - abnormal
    if pairs > SEED_ROOM[split]:
        raise InputError(f"{split}={count}: at most {SEED_ROOM[split]} pairs; ask for fewer clips")
    # The abnormal twins that stay are spread evenly over the classes.
    order = sorted(range(pairs), key=lambda k: (k % len(PAIRS), k))
    shares = np.arange(pairs + 1) * abnormal // max(1, pairs)
    kept, jobs = {order[rank] for rank in np.flatnonzero(np.diff(shares))}, []
    for k in range(pairs):
        number = SEED_START[split] + k
        plan = draw_plan(number, split, seed, style)
        for twin in (False, True) if k in kept else (False,):
            path = relative_path(split, number, twin, plan)
            jobs.append(Job(path, split, number, twin, seed, style))
    return jobs


def entries(job: Job) -> Entries:
    """Test-schema item, hard-negative item and clips.csv row of a clip."""
    plan = job.plan()
    caption, region, negatives = describe(plan, job.abnormal, job.split)
    track = keyframes(plan) if job.abnormal else []
    start, end = event_frames(plan)
    ucf_normal = not job.abnormal and plan.pair.dataset == "UCF-Crime"
    timestamps = [0.0, SECONDS] if ucf_normal else None
    item = {
        "video": job.path,
        "global_caption": caption,
        "region_captions": [region],
        "box_infos": [track],
        "timestamps": timestamps,
    }
    hard = {
        "video": job.path,
        "region_index": 0,
        "frames_25": [track[0]["frame"], track[-1]["frame"]] if track else None,
        "region_caption": region,
        "hard_negative": negatives,
        "timestamps": timestamps,
    }
    row = {
        "video": job.path,
        "split": job.split,
        "pair": plan.pair.event,
        "twin": event_of(plan, job.abnormal),
        "class_name": plan.pair.class_name if job.abnormal else "Normal",
        "label": int(job.abnormal),
        "scene": plan.scene,
        "seed": plan.seed,
        "event_start_s": start / FPS,
        "event_end_s": end / FPS,
        **{dial: round(getattr(plan, dial), 4) for dial in DIALS},
        "difficulty": plan.difficulty,
        "style": plan.style,
    }
    return item, hard, row


def write_annotations(root: Path, made: Sequence[Entries]) -> None:
    """All annotation files of a world, from the ``entries`` of its clips."""
    lines, files = "", {}
    for *_, row in made:  # native frames, end exclusive, -1 where there is none
        seconds = row["event_start_s"], row["event_end_s"]
        start, end = (int(second * FPS) if row["label"] else -1 for second in seconds)
        name = Path(row["video"]).name
        lines += f"{name}  {row['class_name']}  {start}  {end}  -1  -1  \n"
    files["Temporal_Anomaly_Annotation.txt"] = lines
    for split in ("train", "dev", "test"):
        part = [parts for parts in made if parts[2]["split"] == split]
        write_json(root / f"vagta_{split}.json", [item for item, _, _ in part])
        meta = {"meta_file": f"vagta_{split}.json", "model": "template", "created_at": 0}
        negatives = [hard for _, hard, _ in part]
        write_json(root / f"hard_negatives_{split}.json", {**meta, "items": negatives})
        files[f"{split}.txt"] = "".join(f"{row['video']}\n" for _, _, row in part)
    table = pd.DataFrame([row for _, _, row in made])
    files["clips.csv"] = table.to_csv(index=False, lineterminator="\r\n")
    for name, text in files.items():
        with atomic_write(root / name) as temporary:
            temporary.write_bytes(text.encode())


def _identity(**params: Any) -> dict[str, Any]:
    """What a world is: its parameters, and the code and libraries that draw and write clips."""
    versions = {"av": av.__version__, "cv2": cv2.__version__, "numpy": np.__version__}
    files = [p for p in sorted(Path(__file__).parent.glob("*.py")) if p.name not in NOT_DRAWING]
    code = b"".join(path.read_bytes() for path in [*files, FACTS_FILE])
    identity = {"generator": "miniworld", "params": params, "versions": versions}
    identity["source"] = hashlib.sha256(code).hexdigest()
    return {**identity, "hash": sha256_json(identity)}


def _prepare(out: Path, identity: dict[str, Any]) -> bool:
    """True if ``out`` already holds this world, complete; else make it ready for (more) clips."""
    mark = out / "world.json"
    if not mark.exists():
        if any((out / root).exists() for root in VIDEO_ROOTS):
            raise InputError(f"{out}: holds videos but no world.json; choose another folder")
    else:
        found = read_json(mark)
        if found.get("generator") != identity["generator"]:
            raise InputError(f"{mark}: not written by the mini world; choose another folder")
        if found.get("hash") == identity["hash"]:
            return bool(found["complete"])
        for root in VIDEO_ROOTS:  # another world's clips, made by this generator
            shutil.rmtree(out / root, ignore_errors=True)
        for text in out.glob("*.json"):  # an interrupted rendering must not pass for complete
            text.unlink()
    write_json(mark, {**identity, "complete": False})
    return False


def _make(root: Path, job: Job) -> Entries:
    """Render a clip, unless an earlier, interrupted run did, and describe it."""
    cv2.setNumThreads(1)
    if not (path := root / job.path).exists():
        encode(job, path)
    return entries(job)


def parallel(function: Any, items: Sequence[Any], workers: int) -> Iterator[Any]:
    """``map`` over processes that keeps order; in this process for one worker."""
    if workers <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside torch's threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(function, items, chunksize=max(1, min(16, len(items) // 64)))


def generate(
    out: Path, train: int, dev: int, test: int, style: str = "flat", seed: int = 0, workers: int = 2
) -> Path:
    """Render a world of train + dev + test clips into ``out``; returns its world.json.

    A complete world of the same parameters, code and library versions is reused; an interrupted
    one is resumed clip by clip. dev and test are even: both twins of every pair. The train clips
    are 40 % abnormal. Raises InputError for odd counts or a folder that holds other data.
    """
    out = Path(out)
    if dev % 2 or test % 2 or min(train, dev, test) < 0 or train + dev + test == 0:
        raise InputError(f"train={train} dev={dev} test={test}: dev and test must be even, >= 0")
    counts = {"train": train, "dev": dev, "test": test}
    jobs = [job for split, n in counts.items() for job in clip_jobs(split, n, style, seed)]
    identity = _identity(**counts, style=style, seed=seed)
    with locked(out.with_name(f".{out.name}.lock")):  # profiles share worlds
        if not _prepare(out, identity):
            work = parallel(partial(_make, out), jobs, workers)
            write_annotations(out, list(progress(work, len(jobs), "rendering clips")))
            write_json(out / "world.json", {**identity, "complete": True})
    return out / "world.json"
