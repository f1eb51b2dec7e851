"""A whole world: its clips and its annotation files, in the formats of VAGTA and UCF-Crime.

Worker processes render the clips; an interrupted run is resumed.
"""

import hashlib
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pandas as pd

from media.errors import InputError
from media.files import atomic_write, locked, progress, read_json, sha256_json, write_json
from miniworld.captions import describe
from miniworld.events import event_frames, event_of
from miniworld.plan import DIALS, FACTS_FILE, FPS, FRAMES, PAIRS, SEEDS, Plan, draw_plan
from miniworld.render import Shot, event_box

ABNORMAL_SHARE = 0.4  # of the training clips; other splits hold both twins of every pair
VIDEO_ROOTS = ("UCF_Crimes_Videos", "MSAD")
NOT_DRAWING = ("stills.py", "planted_faults.py", "prior.py")  # no clip depends on these
ANNOTATION_FPS = 25
KEYFRAME_STEP = 5  # native frames, about 0.6 s
# With more threads, or the encoder's look-ahead, the bits differ from run to run.
ENCODER = {"preset": "veryfast", "tune": "zerolatency", "threads": "1", "crf": "23"}
Entries = tuple[dict, dict, dict]


class Job(NamedTuple):
    """One clip to render."""

    path: str  # inside the world's folder
    split: str
    seed: int
    abnormal: bool
    world_seed: int
    style: str

    def plan(self) -> Plan:
        """The plan of the clip's pair of twins."""
        return draw_plan(self.seed, self.split, self.world_seed, self.style)


def relative_path(split: str, seed: int, abnormal: bool, plan: Plan) -> str:
    """Path in the layout of UCF-Crime or MSAD; the number in the file name is the seed."""
    testing, name = split == "test", plan.pair.class_name
    if plan.pair.dataset == "MSAD":
        if abnormal:
            return f"MSAD/MSAD_Videos/MSAD_anomaly_videos/{name}/{name}_{seed}.mp4"
        folder = "Normal_Testing" if testing else f"Normal_Training/{plan.scene}"
        return f"MSAD/MSAD_Videos/{folder}/{plan.scene.replace(' ', '_')}_{seed}.mp4"
    file = f"{name}/{name}{seed:05d}"
    if not abnormal:
        folder, gap = ("Testing", "_") if testing else ("Training", "")
        file = f"{folder}_Normal_Videos_Anomaly/Normal_Videos{gap}{seed:05d}"
    return f"UCF_Crimes_Videos/UCF_Crimes/Videos/{file}_x264.mp4"


def write_video(
    frames: Sequence[np.ndarray],
    path: Path,
    fps: float,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    layout: str = "rgb24",
) -> None:
    """Write frames, (H, W, 3) uint8 or in another FFmpeg ``layout``, as H.264 by libx264."""
    arrays = map(np.ascontiguousarray, frames)
    images = [av.VideoFrame.from_numpy_buffer(array, format=layout) for array in arrays]
    options, muxer = ENCODER | (options or {}), {"options": container_options or {}}
    with atomic_write(path) as temporary, av.open(str(temporary), "w", **muxer) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = images[0].width, images[0].height, "yuv420p"
        stream.thread_count = 1
        for image in images:
            container.mux(stream.encode(image))
        container.mux(stream.encode())


@lru_cache(maxsize=1)
def _opening(clip: Job) -> tuple[Shot, list[np.ndarray]]:
    """What a clip shares with its twin: the shot and the frames before the event."""
    plan = clip.plan()
    shot = Shot(plan)
    return shot, [_planes(shot, False, frame) for frame in range(plan.start)]


def _planes(shot: Shot, abnormal: bool, frame: int) -> np.ndarray:
    return cv2.cvtColor(shot.frame(abnormal, frame / FPS), cv2.COLOR_RGB2YUV_I420)


def encode(job: Job, path: Path) -> None:
    """Write the clip without B frames, which would make frames before the event depend on it."""
    shot, opening = _opening(job._replace(path="", abnormal=False))
    options = {"bf": "0", "g": "32", "crf": str(23 + round(14 * shot.plan.compression))}
    rest = [_planes(shot, job.abnormal, frame) for frame in range(len(opening), FRAMES)]
    write_video([*opening, *rest], path, FPS, options, layout="yuv420p")


def keyframes(plan: Plan) -> list[dict]:
    """Box track of the abnormal twin on the 1-based 25 fps clock; the last keyframe is disabled."""
    start, end = event_frames(plan)
    track = []
    for frame in sorted({*range(start, end, KEYFRAME_STEP), end - 1}):
        if box := event_box(plan, True, frame / FPS):
            clock = round(frame / FPS * ANNOTATION_FPS) + 1
            track.append({"frame": clock, "bbox": list(box), "enabled": True, "_track_id": None})
    last = min(round(end / FPS * ANNOTATION_FPS) + 1, round(FRAMES / FPS * ANNOTATION_FPS))
    track.append({**track[-1], "frame": max(last, track[-1]["frame"] + 1), "enabled": False})
    return track


def clip_jobs(split: str, count: int, style: str, seed: int) -> list[Job]:
    """The ``count`` clips of a split, twins next to each other."""
    pairs, abnormal = _pairs(split, count)
    # The abnormal twins that are kept are spread evenly over the classes.
    order = sorted(range(pairs), key=lambda k: (k % len(PAIRS), k))
    shares = np.arange(pairs + 1) * abnormal // max(1, pairs)
    kept, jobs = {order[rank] for rank in np.flatnonzero(np.diff(shares))}, []
    for k, number in enumerate(SEEDS[split][:pairs]):
        plan = draw_plan(number, split, seed, style)
        for twin in (False, True) if k in kept else (False,):
            path = relative_path(split, number, twin, plan)
            jobs.append(Job(path, split, number, twin, seed, style))
    return jobs


