"""A video's time axis, read without decoding; run in a ``DecodeWorker``."""

import contextlib
from typing import Any

import numpy as np


def time_axis(path: str) -> dict[str, Any]:
    """Declared number of frames (0 = not stated) and the share of frames missing between others.

    A gap of k times the usual distance of two frames counts k - 1 missing ones. Only the
    timestamps tell, since a player goes on with the next frame it has.
    """
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        declared = stream.frames
        times: list[int] = []
        with contextlib.suppress(av.FFmpegError):  # a torn end: what came before it counts
            for packet in container.demux(stream):
                if packet.pts is not None:
                    times.append(packet.pts)
    return {"declared": declared, "missing": missing_share(times)}


def missing_share(times: list[int]) -> float:
    """Share of frames that the gaps in presentation ``times`` (any unit and order) leave out."""
    steps = np.diff(np.unique(times))
    if not len(steps):
        return 0.0
    lost = np.maximum(np.round(steps / np.median(steps)) - 1, 0).sum()
    return float(lost / (lost + len(steps) + 1))
