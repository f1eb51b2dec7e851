"""Videos in pieces, from one pass of the decoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alertclip.video import DecodeWorker, Facts, existing


@dataclass(frozen=True)
class Piece:
    """Consecutive sampled frames (F, H, W, 3) of a video; its facts come with the last piece."""

    frames: np.ndarray
    facts: Facts | None


class FrameStream:
    """Every n-th frame of a video from the first, in pieces: hours of video fit any memory."""

    def __init__(self, path: Path | str, size: tuple[int, int], worker: DecodeWorker) -> None:
        """Raises DecodeError naming the file; so do the pieces."""
        self.path, self._size, self._worker = existing(path), [int(x) for x in size], worker
        self.promised, _ = worker.ask(self.path, what="declare")

    def pieces(self, stride: int, count: int) -> Iterator[Piece]:
        """Frames 0, ``stride``, 2 ``stride``, ... in pieces of ``count``; the last may hold none.

        One stream at a time per worker.
        """
        how = {"stride": stride, "threads": self._worker.threads}
        what: dict[str, Any] = {"what": "stream", **how}
        piece = None
        while piece is None or piece.facts is None:
            head, body = self._worker.ask(self.path, **what, size=self._size, count=count)
            piece = Piece(np.frombuffer(body, np.uint8).reshape(head["shape"]), head["facts"])
            yield piece
            what = {"what": "more"}
