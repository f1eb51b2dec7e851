"""The public benchmarks (params/benchmarks.yaml): classes, videos, split lists, ground truth."""

import csv
import re
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detectors import event_annotations as events
from media.errors import InputError, nearest
from media.files import files_below, is_video

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as safe, eight times as fast
BENCHMARKS = Path(__file__).resolve().parents[2] / "params" / "benchmarks.yaml"
Split = Literal["train", "val", "test"]
# VadCLIP's csv has feature paths of its author's machine; the video is <folder>/<name>.mp4.
CROP = re.compile(r"^.*?((?:[^/]+/)?[^/]+)__\d+\.npy$")
LABELLED = re.compile(r"(\S+)\s+\d+\s+\d+\s+(\d+)$")  # AnomalyCLIP: path start end label


class Benchmark(BaseModel):
    """One benchmark. Folders are relative to the data root, files to ``annotation_root``.

    Patterns may use {entry} (line of a list), {name} (without folder and suffix) and {scene}.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    video_root: str
    video_pattern: str
    annotation_root: str
    lists: dict[Split, list[str]]
    feature_lists: dict[Split, list[str]] = {}  # VadCLIP's, read if ``lists`` are missing
    annotation_file: str
    annotation_format: Literal["ucf", "xd", "shanghaitech", "ubnormal", "msad"]
    class_annotation_file: str | None = None  # events with a class each
    fps: float = Field(gt=0)
    classes: list[str]  # VadCLIP's order where it has one
    prompts: list[str] = []  # VadCLIP's text per class, in that order
    anomalyclip_classes: list[str] = []  # by AnomalyCLIP's label id
    normal_class: str
    codes: dict[str, str] = {}  # class -> short label
    base: list[str] = []
    novel: list[str] = []
    metric: Literal["AUC", "AP"]
    detection_normal_class: str | None = None
    counts: dict[Split, dict[Literal["abnormal", "normal"], int]] = {}
    class_counts: dict[Split, dict[str, int]] = {}

    @model_validator(mode="after")
    def _check(self) -> "Benchmark":
        listed = [*self.base, *self.novel]
        if self.normal_class not in self.classes:
            raise ValueError("classes must hold normal_class")
        if len(set(listed)) < len(listed) or not set(listed) <= set(self.abnormal_classes):
            raise ValueError("base and novel must be disjoint abnormal classes")
        return self

    @property
    def abnormal_classes(self) -> list[str]:
        """Abnormal classes in the order of ``classes``."""
        return [name for name in self.classes if name != self.normal_class]

    def video_path(self, data_root: Path, entry: str) -> Path:
        """Return the file of the video that a list entry names."""
        folder, matches = data_root / self.video_root, []
        path = folder / fill(self.video_pattern, entry)
        if self.annotation_format == "msad" and not path.exists():  # its list names feature files
            stem = events.video_name(entry).removeprefix("MSAD_normal_")
            matches = [p for p in files_below(folder) if p.stem == stem and is_video(p)]
        return matches[0] if len(matches) == 1 else path

    def list_files(self, data_root: Path, split: Split) -> list[str]:
        """Return the lists of a split, or those of released features if only these exist."""
        videos, folder = self.lists[split], data_root / self.annotation_root
        features = self.feature_lists.get(split, videos)
        exist = [all((folder / file).is_file() for file in files) for files in (videos, features)]
        return features if exist == [False, True] else videos

    def files(self, data_root: Path) -> list[Path]:
        """Return its lists and annotation files, except annotations with a file per video."""
        names = [file for split in self.lists for file in self.list_files(data_root, split)]
        names += filter(None, (self.annotation_file, self.class_annotation_file))
        return [data_root / self.annotation_root / name for name in names if "{" not in name]


class ListEntry(NamedTuple):
    """A list entry: video, path, file and line; classes if rows are "path start end label"."""

    name: str
    entry: str
    where: str
    classes: tuple[str, ...] | None = None


@cache
def load_benchmark(name: str, path: Path | str = BENCHMARKS) -> Benchmark:
    """Read one benchmark; InputError lists the valid names or names the wrong field."""
    entries = yaml.load(Path(path).read_text(encoding="utf-8"), LOADER)
    if name not in entries:
        hint = f"{nearest(name.lower(), entries)} (there are: {', '.join(entries)})"
        raise InputError(f"{path}: no benchmark {name}{hint}")
    try:
        return Benchmark.model_validate({"name": name} | entries[name])
    except ValidationError as error:
        raise InputError(f"{path}, {name}: {error}") from None


def fill(pattern: str, entry: str) -> str:
    """Fill {entry}, {name} and {scene} into a pattern; InputError if it leaves its folder."""
    name, path = events.video_name(entry), PurePosixPath(entry)
    if "{entry}" in pattern and (path.is_absolute() or ".." in path.parts):
        raise InputError(f"{entry}: the list's path leaves the data root; correct the list")
    scene = name.split("_")[2:3]  # UBnormal: abnormal_scene_<k>_scenario_<m>
    if "{scene}" in pattern and not scene:
        raise InputError(f"{name}: no scene in the name, expected <kind>_scene_<k>_...")
    return pattern.format(entry=entry, name=name, scene="".join(scene))


def read_list(benchmark: Benchmark, data_root: Path, split: Split = "test") -> list[ListEntry]:
    """Return the videos of a split in list order, once each if VadCLIP's csv lists crops."""
    if split not in (lists := benchmark.lists):
        raise InputError(f"{benchmark.title} has no {split} split, but {', '.join(lists)}")
    entries: dict[str, ListEntry] = {}
    seen: dict[str, str] = {}
    for file in benchmark.list_files(data_root, split):
        path = data_root / benchmark.annotation_root / file
        for number, line in events.text_lines(path):
            where = f"{path}, line {number}"
            if path.suffix == ".csv":  # VadCLIP's: <folder>/<name>__<crop>.npy,<label>
                line = next(csv.reader([line]))[0]
                if line == "path":
                    continue
                if not line.endswith(".npy"):
                    raise InputError(f"{where}: expected a path ending in .npy and a label")
            classes = None
            if row := LABELLED.match(line):
                line, label, ids = row[1], int(row[2]), benchmark.anomalyclip_classes
                if ids and label >= len(ids):
                    raise InputError(f"{where}: no class {label}; there are {len(ids)}")
                classes = tuple({ids[label]} - {benchmark.normal_class}) if ids else None
            key, entry = events.video_name(line), CROP.sub(r"\1.mp4", line)
            if key in seen:
                raise InputError(f"{where}: {key} stands in {seen[key]} already; keep one")
            seen[key], name = where, events.video_name(entry)
            entries.setdefault(name, ListEntry(name, entry, where, classes))
    return list(entries.values())


