"""Bad videos, and bad entries of the frame cache."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image
from test_video import SIZE, encode, ids, write_ids

from alertclip.cache import FrameCache
from alertclip.clips import ClipDataset
from alertclip.records import Item, Region
from alertclip.video import probe, read_frames

from .harness import Case, no_trace, pickle_with_code, refused

LEFT_OUT, AGAIN = "clip left out, the others stay", "decoded again"


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
    ("a web page", lambda path: path.write_text("<html>" * 99), "cannot be decoded"),
]


def unreadable(given: str, make: Callable[[Path], object], says: str) -> Case:
    def run(folder: Path) -> str:
        make(folder / "bad.mp4")
        return refused(probe, folder / "bad.mp4")

    return Case(f"video: {given}", LEFT_OUT, f"bad.mp4: {says}", run)


def clips(folder: Path, name: str) -> ClipDataset:
    write_ids(folder / "good.mp4")
    items = [Item(n, "Normal video: a", (Region("a"),)) for n in ("good.mp4", name)]
    return ClipDataset(folder, items, 4, FrameCache(folder / "cache", SIZE), 1)


def linked_to_itself(folder: Path) -> str:
    (folder / "bad.mp4").symlink_to(folder / "bad.mp4")
    dataset = clips(folder, "bad.mp4")
    assert [item.video for item in dataset.items] == ["good.mp4"]
    return dataset.failures[0].reason


def size_changes(folder: Path) -> str:
    for k in (1, 4):
        pictures = (np.full((48 * k, 64 * k, 3), 10 + 5 * i, np.uint8) for i in range(6))
        encode(folder / f"{k}.h264", pictures, size=(48 * k, 64 * k))
    (folder / "a.mp4").write_bytes(b"".join((folder / f"{k}.h264").read_bytes() for k in (1, 4)))
    assert ids(read_frames(folder / "a.mp4", range(12), (32, 32))) == [*range(6)] * 2
    return f"{probe(folder / 'a.mp4').frames} frames"


def picture(folder: Path) -> str:
    Image.new("RGB", (64, 48)).save(folder / "a.mp4", "png")
    return f"{probe(folder / 'a.mp4').frames} frame"


def vanished(folder: Path) -> str:
    write_ids(folder / "b.mp4", 9)
    dataset = clips(folder, "b.mp4")
    for file in (*(folder / "cache/frames").iterdir(), folder / "b.mp4"):
        file.unlink()
    return refused(dataset.__getitem__, 1)


def replaced(folder: Path) -> str:
    cache, path = FrameCache(folder / "cache", SIZE), write_ids(folder / "a.mp4", 8)
    before = ids(cache.get(path, [7]))
    write_ids(path, 6)
    assert before == [7] and ids(cache.get(path, [5])) == [5]
    return f"{cache.info(path).frames} frames"


def cache_case(given: str, damage: Callable[[Path], object]) -> Case:
    def run(folder: Path) -> str:
        cache, path = FrameCache(folder / "cache", SIZE), write_ids(folder / "a.mp4")
        cache.get(path, [3, 9])
        trace = damage(cache.file(path, [3, 9]))
        assert ids(cache.get(path, [3, 9])) == [3, 9]
        no_trace(trace)
        return "(nothing)"

    return Case(f"frame cache: {given}", AGAIN, "", run)


CASES = [
    *(unreadable(*row) for row in UNREADABLE),
    Case("video: a link to itself", LEFT_OUT, "bad.mp4: no such file", linked_to_itself),
    Case("video: changes its size", "read at the size asked for", "12 frames", size_changes),
    Case("video: a still picture", "read as one frame", "1 frame", picture),
    Case("video: deleted in training", "training stops", "b.mp4: no such file", vanished),
    Case("video: replaced by another", "decoded anew", "6 frames", replaced),
    cache_case("a pickle with code in it", pickle_with_code),
]  # fmt: skip
