"""Where a training step takes its frames from: disk and time of a clip of the paper's size.

raw        the library's cache: uint8 in a .npy, memory-mapped and copied
jpeg95     the same frames as JPEG of quality 95, one after the other in one file
jpeg75     of quality 75
video      no cache: the frames decoded from the mp4 again

256 frames of 224 x 224 from one rendered video; every contender reads its file twice, and the
second reading counts, so that the disk's own speed does not. `off` is the mean distance of a pixel
from the raw one, of 255.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from harness import answer, interleave, parser, save
from videos import write_video

from media.survey import uniform_indices
from media.video import probe, read_frames

FRAMES, SIZE = 256, (224, 224)
QUALITY = {"jpeg95": 95, "jpeg75": 75}
STORED = ("raw", *QUALITY, "video")


def write_all(folder: Path, native: int) -> dict[str, int]:
    """Write the video and every cached form of its frames; bytes of each."""
    path = write_video(folder / "video.mp4", native, seed=0)
    info = probe(path)
    taken = uniform_indices(0, info.duration, info.fps, info.frames, FRAMES)
    frames = read_frames(path, taken, SIZE)
    np.save(folder / "indices.npy", taken)
    np.save(folder / "raw.npy", frames)
    for name, quality in QUALITY.items():
        flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
        packed = [cv2.imencode(".jpg", frame[..., ::-1], flags)[1] for frame in frames]
        np.save(folder / f"{name}.npy", np.concatenate(packed))
        np.save(folder / f"{name}_ends.npy", np.cumsum([len(part) for part in packed]))
    return {
        name: (path if name == "video" else folder / f"{name}.npy").stat().st_size
        for name in STORED
    }


def read(name: str, folder: Path) -> np.ndarray:
    """The clip's frames (T, H, W, 3) from one of the forms."""
    if name == "video":
        return read_frames(folder / "video.mp4", np.load(folder / "indices.npy"), SIZE)
    stored = np.load(folder / f"{name}.npy", mmap_mode="r")
    if name == "raw":
        return np.array(stored)
    parts = np.split(stored, np.load(folder / f"{name}_ends.npy")[:-1])
    return np.stack([cv2.imdecode(part, cv2.IMREAD_COLOR)[..., ::-1] for part in parts])


def work_of(name: str, folder: Path) -> Callable[[], np.ndarray]:
    """Reading once more what has just been read."""
    cv2.setNumThreads(1)
    read(name, folder)
    return lambda: read(name, folder)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--frames", type=int, default=1808, help="native frames of the video")
    options.add_argument("--folder", type=Path, help="where the files are (set by the script)")
    o = options.parse_args()
    if o.contender:
        answer(o.answer, work_of(o.contender, o.folder), FRAMES)
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_all(Path(folder), o.frames)
        table, outputs = interleave(__file__, STORED, o.repeats, ["--folder", folder])
    off = {n: np.abs(f.astype(int) - outputs["raw"].astype(int)).mean() for n, f in outputs.items()}
    table["megabytes"] = table["contender"].map(sizes) / 1e6
    table["off"] = table["contender"].map(off)
    save(table, "cache", o.out)


if __name__ == "__main__":
    main()
