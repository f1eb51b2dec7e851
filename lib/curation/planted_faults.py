"""Known faults planted into copies of a world's clips, to measure how well a screening finds them.

The kinds are those the Alert-CLIP paper removes (supplementary A.3, Fig. 3): duplicates, wrong
class, weak event, corruption. The world itself is only read; the copies are real video files.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import av
import cv2
import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.files import atomic_write, progress, read_json, sha256_file, sha256_json, write_json
from alertclip.records import Item, box_at, region_span
from alertclip.video import probe, read_frames

CLEAN = "clean"
COPIES = ("exact copy", "re-encoded copy", "cropped copy", "brighter copy")  # original stays too
LABELS = ("wrong class", "wrong polarity")  # content untouched, filed under another class
EVENTS = ("late event", "faint event")  # need an annotated event
FAULTS = (*COPIES, *LABELS, *EVENTS, "truncated", "frozen", "blurred", "dark", "blocks")


class Job(NamedTuple):
    """One file to write: ``video`` (path below the folder) made from ``source`` by ``kind``."""

    video: str
    source: Item
    kind: str
    seed: int


def plant(
    root: Path, items: Sequence[Item], out: Path, clean: int, each: int, seed: int, workers: int = 2
) -> pd.DataFrame:
    """Write ``clean`` untouched clips and ``each`` of every fault to ``out``; returns planted.csv.

    Columns video, kind, source, true_class, class_name (as filed). The clean clips are whole pairs
    of neighbours in ``items`` (in the mini world: twins, which share a scene and a beginning but
    not the event); a faulty clip's source is not among them, but that of a copy is. The same
    arguments give the same files; a complete folder is reused.
    """
    jobs = _jobs(items, clean, each, seed)
    content = [(job.video, job.source.key, job.kind, job.seed) for job in jobs]
    made_by = {"code": sha256_file(__file__), "av": av.__version__, "cv2": cv2.__version__}
    identity = sha256_json([content, made_by, str(root)])
    mark = out / "planted.json"
    if not mark.exists() or read_json(mark) != identity:
        if out.exists() and any(out.iterdir()) and not mark.exists():
            raise InputError(f"{out}: holds other files; choose another folder")
        shutil.rmtree(out, ignore_errors=True)
        write_json(mark, "incomplete")
        _write_all(root, out, jobs, workers)
        _table(jobs).to_csv(out / "planted.csv", index=False)
        write_json(mark, identity)
    return pd.read_csv(out / "planted.csv")


def planted_items(table: pd.DataFrame) -> list[Item]:
    """The planted files as items without annotations, in the table's order."""
    return [Item(video, "", ()) for video in table["video"]]


