"""Temporal ground truth of the public benchmarks, one reader per annotation format.

Events are in native frames, end-exclusive. Names have neither folder nor suffix and must match
exactly. Readers accept the CRLF, byte-order marks and blank lines of published copies. InputError
names the line of a row that is malformed, repeated or contradicts its video's label.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from media.errors import InputError
from media.files import is_video

Span = tuple[int, int]
SNIPPET = 16  # frames per feature in VadCLIP, RTFM and MSAD


@dataclass(frozen=True)
class VideoTruth:
    """Events of one video: spans (start, end) in native frames, end-exclusive."""

    name: str
    classes: tuple[str, ...]  # empty if the video is normal or the annotation names no class
    spans: tuple[Span, ...]
    is_abnormal: bool
    span_classes: tuple[str, ...] = ()  # class of each span; by default the video's first
    frames: int = 0  # length of a frame-wise annotation, else 0

    def __post_init__(self) -> None:
        if not self.span_classes:
            object.__setattr__(self, "span_classes", self.classes[:1] * len(self.spans))


def frame_truth(truth: VideoTruth, n_frames: int) -> np.ndarray:
    """Return abnormal frames, (n_frames,) bool; events are cut at the end of the video."""
    frames = np.zeros(n_frames, bool)
    for start, end in truth.spans:
        frames[start:end] = True
    return frames


def frame_class_truth(truth: VideoTruth, n_frames: int, classes: Sequence[str]) -> np.ndarray:
    """Return frames of each class, (n_frames, C) bool, False for normal; InputError if unknown."""
    if len(truth.span_classes) != len(truth.spans):
        raise InputError(f"{truth.name}: the annotation names no class per event")
    if unknown := {*truth.span_classes} - {*classes}:
        raise InputError(f"{truth.name}: class {min(unknown)} is none of {', '.join(classes)}")
    frames = np.zeros((n_frames, len(classes)), bool)
    for (start, end), name in zip(truth.spans, truth.span_classes, strict=True):
        frames[start:end, classes.index(name)] = True
    return frames


def mask_runs(mask: np.ndarray) -> np.ndarray:
    """Return runs of True in mask (F,): starts and ends (K, 2), end-exclusive."""
    steps = np.diff(np.asarray(mask, bool), prepend=False, append=False)
    return np.flatnonzero(steps).reshape(-1, 2)


def text_lines(path: Path) -> list[tuple[int, str]]:
    """Return numbered non-blank lines of a text file; InputError if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = f"{path}: not readable UTF-8 text ({error})"
        raise InputError(f"{what}; fetch or save it anew") from None
    return [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]


def read_ucf(path: Path, classes: Sequence[str], normal: str) -> dict[str, VideoTruth]:
    """Read UCF-Crime's rows name, class, s1, e1, s2, e2; -1 -1: no event (Sultani et al. 2018)."""

    def parse(fields: list[str], where: str) -> VideoTruth:
        if len(fields) != 6:
            raise InputError(f"{where}: expected name, class and four frame numbers, in six words")
        name, label, *numbers = fields
        if label not in classes:
            raise InputError(f"{where}: class {label} is none of {', '.join(classes)}")
        pairs = [pair for pair in (numbers[:2], numbers[2:]) if pair != ["-1", "-1"]]
        labels = () if label == normal else (label,)
        if bool(pairs) != bool(labels):
            raise InputError(f"{where}: {len(pairs)} events in a video of class {label}")
        return VideoTruth(video_name(name), labels, _spans(pairs, where), bool(pairs))

    return _table(path, parse)


def read_xd(
    path: Path, codes: Mapping[str, str], normal: str, by_class: bool = False
) -> dict[str, VideoTruth]:
    """Read XD-Violence's rows of a name and pairs of frames, violent videos only (Wu et al. 2020).

    codes: code by class. annotations.txt names no class per event; all take the first class of the
    video, as in AnomalyCLIP's lists. ``by_class``: VadCLIP's annotations_multiclasses.txt, with
    triples code, start, end.
    """

    def parse(fields: list[str], where: str) -> VideoTruth:
        name, count, size = video_name(fields[0]), len(fields) - 1, 3 if by_class else 2
        labels = xd_classes(name, codes, normal, where)
        if not labels:
            raise InputError(f"{where}: {name} is a normal video, but has events")
        if not count or count % size:
            raise InputError(f"{where}: {count} fields after the name are not groups of {size}")
        events = [fields[i : i + size] for i in range(1, count, size)]
        span_classes = _classes([event[0] for event in events], codes, where) if by_class else ()
        return VideoTruth(name, labels, _spans([e[-2:] for e in events], where), True, span_classes)

    return _table(path, parse)


def xd_classes(name: str, codes: Mapping[str, str], normal: str, where: str) -> tuple[str, ...]:
    """Return classes by the name's suffix "_label_B1-B2-0", most important first; () if normal."""
    suffix = re.search(r"_label_([A-Z0-9-]+)$", name)
    if not suffix:
        raise InputError(f"{where}: {name} does not end in _label_ and its codes")
    classes = _classes([code for code in suffix[1].split("-") if code != "0"], codes, where)
    if not classes or (normal in classes and len(classes) > 1):
        raise InputError(f"{where}: {name} must be either {normal} or of one to three classes")
    return () if normal in classes else classes


