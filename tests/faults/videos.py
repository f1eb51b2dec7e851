"""Bad videos, and bad entries of the frame cache."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from test_video import FRAMES, SIZE, ids, write_ids

from alertclip import video
from alertclip.cache import FrameCache
from alertclip.clips import ClipDataset
from alertclip.records import Item, Region
from alertclip.video import probe, read_frames

from .case import Case, pickle_with_code, refused

LEFT_OUT, AGAIN = "clip left out, the others stay", "decoded again"


def encode(path: Path, size: tuple[int, int], form: str | None = None) -> bytes:
    """Six frames of growing grey."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for i in range(6):
            picture = np.full((*size, 3), 10 + 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def changed_size(path: Path) -> None:
    """A stream that goes on at four times the size."""
    parts = [encode(path.with_suffix(".h264"), (k * 48, k * 64), "h264") for k in (1, 4)]
    path.write_bytes(b"".join(parts))


def no_frames(path: Path) -> None:
    """A container with a video stream and nothing in it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        container.start_encoding()


def sound(path: Path) -> None:
    """A container with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def dangling(path: Path) -> None:
    """A link to nothing."""
    path.symlink_to(path.with_name("gone.mp4"))


def clips(folder: Path, name: str) -> ClipDataset:
    """A data set of a good clip and the one called ``name``."""
    write_ids(folder / "good.mp4")
    items = [Item(n, "Normal video: a", (Region("a"),)) for n in ("good.mp4", name)]
    return ClipDataset(folder, items, 4, FrameCache(folder / "cache", SIZE), 1)


def left_out(given: str, make: Callable[[Path], object], says: str, name: str = "bad.mp4") -> Case:
    """A video that no decoder can read."""

    def run(folder: Path) -> str:
        make(folder / name)
        return refused(probe, folder / name)

    return Case(f"video: {given}", LEFT_OUT, says, run)


def linked_to_itself(folder: Path) -> str:
    """A link that never arrives, among good clips."""
    (folder / "bad.mp4").symlink_to(folder / "bad.mp4")
    dataset = clips(folder, "bad.mp4")
    assert [item.video for item in dataset.items] == ["good.mp4"]
    return dataset.failures[0].reason


def size_changes(folder: Path) -> str:
    """Frames before and after the change come out alike."""
    changed_size(folder / "a.mp4")
    info = probe(folder / "a.mp4")
    for backend in ("decord", "pyav"):
        assert ids(read_frames(folder / "a.mp4", range(12), (32, 32), backend)) == [*range(6)] * 2
    return f"{info.frames} frames"


def picture(folder: Path) -> str:
    """A still picture under a video's name."""
    with av.open(str(folder / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "rgb24"
        grey = np.full((*SIZE, 3), 10, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
    (folder / "a.png").rename(folder / "a.mp4")
    return f"{probe(folder / 'a.mp4').frames} frame"


def vanished(folder: Path) -> str:
    """A video deleted, with its cache, while training goes on."""
    dataset = clips(folder, "b.mp4") if write_ids(folder / "b.mp4", 9) else None
    for file in (folder / "cache/frames").iterdir():
        file.unlink()
    (folder / "b.mp4").unlink()
    return refused(dataset.__getitem__, 1)


def replaced(folder: Path) -> str:
    """Another video under a name whose frames are cached."""
    cache, path = FrameCache(folder / "cache", SIZE), write_ids(folder / "a.mp4", 8)
    before = ids(cache.get(path, [7]))
    encode(path, SIZE)
    assert before == [7] and ids(cache.get(path, [5])) == [5]
    return f"{cache.info(path).frames} frames"


def cache_case(given: str, damage: Callable[[Path], object]) -> Case:
    """A cache entry that is not what it was."""

    def run(folder: Path) -> str:
        cache, path = FrameCache(folder / "cache", SIZE), write_ids(folder / "a.mp4")
        entry = cache.file(path, [3, 9])
        cache.get(path, [3, 9])
        trace = damage(entry)
        assert ids(cache.get(path, [3, 9])) == [3, 9]
        assert not (isinstance(trace, Path) and trace.exists())
        return "(nothing)"

    return Case(f"frame cache: {given}", AGAIN, "", run)


def torn_sidecar(folder: Path) -> str:
    """Remembered frame counts cut short."""
    path, store = write_ids(folder / "a.mp4"), folder / "store"
    probe(path, store)
    for file in store.iterdir():
        file.write_bytes(file.read_bytes()[:20])
    video._known.clear()
    assert probe(path, store).frames == FRAMES
    return "(nothing)"


CASES = [
    Case("video: changes its size", "read at the size asked for", "12 frames", size_changes),
    Case("video: a still picture", "read as one frame", "1 frame", picture),
    left_out("no frame in it", no_frames, "bad.mp4: cannot be decoded .*no video stream"),
    left_out("sound alone", sound, "bad.mp4: cannot be decoded .*no video stream"),
    left_out("a folder", Path.mkdir, "bad.mp4: no such file"),
    left_out("a pipe that nobody writes to", os.mkfifo, "bad.mp4: no such file"),
    left_out("a link to nothing", dangling, "bad.mp4: no such file"),
    Case("video: a link to itself", LEFT_OUT, "bad.mp4: no such file", linked_to_itself),
    left_out("empty", Path.touch, "bad.mp4: the file is empty"),
    left_out("zeros", lambda path: path.write_bytes(bytes(9999)), "bad.mp4: cannot be decoded"),
    left_out("a web page", lambda p: p.write_text("<html>" * 99), "bad.mp4: cannot be decoded"),
    left_out("a name of 4000 letters", lambda path: None, "cannot be opened", "x" * 4000),
    Case("video: deleted in training", "training stops", "b.mp4: no such file", vanished),
    Case("video: replaced by another", "decoded anew", "6 frames", replaced),
    cache_case("cut short", lambda entry: os.truncate(entry, 5000)),
    cache_case("empty", lambda entry: os.truncate(entry, 0)),
    cache_case("a pickle with code in it", pickle_with_code),
    Case("frame cache: torn frame counts", "counted again", "", torn_sidecar),
]
