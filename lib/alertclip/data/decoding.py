"""Decoders, run in a process of their own: ``python -m alertclip.data.decoding``.

decord can hang for ever inside native code where no signal and no thread reaches it, so it runs
where it can be killed. Requests are JSON lines on standard input; answers are a JSON line and, for
frames, raw bytes on standard output. Nothing is pickled.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np


def count_frames(path: str) -> dict[str, Any]:
    """Frames that really decode, and the stream's rate and size; containers over-report."""
    import av

    frames = 0
    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        try:
            for _ in container.decode(stream):
                frames += 1
        except av.FFmpegError:
            pass  # a torn end: what came before it is usable
        if not frames or fps <= 0:
            raise ValueError("no decodable video frame")
        return {"frames": frames, "fps": fps, "width": stream.width, "height": stream.height}


def decode_decord(path: str, indices: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Frames by native index with decord, resized inside the decoder: (T, H, W, 3) uint8."""
    import decord

    reader = decord.VideoReader(path, width=size[1], height=size[0], num_threads=1)
    if max(indices) >= len(reader):
        raise IndexError(f"frame {max(indices)} of {len(reader)}")
    return reader.get_batch(list(indices)).asnumpy()


def decode_pyav(path: str, indices: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The same with PyAV, decoding from the start up to the last index."""
    import av

    wanted, last = set(indices), max(indices)
    found: dict[int, np.ndarray] = {}
    with av.open(path) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i in wanted:
                scaled = frame.reformat(width=size[1], height=size[0], format="rgb24")
                found[i] = scaled.to_ndarray()
            if i >= last:
                break
    if len(found) < len(wanted):
        raise IndexError(f"frame {min(wanted - found.keys())} does not decode")
    return np.stack([found[i] for i in indices])


def decode(
    path: str, indices: Sequence[int], size: tuple[int, int], backend: str = "decord"
) -> np.ndarray:
    """Frames (T, H, W, 3) uint8; PyAV serves where decord is missing or fails."""
    if backend == "decord":
        try:
            return decode_decord(path, indices, size)
        except Exception:  # DECORDError is no subclass of anything but Exception
            pass
    return decode_pyav(path, indices, size)


Answer = Callable[[dict[str, Any]], tuple[dict[str, Any], bytes]]
"""A request -> the head of its answer, and the bytes that follow it."""


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    if request["what"] == "count":
        return count_frames(request["path"]), b""
    frames = decode(request["path"], request["indices"], tuple(request["size"]), request["backend"])
    return {"shape": frames.shape}, np.ascontiguousarray(frames, np.uint8).tobytes()


def serve(requests: BinaryIO, answers: BinaryIO, answer: Answer = _answer) -> None:
    """Answer requests until the input ends; a failed one answers with its reason."""
    for line in requests:
        request = json.loads(line)
        _limit(request["limit"])
        try:
            head, body = answer(request)
        except Exception as error:  # every decoder has its own errors: all go to the caller
            head, body = {"error": f"{type(error).__name__}: {error}"}, b""
        answers.write(json.dumps(head).encode() + b"\n" + body)
        answers.flush()
        _limit(None)


def _limit(seconds: float | None) -> None:
    # The caller kills a late worker. Should the caller be gone by then, the kernel ends it: an
    # unhandled alarm needs no Python to run. Windows has no alarm and does without.
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else seconds + 1)


def main(answer: Answer = _answer) -> None:
    """Serve standard input. Decoders print to descriptor 1: the answers keep a copy of it."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, channel, answer)


if __name__ == "__main__":
    main()
