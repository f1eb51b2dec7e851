"""Four-option questions about anomaly type and time (VA-GPT, supplementary Figures 3-4).

The paper does not say how the wrong options were made. Here their classes are drawn from the
benchmark's and their times from events of other videos, so that both are plausible.
"""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from detectors.event_annotations import VideoTruth
from media.errors import InputError

LETTERS = "ABCD"
SHIFTS = 9  # positions tried for a wrong time if other videos' events do not fit
Kind = Literal["total", "temporal"]
Span = tuple[float, float]


def words(class_name: str) -> str:
    """Return a class name in words: "RoadAccidents" -> "road accidents"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", class_name).lower()


class Footage(NamedTuple):
    """One or more videos asked about: events (start, end) in s, each with a class; () is normal."""

    name: str
    duration: float
    spans: tuple[Span, ...] = ()
    classes: tuple[str, ...] = ()


class Option(NamedTuple):
    """An answer option: a class and its time in s, or no anomaly if there is no class."""

    class_name: str | None = None
    span: Span = (0.0, 0.0)

    @property
    def text(self) -> str:
        """The option as a model reads it."""
        if self.class_name is None:
            return "No anomaly"
        return f"{words(self.class_name)}, from {self.span[0]:.1f} s to {self.span[1]:.1f} s"


class Question(NamedTuple):
    """Four options, one of them right. total asks for type and time, temporal for time alone."""

    video: str
    kind: Kind
    duration: float
    options: tuple[Option, ...]
    right: int

    @property
    def abnormal(self) -> bool:
        """Whether the footage holds an anomaly."""
        return self.options[self.right].class_name is not None


class QuestionSet(NamedTuple):
    """Questions and their videos; ``parts`` are the indices of the videos joined into a footage.

    Clips of the mini world last 8 s and most events run to their end, so times could be guessed;
    there several videos are joined into one footage. The paper asks about single videos.
    """

    videos: list[Footage]
    parts: list[list[int]]
    footages: list[Footage]
    questions: list[Question]
    step: float  # s between frame embeddings
    paths: list[Path]

    def joined(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Concatenate arrays (n, ...) per video into one per footage, by name."""
        parts = zip(self.footages, self.parts, strict=True)
        return {f.name: np.concatenate([arrays[i] for i in numbers]) for f, numbers in parts}


def join(videos: Sequence[Footage], name: str) -> Footage:
    """Join videos one after the other into one footage called ``name``."""
    starts = np.cumsum([0.0, *(video.duration for video in videos)])
    placed = zip(starts.tolist(), videos, strict=False)
    spans = [(s + start, s + end) for s, video in placed for start, end in video.spans]
    classes = [class_name for video in videos for class_name in video.classes]
    return Footage(name, float(starts[-1]), tuple(spans), tuple(classes))


def neighbours(videos: Sequence[Footage], count: int, seed: int) -> list[list[int]]:
    """Draw each video's footage: itself at a random place among ``count`` - 1 normal videos."""
    normal, parts = [i for i, video in enumerate(videos) if not video.spans], []
    for i, video in enumerate(videos):
        rng = _rng(seed, video.name)
        others = rng.choice([k for k in normal if k != i], count - 1, replace=False)
        parts.append([*map(int, np.insert(others, rng.integers(count), i))])
    return parts


def footage(truth: VideoTruth, n_frames: int, fps: float) -> Footage:
    """Return a benchmark video of ``n_frames`` frames as footage; events are cut at its end."""
    kept = [i for i, (start, _) in enumerate(truth.spans) if start < n_frames]
    spans = [(truth.spans[i][0] / fps, min(truth.spans[i][1], n_frames) / fps) for i in kept]
    classes = [truth.span_classes[i] for i in kept]
    return Footage(truth.name, n_frames / fps, tuple(spans), tuple(classes))


def make_questions(
    footages: Sequence[Footage], classes: Sequence[str], seed: int = 0, max_iou: float = 0.5
) -> list[Question]:
    """Make a total question for each footage, and a temporal one for each with an event.

    The longest event is asked about; ``classes`` are the abnormal ones. Total: "no anomaly" and
    three pairs of class and time, none of them twice. Temporal: four times for the event's class.
    Wrong times have an IoU of at most ``max_iou`` with events and other options if possible.
    """
    pool = np.array([np.divide(s, f.duration) for f in footages for s in f.spans]).reshape(-1, 2)
    return [q for f in footages for q in _questions(f, classes, pool * f.duration, seed, max_iou)]


