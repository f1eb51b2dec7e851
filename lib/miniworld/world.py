"""A whole world: which clips it holds, made by worker processes, resumed when interrupted."""

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

from alertclip.errors import InputError
from alertclip.files import locked, progress, read_json, sha256_json, write_json
from miniworld.plan import PAIRS, SEED_ROOM, SEED_START, draw_plan
from miniworld.world_annotations import entries, write_annotations
from miniworld.world_video import Job, make, relative_path

ABNORMAL_SHARE = 0.4  # of the training clips; other splits hold both twins of every pair
VIDEO_ROOTS = ("UCF_Crimes_Videos", "MSAD")


def _kept(pairs: int, abnormal: int) -> set[int]:
    """Which abnormal twins stay: ``abnormal`` of ``pairs``, spread evenly over the classes."""
    order = sorted(range(pairs), key=lambda k: (k % len(PAIRS), k))
    shares = np.arange(pairs + 1) * abnormal // max(1, pairs)
    return {order[rank] for rank in np.flatnonzero(np.diff(shares))}


def clip_jobs(split: str, count: int, style: str, seed: int) -> list[Job]:
    """The ``count`` clips of a split, twins next to each other."""
    abnormal = round(count * ABNORMAL_SHARE) if split == "train" else count // 2
    pairs = count - abnormal
    if pairs > SEED_ROOM[split]:
        raise InputError(f"{split}={count}: at most {SEED_ROOM[split]} pairs; ask for fewer clips")
    jobs, kept = [], _kept(pairs, abnormal)
    for k in range(pairs):
        number = SEED_START[split] + k
        plan = draw_plan(number, split, seed, style)
        for twin in (False, True) if k in kept else (False,):
            path = relative_path(split, number, twin, plan)
            jobs.append(Job(path, split, number, twin, seed, style))
    return jobs


# No clip depends on these.
NOT_DRAWING = ("stills.py", "planted_faults.py", "prior.py", "mini_models.py")


def _identity(**params: Any) -> dict[str, Any]:
    """What a world is: its parameters, and the code and libraries that draw and write clips."""
    versions = {"av": av.__version__, "cv2": cv2.__version__, "numpy": np.__version__}
    files = sorted(Path(__file__).parent.glob("*.py"))
    code = b"".join(path.read_bytes() for path in files if path.name not in NOT_DRAWING)
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


def _make_and_describe(root: Path, job: Job) -> tuple[dict, dict, dict]:
    make(root, job)
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
            work = parallel(partial(_make_and_describe, out), jobs, workers)
            made = list(zip(jobs, progress(work, len(jobs), "rendering clips"), strict=True))
            write_annotations(out, made)
            write_json(out / "world.json", {**identity, "complete": True})
    return out / "world.json"
