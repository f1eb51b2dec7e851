"""Records of annotated clips, and the report of every quirk met while reading them."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from alertclip.files import atomic_write

CLOCK = 25.0  # frames per second of the annotation clock, not of the videos
Box = tuple[float, float, float, float]  # normalised x1 y1 x2 y2


@dataclass(frozen=True)
class Keyframe:
    """A drawn box; ``frame`` is 1-based on the 25-fps clock. Not enabled: the track ends here."""

    frame: int
    box: Box
    enabled: bool = True


@dataclass(frozen=True)
class Region:
    """A region caption with its box track; an empty track is the whole frame.

    ``span`` (s) bounds the region where only its times are known (see ``vagta.load_surrogate``).
    """

    caption: str
    track: tuple[Keyframe, ...] = ()
    hard_negatives: tuple[str, ...] = ()
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Item:
    """One clip: a video or, with ``timestamps`` (s), a segment of it."""

    video: str
    global_caption: str
    regions: tuple[Region, ...]
    timestamps: tuple[float, float] | None = None
    surrogate: tuple[str, ...] = ()

    @property
    def class_name(self) -> str:
        """Class from the path, "Normal" for normal videos."""
        folder = PurePosixPath(self.video).parent
        if "Normal" in folder.name or "Normal" in folder.parent.name:
            return "Normal"
        return folder.name

    @property
    def is_abnormal(self) -> bool:
        """True for videos of an abnormal class."""
        return self.class_name != "Normal"

    @property
    def dataset(self) -> str:
        """Source dataset, from the root of the path."""
        return "MSAD" if self.video.startswith("MSAD") else "UCF-Crime"

    @property
    def key(self) -> str:
        """Unique name: the video and, for a segment, its times after #."""
        return item_key(self.video, self.timestamps)


def item_key(video: str, timestamps: tuple[float, float] | None) -> str:
    """Name of a clip: its video and, for a segment, "#start-end" in s."""
    return video if timestamps is None else "{}#{:.10g}-{:.10g}".format(video, *timestamps)


@dataclass(frozen=True)
class Finding:
    """One quirk of one item, and what was done about it."""

    item: str
    reason: str
    action: str


@dataclass
class Report:
    """Everything that was noticed; nothing is dropped without a row here."""

    rows: list[Finding] = field(default_factory=list)

    def add(self, item: str, reason: str, action: str) -> None:
        """Note one quirk."""
        self.rows.append(Finding(item, reason, action))

    def counts(self) -> Counter:
        """Number of findings per reason."""
        return Counter(row.reason for row in self.rows)

    def to_csv(self, path: Path) -> None:
        """Write item, reason, action, one row per finding."""
        with atomic_write(path) as temporary:
            pd.DataFrame(self.rows, columns=["item", "reason", "action"]).to_csv(
                temporary, index=False
            )