def _jobs(items: Sequence[Item], clean: int, each: int, seed: int) -> list[Job]:
    """Clean clips first, then the faulty ones in random order: a copy comes after its original."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(len(items) // 2)
    order = [items[2 * pair + twin] for pair in pairs for twin in (0, 1)]
    kept, spare = order[:clean], order[clean:]
    folders = {item.class_name: PurePosixPath(item.video).parent for item in items}
    jobs = [Job(item.video, item, CLEAN, 0) for item in kept]
    faulty = []
    for kind in FAULTS:
        sources = _sources(kind, kept, spare, each, rng)
        for source in sources:
            number = len(faulty) + 1
            folder = _folder(kind, source, folders, rng)
            name = f"{PurePosixPath(source.video).stem}_{seed}{number:04d}.mp4"
            faulty.append(Job(str(folder / name), source, kind, number))
    return jobs + [faulty[i] for i in rng.permutation(len(faulty))]


def _sources(
    kind: str, kept: Sequence[Item], spare: list[Item], each: int, rng: np.random.Generator
) -> list[Item]:
    """``each`` clips a fault can be planted into; taken out of ``spare`` unless it is a copy."""
    events = kind in (*EVENTS, "wrong class")
    pool = [item for item in (kept if kind in COPIES else spare) if item.is_abnormal or not events]
    if len(pool) < each:
        raise InputError(f"{kind}: {each} clips asked for, {len(pool)} left; plant fewer")
    chosen = [pool[i] for i in rng.permutation(len(pool))[:each]]
    if kind not in COPIES:
        for item in chosen:
            spare.remove(item)
    return chosen


def _folder(
    kind: str, source: Item, folders: dict[str, PurePosixPath], rng: np.random.Generator
) -> PurePosixPath:
    """Where the clip is filed: the folder of another class for a fault of the label."""
    if kind not in LABELS:
        return PurePosixPath(source.video).parent
    if kind == "wrong polarity" and source.is_abnormal:
        return folders["Normal"]
    others = sorted(set(folders) - {"Normal", source.class_name})
    return folders[others[rng.integers(len(others))]]


def _table(jobs: Sequence[Job]) -> pd.DataFrame:
    rows = [
        {
            "video": job.video,
            "kind": job.kind,
            "source": job.source.video,
            "true_class": job.source.class_name,
            "class_name": Item(job.video, "", ()).class_name,
        }
        for job in jobs
    ]
    return pd.DataFrame(rows)


def _write_all(root: Path, out: Path, jobs: Sequence[Job], workers: int) -> None:
    with ThreadPoolExecutor(max(1, workers)) as threads:
        work = threads.map(lambda job: _write(root, out / job.video, job), jobs)
        for _ in progress(work, len(jobs), "planting faults"):
            pass


def _write(root: Path, target: Path, job: Job) -> None:
    source = root / job.source.video
    target.parent.mkdir(parents=True, exist_ok=True)
    if job.kind in (CLEAN, "exact copy", *LABELS):
        shutil.copyfile(source, target)
        return
    info = probe(source)
    frames = read_frames(source, range(info.frames), (info.height, info.width), backend="pyav")
    rng = np.random.default_rng([job.seed, info.frames])
    changed = list(CHANGES.get(job.kind, _same)(frames, job.source, info.fps, rng))
    whole = {"movflags": "faststart"} if job.seed % 2 else {}
    encode(changed, target, info.fps, ENCODING.get(job.kind, {}), whole)
    if job.kind == "truncated":  # the index stands first in every second file: its start decodes
        data = target.read_bytes()
        target.write_bytes(data[: int(len(data) * rng.uniform(0.25, 0.5))])


def encode(
    frames: Sequence[np.ndarray],
    path: Path,
    fps: float,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> None:
    """Write frames (T, H, W, 3) uint8 as H.264; ``options`` go to the encoder (libx264)."""
    height, width = frames[0].shape[:2]
    # With more threads, or the encoder's look-ahead, the bits differ from run to run.
    chosen = {"preset": "veryfast", "crf": "23", "threads": "1", "tune": "zerolatency"}
    chosen |= options or {}
    with (
        atomic_write(path) as temporary,
        av.open(str(temporary), "w", options=container_options or {}) as container,
    ):
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=chosen)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image))))
        container.mux(stream.encode())


Change = Callable[[np.ndarray, Item, float, np.random.Generator], Iterator[np.ndarray]]


def _same(
    frames: np.ndarray, item: Item, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    yield from frames


def _cropped(
    frames: np.ndarray, item: Item, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    height, width = frames.shape[1:3]
    top, bottom, left, right = rng.uniform(0.02, 0.08, 4)
    rows = slice(int(top * height), int((1 - bottom) * height))
    columns = slice(int(left * width), int((1 - right) * width))
    yield from (cv2.resize(frame[rows, columns], (width, height)) for frame in frames)


def _brighter(
    frames: np.ndarray, item: Item, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    gain, offset = rng.uniform(1.1, 1.3), rng.uniform(0, 20)
    yield from (cv2.convertScaleAbs(frame, alpha=gain, beta=offset) for frame in frames)


def _late(
    frames: np.ndarray, item: Item, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The clip ends half a second into its event."""
    start = region_span(item.regions[0])[0]
    yield from frames[: max(2, round((start + 0.5) * fps))]


def _faint(
    frames: np.ndarray, item: Item, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Four fifths of the event's box are the empty scene: the pixels' median over time."""
    empty = np.median(frames, axis=0)
    height, width = frames.shape[1:3]
    for i, frame in enumerate(frames):
        box = box_at(item.regions[0].track, i / fps)
        shown = frame.copy()
        if box is not None:
            x1, y1, x2, y2 = (np.array(box) * [width, height, width, height]).astype(int)
            part = np.s_[y1 : y2 + 1, x1 : x2 + 1]
            shown[part] = (0.2 * frame[part] + 0.8 * empty[part]).astype(np.uint8)
        yield shown


def _frozen(
    frames: np.ndarray, item: Item, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """One frame stands still for the last 60 to 80 per cent."""
    last = int(rng.uniform(0.2, 0.4) * len(frames))
    yield from (frames[min(i, last)] for i in range(len(frames)))


def _blurred(
    frames: np.ndarray, item: Item, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    sigma = rng.uniform(0.012, 0.025) * frames.shape[1]
    yield from (cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames)


def _dark(
    frames: np.ndarray, item: Item, fps: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    gain = rng.uniform(0.05, 0.15)
    yield from (cv2.convertScaleAbs(frame, alpha=gain) for frame in frames)


CHANGES: dict[str, Change] = {
    "cropped copy": _cropped,
    "brighter copy": _brighter,
    "late event": _late,
    "faint event": _faint,
    "frozen": _frozen,
    "blurred": _blurred,
    "dark": _dark,
}
ENCODING = {
    "re-encoded copy": {"crf": "32"},
    "blocks": {"crf": "51", "x264-params": "no-deblock=1"},
}