def read_mask(name: str, path: Path) -> VideoTruth:
    """Read ShanghaiTech's mask: one value per frame, not 0 if abnormal (Luo et al. 2017)."""
    for_training = re.fullmatch(r"\d\d_\d{3}", name)  # normal, without a mask
    mask = load_array(path).ravel() if not for_training else np.empty(0)
    return VideoTruth(name, (), _runs(mask), bool(mask.any()), frames=len(mask))


def read_tracks(name: str, path: Path) -> VideoTruth:
    """Read UBnormal's rows object, first, last frame (Acsintoae et al. 2022); none for normal_*."""
    if name.startswith("normal_"):
        return VideoTruth(name, (), (), False)
    spans = []
    for number, line in text_lines(path):
        spans += _spans([line.split(",")[1:]], f"{path}, line {number}", inclusive=1)
    if not spans:
        raise InputError(f"{path}: no tracks, though {name} is an abnormal video")
    return VideoTruth(name, (), tuple(spans), True)


def read_vector(
    path: Path, names: Sequence[str], snippets: Mapping[str, int], classes: Sequence[str]
) -> list[VideoTruth]:
    """Read MSAD's vector: one value per frame of all videos in list order (official code).

    snippets: number of 16-frame features by name; videos without one must be consecutive and are
    left out. A vector off by at most a snippet is cut or padded at its end, with a warning.
    """
    vector = load_array(path).ravel()
    lengths = [SNIPPET * snippets.get(name, 0) for name in names]
    excess, missing = sum(lengths) - len(vector), [n for n in names if n not in snippets]
    what = f"{path}: {len(vector)} frames"
    if missing:  # they share the frames that the others leave
        first = names.index(missing[0])
        if excess > 0 or missing != [*names[first : first + len(missing)]]:
            raise InputError(f"{what} do not fit the videos at hand; fetch {missing[0]}")
        lengths[first] = -excess
    elif excess:
        what += f", but the list's snippets make {sum(lengths)}"
        if abs(excess) > SNIPPET:
            raise InputError(what)
        warnings.warn(f"{what}: {names[-1]} is cut or padded with normal frames", stacklevel=2)
        vector = np.pad(vector, (0, max(0, excess)))  # what is beyond the last video is not read
    starts = np.cumsum([0, *lengths[:-1]])
    parts = {n: vector[i : i + k] for n, i, k in zip(names, starts, lengths, strict=True)}
    return [_vector_truth(n, part, path, classes) for n, part in parts.items() if n in snippets]


def _vector_truth(name: str, part: np.ndarray, path: Path, classes: Sequence[str]) -> VideoTruth:
    labels = () if name.startswith("MSAD_normal_") else (name.rpartition("_")[0],)
    if part.any() and not labels:
        raise InputError(f"{path}: {name} has abnormal frames; check list order and counts")
    if not set(labels) <= set(classes):
        raise InputError(f"{name}: neither MSAD_normal_* nor <class>_<number>")
    return VideoTruth(name, labels, _runs(part), bool(labels))


@cache  # parsing paths is slow, and every table reads the same lists
def video_name(entry: str) -> str:
    """Return a list entry without folder and known suffix; names may contain other dots."""
    name = PurePosixPath(entry).name
    return Path(name).stem if name.endswith(".npy") or is_video(Path(name)) else name


def _table(path: Path, parse: Callable[[list[str], str], VideoTruth]) -> dict[str, VideoTruth]:
    table: dict[str, VideoTruth] = {}
    for number, line in text_lines(path):
        where = f"{path}, line {number}"
        truth = parse(line.split(), where)
        if truth.name in table:
            raise InputError(f"{where}: {truth.name} stands twice; keep one row")
        table[truth.name] = truth
    return table


def _spans(events: Sequence[Sequence[str]], where: str, inclusive: int = 0) -> tuple[Span, ...]:
    spans = []
    for fields in events:
        try:
            start, end = (int(field.strip().removesuffix(".0")) for field in fields)
        except ValueError:
            raise InputError(f"{where}: {' '.join(fields)} are not two frame numbers") from None
        if start < 0 or end + inclusive <= start:
            what = f"event {start} {end} must start at 0 or later, before its end"
            raise InputError(f"{where}: {what}")
        spans.append((start, end + inclusive))
    return tuple(spans)


def _classes(labels: Sequence[str], codes: Mapping[str, str], where: str) -> tuple[str, ...]:
    names = {code: name for name, code in codes.items()}
    if unknown := [code for code in labels if code not in names]:
        raise InputError(f"{where}: code {unknown[0]} is none of {', '.join(names)}")
    return tuple(names[code] for code in labels)


def _runs(mask: np.ndarray) -> tuple[Span, ...]:
    return tuple(map(tuple, mask_runs(mask).tolist()))


def load_array(path: Path) -> np.ndarray:
    """Read the array in a .npy file; InputError if there is none, or it holds objects."""
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        what = f"not a readable array of np.save ({error})"
        raise InputError(f"{path}: {what}; fetch it again") from None
