"""One clip to one H.264 file, and the box track of its event."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from alertclip.files import atomic_write
from miniworld.events import event_frames
from miniworld.plan import FPS, FRAMES, Plan, draw_plan
from miniworld.render import Shot, event_box

ANNOTATION_FPS = 25
KEYFRAME_STEP = 5  # native frames, about 0.6 s
# With more threads, or the encoder's look-ahead, the bits differ from run to run.
ENCODER = {"preset": "veryfast", "tune": "zerolatency", "threads": "1", "crf": "23"}


class Job(NamedTuple):
    """One clip to make."""

    path: str  # inside the world's folder
    split: str
    seed: int
    abnormal: bool
    world_seed: int
    style: str

    def plan(self) -> Plan:
        """The plan this clip shows a twin of."""
        return draw_plan(self.seed, self.split, self.world_seed, self.style)


def relative_path(split: str, seed: int, abnormal: bool, plan: Plan) -> str:
    """Path by the layout of UCF-Crime and MSAD; the number is the seed, unique in a world."""
    testing, name = split == "test", plan.pair.class_name
    if plan.pair.dataset == "MSAD":
        if abnormal:
            return f"MSAD/MSAD_Videos/MSAD_anomaly_videos/{name}/{name}_{seed}.mp4"
        folder = "Normal_Testing" if testing else f"Normal_Training/{plan.scene}"
        return f"MSAD/MSAD_Videos/{folder}/{plan.scene.replace(' ', '_')}_{seed}.mp4"
    file = f"{name}/{name}{seed:05d}"
    if not abnormal:
        split_name, gap = ("Testing", "_") if testing else ("Training", "")
        file = f"{split_name}_Normal_Videos_Anomaly/Normal_Videos{gap}{seed:05d}"
    return f"UCF_Crimes_Videos/UCF_Crimes/Videos/{file}_x264.mp4"


def write_video(
    frames: Sequence[np.ndarray],
    path: Path,
    fps: float,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    layout: str = "rgb24",
) -> None:
    """Write frames, (H, W, 3) uint8 or of another ``layout`` of FFmpeg, as H.264 by libx264."""
    made = [av.VideoFrame.from_ndarray(np.ascontiguousarray(f), format=layout) for f in frames]
    options = ENCODER | (options or {})
    opened = {"options": container_options or {}}
    with atomic_write(path) as temporary, av.open(str(temporary), "w", **opened) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = made[0].width, made[0].height, "yuv420p"
        stream.thread_count = 1
        for frame in made:
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@lru_cache(maxsize=1)
def _opening(clip: Job) -> tuple[Shot, list[np.ndarray]]:
    """What the twins of a clip share: its shot, and their frames before the event."""
    shot = Shot(plan := clip.plan())
    return shot, [_planes(shot, False, frame) for frame in range(plan.start)]


def _planes(shot: Shot, abnormal: bool, frame: int) -> np.ndarray:
    return cv2.cvtColor(shot.frame(abnormal, frame / FPS), cv2.COLOR_RGB2YUV_I420)


def encode(job: Job, path: Path) -> None:
    """Write the clip without B frames: the bits of a frame depend on the past only.

    So twins stay equal before the event after decoding too.
    """
    shot, opening = _opening(job._replace(path="", abnormal=False))
    options = {"bf": "0", "g": "32", "crf": str(23 + round(14 * shot.plan.compression))}
    rest = [_planes(shot, job.abnormal, frame) for frame in range(len(opening), FRAMES)]
    write_video([*opening, *rest], path, FPS, options, layout="yuv420p")


def keyframes(plan: Plan) -> list[dict]:
    """Box track of the abnormal twin on the 1-based 25 fps clock, the last keyframe disabled."""
    start, end = event_frames(plan)
    track = []
    for frame in sorted({*range(start, end, KEYFRAME_STEP), end - 1}):
        if box := event_box(plan, True, frame / FPS):
            clock = round(frame / FPS * ANNOTATION_FPS) + 1
            track.append({"frame": clock, "bbox": list(box), "enabled": True, "_track_id": None})
    last = min(round(end / FPS * ANNOTATION_FPS) + 1, round(FRAMES / FPS * ANNOTATION_FPS))
    track.append({**track[-1], "frame": max(last, track[-1]["frame"] + 1), "enabled": False})
    return track