def read_truth(
    benchmark: Benchmark, root: Path, by_class: bool = False, snippets: dict[str, int] | None = None
) -> list[events.VideoTruth]:
    """Return the truth of the test videos in list order; InputError if a video has none.

    by_class: XD-Violence with a class per event. snippets: 16-frame snippets per video, for MSAD.
    """
    entries, kind = read_list(benchmark, root), benchmark.annotation_format
    folder, file = root / benchmark.annotation_root, benchmark.annotation_file
    normal = benchmark.normal_class
    if kind == "msad":
        names = [entry.name for entry in entries]
        return events.read_vector(folder / file, names, snippets or {}, benchmark.abnormal_classes)
    if kind in ("shanghaitech", "ubnormal"):
        read = events.read_mask if kind == "shanghaitech" else events.read_tracks
        truths = [(e, read(e.name, folder / fill(file, e.entry))) for e in entries]
        return [replace(t, classes=t.is_abnormal and e.classes or ()) for e, t in truths]
    if kind == "ucf":
        table = events.read_ucf(folder / file, benchmark.classes, normal)
    else:
        class_file = by_class and benchmark.class_annotation_file
        path = folder / (class_file or file)
        table = events.read_xd(path, benchmark.codes, normal, bool(class_file))
        for entry in entries:  # normal videos have no row there
            if not events.xd_classes(entry.name, benchmark.codes, normal, entry.where):
                table.setdefault(entry.name, events.VideoTruth(entry.name, (), (), False))
    for entry in entries:
        if entry.name not in table:
            raise InputError(f"{entry.where}: {entry.name} has no row in {folder / file}")
    return [table[entry.name] for entry in entries]


def training_videos(benchmark: Benchmark, root: Path) -> dict[Path, tuple[str, ...]]:
    """Return the video-level classes of the training split by file; () is normal."""
    lines = read_list(benchmark, root, "train")
    return {benchmark.video_path(root, e.entry): _video_classes(benchmark, root, e) for e in lines}


def list_counts(benchmark: Benchmark, root: Path, split: Split) -> dict[str, int]:
    """Count the abnormal and normal videos in the lists of a split."""
    labels = [_video_classes(benchmark, root, entry) for entry in read_list(benchmark, root, split)]
    return {"abnormal": sum(map(bool, labels)), "normal": labels.count(())}


def _video_classes(benchmark: Benchmark, root: Path, entry: ListEntry) -> tuple[str, ...]:
    """Return the classes by folder or name; ShanghaiTech's masks say if any frame is abnormal."""
    if entry.classes is not None:
        return entry.classes
    if benchmark.annotation_format == "xd":
        return events.xd_classes(entry.name, benchmark.codes, benchmark.normal_class, entry.where)
    if benchmark.annotation_format == "shanghaitech":
        path = root / benchmark.annotation_root / fill(benchmark.annotation_file, entry.entry)
        return ("abnormal",) if events.read_mask(entry.name, path).is_abnormal else ()
    folders = Path(entry.entry).parts[:-1]
    classes = benchmark.abnormal_classes
    matches = [c for c in classes if c in folders or entry.name.startswith(f"{c}_")]
    if not matches and "normal" not in entry.entry.lower():
        raise InputError(f"{entry.where}: {entry.entry} names neither a class nor normal")
    return tuple(matches[:1])