def _questions(
    item: Footage, classes: Sequence[str], pool: np.ndarray, seed: int, max_iou: float
) -> list[Question]:
    rng, n = _rng(seed, item.name), len(LETTERS)
    others = [name for name in classes if name not in item.classes]
    if len(others) < n - 1 or len(item.classes) != len(item.spans):
        raise InputError(f"{item.name}: needs a class for each event and {n - 1} other classes")
    wrong_names = [str(name) for name in rng.permutation(others)]
    times = wrong_spans(pool, item, n - 1, max_iou, rng)
    wrong = [Option(*pair) for pair in zip(wrong_names, times, strict=False)]
    if not item.spans:
        return [_shuffled(item, "total", Option(), wrong, rng)]
    span, name = max(zip(item.spans, item.classes, strict=True), key=lambda e: e[0][1] - e[0][0])
    right, wrong_times = Option(name, span), [Option(name, time) for time in times]
    return [
        _shuffled(item, "total", right, [Option(), *wrong[: n - 2]], rng),
        _shuffled(item, "temporal", right, wrong_times, rng),
    ]


def _shuffled(
    item: Footage, kind: Kind, right: Option, wrong: Sequence[Option], rng: np.random.Generator
) -> Question:
    place = int(rng.integers(len(wrong) + 1))
    order = [wrong[i] for i in rng.permutation(len(wrong))]
    options = (*order[:place], right, *order[place:])
    return Question(item.name, kind, item.duration, options, place)


def wrong_spans(
    pool: np.ndarray, item: Footage, count: int, max_iou: float, rng: np.random.Generator
) -> list[Span]:
    """Draw ``count`` times from pool (K, 2), IoU <= ``max_iou`` with all events and each other.

    If the pool has too few, spans of one of its lengths are placed evenly over the footage; if
    those overlap too much as well, the least overlapping of all are taken.
    """
    spans = rng.permutation(pool) if len(pool) else np.array([[0.0, item.duration / (count + 2)]])
    length = spans[0, 1] - spans[0, 0]
    starts = rng.permutation(np.linspace(0, item.duration - length, SHIFTS))
    spans = np.concatenate([spans, np.stack([starts, starts + length], axis=1)])
    taken = list(item.spans)
    for _ in range(count):
        overlap = np.max([np.zeros(len(spans)), *(span_iou(t, spans) for t in taken)], axis=0)
        fits = np.flatnonzero(overlap <= max_iou)
        taken.append(tuple(map(float, spans[fits[0] if len(fits) else overlap.argmin()])))
    return taken[len(item.spans) :]


def span_iou(span: Span, spans: np.ndarray) -> np.ndarray:
    """Return the temporal IoU of span (2,) with spans (K, 2), in s: (K,)."""
    starts, ends = np.asarray(spans, float).T
    inner = np.maximum(np.minimum(span[1], ends) - np.maximum(span[0], starts), 0)
    return inner / (span[1] - span[0] + ends - starts - inner)


def prompt(question: Question, prior: str = "", listed: bool = True) -> str:
    """Return the question as text for a model, after a text prior if there is one.

    ``listed`` False leaves out the options, for a model that compares their likelihoods.
    """
    total = question.kind == "total"
    lines = [
        f"These are frames of a surveillance video of {question.duration:.1f} s, in order.",
        "Which anomaly happens in it, and when?" if total else "When does the anomaly happen?",
    ]
    if listed:
        options = zip(LETTERS, question.options, strict=True)
        lines += [f"{letter}. {option.text}" for letter, option in options]
        lines.append("Reply with the letter of the right option and nothing else.")
    return "\n".join([prior, *lines] if prior else lines)


def parse_reply(reply: str, question: Question) -> int | None:
    """Return the index of the option that a reply names, or None if its form is not accepted.

    Accepted: B, (B), B. or B), alone or before the option's own text.
    """
    match = re.fullmatch(r"(?:\(([A-D])\)|([A-D])[.):]?)(?:\s+(.+))?", reply.strip())
    if not match:
        return None
    number, text = LETTERS.index(match[1] or match[2]), match[3]
    return number if text is None or text.strip(" .") == question.options[number].text else None


def _rng(seed: int, name: str) -> np.random.Generator:
    # Seeded by name: a video's draws do not depend on the order of the list.
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