def _pairs(split: str, count: int) -> tuple[int, int]:
    """Numbers of pairs and of abnormal clips in ``count`` clips; InputError if too many pairs."""
    abnormal = round(count * ABNORMAL_SHARE) if split == "train" else count // 2
    pairs, room = count - abnormal, len(SEEDS[split])
    if pairs > room:
        raise InputError(f"{split}={count}: at most {room} pairs; ask for fewer clips")
    return pairs, abnormal


def entries(job: Job) -> Entries:
    """Annotation item (VAGTA's test schema), hard-negative item and clips.csv row of a clip."""
    plan = job.plan()
    caption, region, negatives = describe(plan, job.abnormal, job.split)
    track = keyframes(plan) if job.abnormal else []
    start, end = event_frames(plan)
    ucf_normal = not job.abnormal and plan.pair.dataset == "UCF-Crime"
    timestamps = [0.0, FRAMES / FPS] if ucf_normal else None
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
    """Write all annotation files of a world from the ``entries`` of its clips."""
    lines, files = "", {}
    for *_, row in made:  # native frames, end exclusive; -1: no event
        seconds = row["event_start_s"], row["event_end_s"]
        start, end = (int(second * FPS) if row["label"] else -1 for second in seconds)
        name = Path(row["video"]).name
        lines += f"{name}  {row['class_name']}  {start}  {end}  -1  -1  \n"
    files["Temporal_Anomaly_Annotation.txt"] = lines
    for split in ("train", "dev", "test"):
        clips = [clip for clip in made if clip[2]["split"] == split]
        write_json(root / f"vagta_{split}.json", [item for item, _, _ in clips])
        meta = {"meta_file": f"vagta_{split}.json", "model": "template", "created_at": 0}
        negatives = [hard for _, hard, _ in clips]
        write_json(root / f"hard_negatives_{split}.json", {**meta, "items": negatives})
        files[f"{split}.txt"] = "".join(f"{row['video']}\n" for _, _, row in clips)
    table = pd.DataFrame([row for _, _, row in made])
    files["clips.csv"] = table.to_csv(index=False, lineterminator="\r\n")
    for name, text in files.items():
        with atomic_write(root / name) as temporary:
            temporary.write_bytes(text.encode())


def _identity(**params: Any) -> dict[str, Any]:
    """What determines a world: its parameters, the code that renders it, and library versions."""
    versions = {"av": av.__version__, "cv2": cv2.__version__, "numpy": np.__version__}
    files = [p for p in sorted(Path(__file__).parent.glob("*.py")) if p.name not in NOT_DRAWING]
    code = b"".join(path.read_bytes() for path in [*files, FACTS_FILE])
    identity = {"generator": "miniworld", "params": params, "versions": versions}
    identity["source"] = hashlib.sha256(code).hexdigest()
    return {**identity, "hash": sha256_json(identity)}


def _prepare(out: Path, identity: dict[str, Any]) -> bool:
    """Whether ``out`` already holds this complete world; if not, prepare it for (more) clips."""
    mark = out / "world.json"
    if not mark.exists():
        if any((out / root).exists() for root in VIDEO_ROOTS):
            raise InputError(f"{out}: holds videos but no world.json; choose another folder")
    else:
        previous = read_json(mark)
        if previous.get("generator") != identity["generator"]:
            raise InputError(f"{mark}: not written by the mini world; choose another folder")
        if previous.get("hash") == identity["hash"]:
            return bool(previous["complete"])
        for root in VIDEO_ROOTS:  # clips of another mini world
            shutil.rmtree(out / root, ignore_errors=True)
        for annotation in out.glob("*.json"):  # else an interrupted run would look complete
            annotation.unlink()
    write_json(mark, {**identity, "complete": False})
    return False


def _make(root: Path, job: Job) -> Entries:
    """Render a clip unless an interrupted run already has; returns its entries."""
    cv2.setNumThreads(1)
    if not (path := root / job.path).exists():
        encode(job, path)
    return entries(job)


def parallel(function: Any, items: Sequence[Any], workers: int) -> Iterator[Any]:
    """``map`` over processes, in order; one worker means this process."""
    if workers <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe with torch's threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(function, items, chunksize=max(1, min(16, len(items) // 64)))


def generate(
    out: Path, train: int, dev: int, test: int, style: str = "flat", seed: int = 0, workers: int = 2
) -> Path:
    """Render a world of train + dev + test clips into ``out``; returns its world.json.

    A complete world of the same parameters, code and library versions is reused; an interrupted
    one is resumed clip by clip. dev and test hold both twins of every pair; 40 % of the train
    clips are abnormal. Raises InputError for odd dev or test or a folder that holds other data.
    """
    out = Path(out)
    if dev % 2 or test % 2 or min(train, dev, test) < 0 or train + dev + test == 0:
        raise InputError(f"train={train} dev={dev} test={test}: dev and test must be even, >= 0")
    counts = {"train": train, "dev": dev, "test": test}
    for split, count in counts.items():
        _pairs(split, count)  # before another world is deleted
    identity = _identity(**counts, style=style, seed=seed)
    with locked(out.with_name(f".{out.name}.lock")):  # profiles share worlds
        if not _prepare(out, identity):
            jobs = [job for split, n in counts.items() for job in clip_jobs(split, n, style, seed)]
            work = parallel(partial(_make, out), jobs, workers)
            write_annotations(out, list(progress(work, len(jobs), "rendering clips")))
            write_json(out / "world.json", {**identity, "complete": True})
    return out / "world.json"
