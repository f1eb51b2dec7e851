"""Videos of a surveillance camera's format: 320 x 240 H.264, 30 frames/s, a key frame in 250."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np

from miniworld.plan import FPS, FRAMES, HEIGHT, SEEDS, WIDTH, draw_plan
from miniworld.render import Shot

RATE = 30


def scenes(seed: int) -> Iterator[np.ndarray]:
    """Rendered frames (240, 320, 3), scene after scene."""
    number = SEEDS["test"].start + 1000 * seed
    while True:
        shot = Shot(draw_plan(number, "test"))
        yield from (shot.frame(number % 2 == 1, frame / FPS) for frame in range(FRAMES))
        number += 1


def write_video(path: Path, frames: int, seed: int) -> Path:
    """Render ``frames`` frames into ``path``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in islice(scenes(seed), frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_videos(folder: Path, count: int, frames: int) -> list[Path]:
    """``count`` different videos of ``frames`` frames."""
    return [write_video(folder / f"video{i}.mp4", frames, i) for i in range(count)]
