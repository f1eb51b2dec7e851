"""Timed captions of surveillance videos: UCA's files (Yuan et al. 2023), or VAGTA's regions.

UCA splits its videos differently from UCF-Crime's anomaly benchmark, so the benchmark's test videos
must be dropped before training on its captions (``training_only``).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alertclip.mss import EncodeText, inside
from alertclip.records import Item, Report, is_text, region_span
from detectors.benchmarks import Benchmark, read_list
from detectors.event_annotations import video_name
from media.errors import InputError
from media.files import read_json

NORMAL = "Normal"
RESOLUTION = 0.1  # s; by rounding, UCA's times may exceed the duration by this much

Judge = Callable[[str, str], bool]
"""(sentence, class of its video) -> whether the sentence describes an anomaly."""


class TimedCaption(NamedTuple):
    """Caption of a video segment from ``start`` to ``end`` in s; inf means the end of the video."""

    video: str  # without folder and suffix
    class_name: str
    start: float
    end: float
    sentence: str
    abnormal: bool


def from_items(items: Sequence[Item]) -> list[TimedCaption]:
    """Return VAGTA's region captions as timed captions, abnormal if their item is."""
    captions = []
    for item in items:
        for region in item.regions:
            span = region_span(region) or item.timestamps or (0.0, math.inf)
            context = video_name(item.video), item.class_name, *span
            captions.append(TimedCaption(*context, region.caption, item.is_abnormal))
    return captions


def read_uca(
    path: Path | str, classes: Sequence[str], judge: Judge
) -> tuple[list[TimedCaption], Report]:
    """Read UCA's JSON: {video: {duration, timestamps: [[s, e], ...], sentences: [...]}}.

    UCA does not say which sentences describe an anomaly; ``judge`` decides for videos of an
    abnormal class. The report lists captions cut at the end of their video and unusable ones left
    out. InputError if the file has another form.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of videos to their captions, as UCA publishes")
    captions, report = [], Report()
    for video, entry in content.items():
        fields = entry if isinstance(entry, dict) else {}
        duration, times, sentences = map(fields.get, ("duration", "timestamps", "sentences"))
        lists = isinstance(times, list) and isinstance(sentences, list)
        if not _is_number(duration) or not lists or len(times) != len(sentences):
            raise InputError(
                f"{path}, {video}: needs duration (s), and as many timestamps as sentences"
            )
        match = re.match(r"(Normal)_Videos|([A-Za-z]+)\d", video)  # Abuse037_x264, as UCF-Crime
        class_name = match and (match[1] or match[2])
        if class_name not in classes:
            report.add(video, "its name begins with no class", "left out")
            continue
        for i, (span, sentence) in enumerate(zip(times, sentences, strict=True)):
            where, is_pair = f"{video}, caption {i}", isinstance(span, list) and len(span) == 2
            start, end = span if is_pair and all(map(_is_number, span)) else (0, 0)
            if not is_text(sentence) or not 0 <= start < min(end, duration):
                report.add(where, f"no text, or {span} is not within {duration:g} s", "left out")
                continue
            if end > duration + RESOLUTION:
                report.add(where, f"ends at {end:g} s, its video at {duration:g} s", "cut")
            text = sentence.strip()
            abnormal = class_name != NORMAL and judge(text, class_name)
            context = video, class_name, float(start), float(min(end, duration))
            captions.append(TimedCaption(*context, text, abnormal))
    return captions, report


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # true is no number


def text_judge(encode_text: EncodeText, class_texts: Mapping[str, Sequence[str]]) -> Judge:
    """Return a judge by CLIP's text tower: is a sentence closer to its class than to normal?

    Both are mean embeddings of texts; ``class_texts`` holds those of each class and "Normal".
    """
    means = {name: encode_text(list(texts)).mean(dim=0) for name, texts in class_texts.items()}

    def judge(sentence: str, class_name: str) -> bool:
        embedding = encode_text([sentence])[0]
        return bool(embedding @ means[class_name] > embedding @ means[NORMAL])

    return judge


def training_only(
    captions: Sequence[TimedCaption], benchmark: Benchmark, root: Path
) -> tuple[list[TimedCaption], Report]:
    """Keep captions of the benchmark's training videos; the report names every other video.

    Videos are matched by exact name. One in neither list is dropped too, as it could be a test
    video under another name.
    """
    train, test = (
        {entry.name for entry in read_list(benchmark, root, split)} for split in ("train", "test")
    )
    report = Report()
    for video in dict.fromkeys(caption.video for caption in captions):
        if video in test:
            report.add(video, f"tested on by {benchmark.title}", "left out")
        elif video not in train:
            report.add(video, f"in no split of {benchmark.title}", "left out")
    return [caption for caption in captions if caption.video in train - test], report


def frame_labels(captions: Sequence[TimedCaption], times: np.ndarray) -> np.ndarray:
    """Label frames of one video inside an abnormal caption: times (n,) in s -> (n,) bool.

    All other frames are normal (VA-GPT, supplementary 2.3).
    """
    return inside(times, [(c.start, c.end) for c in captions if c.abnormal])
