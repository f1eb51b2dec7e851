"""Training videos of a benchmark with all that training may know: their video-level classes."""

from pathlib import Path
from typing import NamedTuple

from alertclip.errors import InputError
from detectors.benchmarks import Benchmark, ListEntry, fill, read_list
from detectors.event_annotations import read_mask, xd_classes


class WeakVideo(NamedTuple):
    """A training video and its video-level classes; none = normal."""

    path: Path
    classes: tuple[str, ...]


def training_videos(benchmark: Benchmark, root: Path) -> list[WeakVideo]:
    """The training split in list order. Frame-level truth is never read."""
    entries = read_list(benchmark, root, "train")
    return [
        WeakVideo(benchmark.video_path(root, entry.entry), weak_classes(benchmark, root, entry))
        for entry in entries
    ]


def weak_classes(benchmark: Benchmark, root: Path, entry: ListEntry) -> tuple[str, ...]:
    """Video-level classes of a list entry, from its folder or name as the data set gives them.

    ShanghaiTech names none: there "abnormal" is whether the video has an abnormal frame at all.
    """
    if benchmark.annotation_format == "xd":
        codes = {code: name for name, code in benchmark.codes.items()}
        return xd_classes(entry.name, codes, benchmark.normal_class, entry.where)
    if benchmark.annotation_format == "shanghaitech":
        path = root / benchmark.annotation_root / fill(benchmark.annotation_file, entry.entry)
        return ("abnormal",) if read_mask(entry.name, path).is_abnormal else ()
    folders = Path(entry.entry).parts[:-1]
    for name in benchmark.abnormal_classes:
        if name in folders or entry.name.startswith(f"{name}_"):
            return (name,)
    if "normal" not in entry.entry.lower():
        raise InputError(f"{entry.where}: {entry.entry} names neither a class nor normal")
    return ()
