"""Hours of video through ``alertclip.score``: does memory stay flat, and how fast is it?

One minute is rendered and repeated without encoding it again, ``--hours`` long. Memory is the
resident set of this process and of its decoder, read while the video is scored.
"""

import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pandas as pd
import psutil
import torch
from harness import parser, save
from videos import RATE, write_video

from alertclip.anomaly_curve import embed_prompts, score_video
from alertclip.backbone import load_backbone
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from companion.profiles import PROFILES

MINUTE = 60 * RATE  # frames


def repeat(source: Path, times: int, out: Path) -> Path:
    """The packets of ``source``, over and over."""
    with av.open(str(out), "w") as container:
        with av.open(str(source)) as first:
            copy = container.add_stream_from_template(first.streams.video[0])
        for number in range(times):
            with av.open(str(source)) as again:
                stream = again.streams.video[0]
                for packet in again.demux(stream):
                    if packet.dts is not None:
                        packet.pts += number * stream.duration
                        packet.dts += number * stream.duration
                        packet.stream = copy
                        container.mux(packet)
    return out


class Watch(threading.Thread):
    """Reads the resident memory of this process and of its children, five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.rows: list[dict[str, float]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        """Until ``ended`` is set."""
        own, began = psutil.Process(), time.perf_counter()
        while not self.ended.wait(0.2):
            decoders = sum(_resident(child) for child in own.children())
            row = {"own_gb": own.memory_info().rss / 1e9, "decoder_gb": decoders / 1e9}
            self.rows.append({"seconds": time.perf_counter() - began} | row)


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="miniclip")
    options.add_argument("--hours", type=float, default=1.0)
    o = options.parse_args()
    torch.manual_seed(0)
    model = AlertCLIP(load_backbone(o.backbone)).eval()
    prompts = embed_prompts(model, load_prompts(PROFILES / "prompts.yaml"))
    with TemporaryDirectory() as made:
        minute = write_video(Path(made) / "minute.mp4", MINUTE, seed=0)
        video = repeat(minute, round(60 * o.hours), Path(made) / "hours.mp4")
        watch = Watch()
        watch.start()
        began = time.perf_counter()
        curve = score_video(model, video, prompts)
        seconds = time.perf_counter() - began
        watch.ended.set()
    table = pd.DataFrame(watch.rows)
    tenths = [
        table[table["seconds"] <= share * seconds].iloc[-1] for share in np.arange(1, 11) / 10
    ]
    rows = pd.DataFrame(tenths).assign(
        tenth=range(1, 11), frames=curve.n_frames, sampled=len(curve.scores), total_s=seconds
    )
    save(rows.assign(hours=o.hours, backbone=o.backbone), "hours", o.out)


if __name__ == "__main__":
    main()
