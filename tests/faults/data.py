"""Bad annotations, videos, cache entries and features; disks that are full or read-only."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from test_training import tiny_model
from test_vagta import NORMAL, item, keyframe, qwen, written
from test_video import SIZE, encode, ids, write_ids

from alertclip import checkpoint
from alertclip.clips import ClipDataset
from alertclip.records import Finding, Item, Keyframe, Region
from alertclip.vagta import load_surrogate, load_vagta
from curation.__main__ import find_videos
from detectors.features import read_features
from media.cache import FrameCache, parallel_fill
from media.files import write_json
from media.video import probe, read_frames

from .harness import Case, disk, no_trace, pickle_with_code, refused

LEFT_OUT, CLIP_OUT = (f"{name} left out, the others stay" for name in ("item", "clip"))
WHOLE = "whole frame instead"
STOPS = "stops; nothing torn is left"
FULL, READ_ONLY = r"No space left.*make room", r"cannot be written \((Read-only|Not a dir|File ex)"
NOT_JSON = "not valid UTF-8 JSON"
FILES = [
    ("empty", b"", NOT_JSON),
    ("Latin-1", '[{"video": "Fußball.mp4"}]'.encode("latin-1"), NOT_JSON),
    ("UTF-8 with a byte order mark", b"\xef\xbb\xbf[]", NOT_JSON),
    ("cut in its middle", json.dumps([item()]).encode()[:150], NOT_JSON),
    ("null", b"null", "expected a list"),
]
LEAVES, TIMES = "path leaves the data root", "not two increasing seconds"
GOOD = item(video="MSAD/MSAD_Videos/Normal_Testing/a b.mp4", box_infos=[[]])
FAR_BOX = [[keyframe(bbox=(0, 0, 1e300, 1))]]
ITEMS: list[tuple[str, dict[str, Any], str, str]] = [
    ("path back and out", {"video": "a/../../b.mp4"}, LEAVES, LEFT_OUT),
    ("absolute path", {"video": "/etc/passwd"}, LEAVES, LEFT_OUT),
    ("path with a drive", {"video": "C:\\x.mp4"}, LEAVES, LEFT_OUT),
    ("line break in the path", {"video": "a\nb.mp4"}, "no video path", LEFT_OUT),
    ("blank caption", {"global_caption": " \t"}, "captions missing or not text", LEFT_OUT),
    ("half a surrogate pair", {"global_caption": "\ud800"}, "captions missing", LEFT_OUT),
    ("no captions", {"region_captions": []}, "captions missing", LEFT_OUT),
    ("boxes as an object", {"box_infos": {"0": []}}, "boxes do not match", LEFT_OUT),
    ("negative time", {"timestamps": [-1, 5]}, TIMES, LEFT_OUT),
    ("NaN time", {"timestamps": [float("nan"), 5]}, TIMES, LEFT_OUT),
    ("an empty segment", {"timestamps": [3, 3]}, TIMES, LEFT_OUT),
    ("a segment of 1e308 s", {"timestamps": [0, 1e308]}, "longer than 1800 s: kept", "kept"),
    ("3000 words", {"region_captions": ["word " * 3000]}, "over 20 CLIP tokens: kept", "kept"),
    ("null keyframe", {"box_infos": [[None]]}, "bad box", WHOLE),
    ("coordinates of 1e300", {"box_infos": FAR_BOX}, "outside the frame", WHOLE),
]
ROWS: list[tuple[str, dict[str, Any], str, str, int]] = [
    ("index below 0", {"region_index": -1}, "region_index", "region left out", 1),
    ("no caption", {"region_caption": None}, "no region caption", "region left out", 1),
    ("frames in reverse", {"frames_25": [20, 2]}, "frames_25", "whole clip as its span", 2),
    ("frames NaN", {"frames_25": [float("nan"), 2]}, "frames_25", "whole clip", 2),
]


def summary(rows: list[Finding]) -> str:
    """All reasons and actions of a report."""
    return "; ".join(f"{row.reason}: {row.action}" for row in rows)


def refuse(read: Callable, name: str, make: Callable[[Path], object], folder: Path) -> str:
    """The message that refuses the file written by ``make``."""
    make(folder / name)
    return refused(read, folder / name)


def read(load: Callable, rows: list[dict[str, Any]], kept: int, folder: Path) -> str:
    """The report on rows of which the last is good."""
    content = rows if load is load_vagta else {"items": rows}
    items, report = load(written(folder, content))
    assert len(items) == kept and items[-1].video == rows[-1]["video"]
    return summary(report.rows)


def far_frames(folder: Path) -> str:
    write_ids(folder / "a.mp4")
    track = (Keyframe(10**15, (0, 0, 0.5, 0.5)), Keyframe(int(1e308), (0, 0, 1, 1)))
    items = [Item("a.mp4", "Normal video: a", (Region("a", track),), (1.0, 1e308))]
    dataset = ClipDataset(folder, items, 4, FrameCache(folder / "cache", SIZE), 1, cover=True)
    assert ids(dataset[0]["frames"]) == [31, 33, 36, 39]  # the last is the nearest to the region
    boxes, present, *_ = dataset[0]["regions"][0]
    assert present.tolist() == [False] * 3 + [True] and boxes[3].tolist() == [0, 0, 0.5, 0.5]
    return summary(dataset.notes)


def sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


UNREADABLE: list[tuple[str, Callable[[Path], object], str]] = [
    ("no frame in it", lambda path: encode(path, []), "cannot be decoded .*no video stream"),
    ("sound alone", sound, "cannot be decoded .*no video stream, audio only"),
    ("a folder", Path.mkdir, "no such file"),
    ("a pipe that nobody writes to", os.mkfifo, "no such file"),
    ("empty", Path.touch, "the file is empty"),
]


def size_changes(folder: Path) -> str:
    for k in (1, 4):
        pictures = (np.full((48 * k, 64 * k, 3), 10 + 5 * i, np.uint8) for i in range(6))
        encode(folder / f"{k}.h264", pictures, size=(48 * k, 64 * k))
    (folder / "a.mp4").write_bytes(b"".join((folder / f"{k}.h264").read_bytes() for k in (1, 4)))
    assert ids(read_frames(folder / "a.mp4", range(12), (32, 32))) == [*range(6)] * 2
    return f"{probe(folder / 'a.mp4').frames} frames"


def vanished(folder: Path) -> str:
    path, items = write_ids(folder / "b.mp4", 9), [Item("b.mp4", "Normal: a", (Region("a"),))]
    dataset = ClipDataset(folder, items, 4, FrameCache(folder / "cache", SIZE), 1)
    for file in (*(folder / "cache/frames").iterdir(), path):
        file.unlink()
    return refused(dataset.__getitem__, 0)


def replaced(folder: Path) -> str:
    cache, path = FrameCache(folder / "cache", SIZE), write_ids(folder / "a.mp4", 8)
    before = ids(cache.get(path, [7]))
    write_ids(path, 6)
    assert before == [7] and ids(cache.get(path, [5])) == [5]
    return f"{cache.info(path).frames} frames"


def code_in_cache(folder: Path) -> str:
    cache, path = FrameCache(folder / "cache", SIZE), write_ids(folder / "a.mp4")
    cache.get(path, [3, 9])
    trace = pickle_with_code(cache.file(path, [3, 9]))
    assert ids(cache.get(path, [3, 9])) == [3, 9]
    no_trace(trace)
    return "(nothing)"


def save_stage(folder: Path, step: int = 2) -> None:
    model = tiny_model()
    optimizer = torch.optim.AdamW(checkpoint.trainable(model).values())
    checkpoint.save_checkpoint(folder, step, model, optimizer, torch.device("cpu"), 2)


def fill_cache(folder: Path) -> None:
    path = write_ids(folder.parent / "a.mp4")
    parallel_fill(FrameCache(folder, SIZE), [(path, range(40))], 1)


WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": save_stage,
    "frame cache": fill_cache,
    "JSON": lambda folder: write_json(folder / "a.json", list(range(100_000))),
    "log": lambda folder: checkpoint.append_row(folder, {"row": "x" * 500_000}),
}


def write_on(options: str, write: Callable[[Path], object], folder: Path) -> str:
    """Write to a disk that is too small or read-only: nothing half-written stays on it."""
    with disk(folder / "disk", options) as small:
        message = refused(write, small)
        left = [p for p in small.rglob("*") if p.is_file() and p.name != "log.jsonl"]
        assert not [p for p in left if p.parent.name != "surveys-2"], left
    return message


ONE = np.ones((3, 4), np.float32)
FEATURES: list[tuple[str, Callable[[Path], object], str]] = [
    ("of torch.save", lambda p: torch.save(torch.ones(3, 4), p), "not a readable array"),
    ("objects", lambda p: np.save(p, np.array([ONE, None], object)), "not a readable array"),
    ("of shape (T, 1, D)", lambda p: np.save(p, ONE[:, None]), r"shape \(3, 1, 4\) of float32"),
    ("whole numbers", lambda p: np.save(p, np.ones((3, 4), int)), r"shape \(3, 4\) of int64"),
    ("NaN", lambda p: np.save(p, ONE * [[1], [np.nan], [1]]), r"\(3, 4\), row 1 is not finite"),
    ("1e300", lambda p: np.save(p, np.full((3, 4), 1e300)), r"\(3, 4\), row 0 is not finite"),
]


def read_bad_features(write: Callable[[Path], object], folder: Path) -> str:
    for kind in (np.float16, np.float64):
        np.save(folder / "good.npy", ONE.astype(kind))
        assert read_features(folder / "good.npy").dtype == np.float32
    return refuse(read_features, "a.npy", write, folder)


def linked_clips(folder: Path) -> str:
    """A class folder linked from another disk, with a link to itself inside."""
    (folder / "disk/Fight").mkdir(parents=True)
    (folder / "disk/Fight/a.WMV").touch()
    (folder / "disk/Fight/again").symlink_to(folder / "disk/Fight")
    (folder / "root").mkdir()
    (folder / "root/Fight").symlink_to(folder / "disk/Fight")
    (folder / "root/Normal.mp4").symlink_to(folder / "disk/Fight/a.WMV")
    return " ".join(item.video for item in find_videos(folder / "root"))


CASES = [
    *(Case(f"annotation file: {given}", "file refused", rf"annotations\.json: .*{says}",
           partial(refuse, load_vagta, "annotations.json", partial(Path.write_bytes, data=content)))
      for given, content, says in FILES),
    *(Case(f"annotation item: {given}", done, says,
           partial(read, load_vagta, [item(**changes), GOOD], 1 + (done != LEFT_OUT)))
      for given, changes, says, done in ITEMS),
    *(Case(f"hard-negative row: {given}", done, says,
           partial(read, load_surrogate, [qwen(**changes), qwen(video=NORMAL)], kept))
      for given, changes, says, done, kept in ROWS),
    Case("annotation item: twice, differently", "first one kept", "duplicate item, diff",
         partial(read, load_vagta, [item(), item(global_caption="Fighting: other")], 1)),
    Case("annotation item: ages after its video", "clipped to the video",
         r"^segment ends at \d+\.00 s, its video at 1\.33 s: clipped; region ends [^;]*: clipped$",
         far_frames),
    *(Case(f"video: {given}", CLIP_OUT, f"bad.mp4: {says}", partial(refuse, probe, "bad.mp4", make))
      for given, make, says in UNREADABLE),
    Case("video: changes its size", "read at the size asked for", "12 frames", size_changes),
    Case("video: deleted in training", "training stops", "b.mp4: no such file", vanished),
    Case("video: replaced by another", "decoded anew", "6 frames", replaced),
    Case("frame cache: a pickle with code in it", "decoded again", "", code_in_cache),
]  # fmt: skip
DISKS = [
    *(Case(f"feature file: {given}", "refused by name", rf"a\.npy: .*{says}",
           partial(read_bad_features, write)) for given, write, says in FEATURES),
    Case("folder: links to another disk", "followed", "^Fight/a.WMV Normal.mp4$", linked_clips),
    *(Case(f"disk full: {name}", STOPS, FULL, partial(write_on, "size=64k", write))
      for name, write in WRITERS.items()),
    *(Case(f"read-only folder: {name}", "stops", READ_ONLY, partial(write_on, "ro,size=1m", write))
      for name, write in WRITERS.items()),
]  # fmt: skip
