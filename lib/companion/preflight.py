"""The pre-flight: everything that a run will read, checked before it starts, in one table."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants as hub
from huggingface_hub.errors import LocalEntryNotFoundError

from alertclip.backbone import load_backbone
from alertclip.errors import InputError
from companion.budgets import needs
from companion.extraction import check_features, domain_gaps
from companion.profiles import Params
from companion.sources import LISTS, SOURCES, Gap, missing_data, missing_videos, size
from companion.splits import load_split
from companion.stage_runs import resolve_device
from companion.workflow import Notebook
from detectors.benchmarks import Split, load_benchmark

NO_CLIPS = ("00", "09", "11")  # notebooks that read none of VAGTA's clips


def find_gaps(P: Params, books: Sequence[Notebook], fetch: bool = True) -> list[Gap]:
    """Everything that the notebooks ``books`` will miss, of a profile on any data.

    ``fetch``: download weights that are not there; else they are only named.
    """
    numbers = [book.name[:2] for book in books]
    clips = " ".join(number for number in numbers if number not in NO_CLIPS)
    scored = " ".join(book.name[:2] for book in books if "detector" in book.params)
    gaps = [*weight_gaps(P, fetch), *device_gaps(P)]
    if P.data.world == "miniworld":
        return gaps
    if P.features:
        lacks_weights = any(gap.verdict != "found" for gap in gaps)
        return [*gaps, *released_gaps(P, not lacks_weights)]
    if clips:
        found = (*missing_data(P), *clip_gaps(P))
        gaps += [replace(gap, books=clips) for gap in found]
    if scored:
        gaps += [replace(gap, books=scored) for gap in domain_gaps(P, ("test", "train"))]
    if "05" in numbers:
        gaps += [replace(gap, books="05") for gap in other_domains(P)]
    return [*gaps, *disk_gaps(P, numbers)]


def weight_gaps(P: Params, fetch: bool) -> Iterator[Gap]:
    """Whether the backbone's weights can be had and are this backbone's: they are loaded."""
    try:
        with nullcontext() if fetch else offline():
            load_backbone(P.model.backbone, P.model.pretrained)
    except InputError as error:
        if fetch or not _only_absent(error):
            yield Gap(str(error), books="all")
        else:
            what = f"weights {P.model.pretrained} of {P.model.backbone}: not on this machine yet"
            yield Gap(what, "the run downloads them", verdict="warns")


def _only_absent(error: BaseException | None) -> bool:
    """Whether an error goes back to a file that the hub has and this machine has not."""
    while error and not isinstance(error, LocalEntryNotFoundError):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def offline() -> Iterator[None]:
    """No downloads from the hub inside the block."""
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    logging.disable()  # open_clip calls what is not there yet an error
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
        logging.disable(logging.NOTSET)


def device_gaps(P: Params) -> Iterator[Gap]:
    """A device that is not there, with the driver's reason; a card that is, with its memory."""
    try:
        if (device := resolve_device(P)).type == "cuda":
            card = torch.cuda.get_device_properties(device)
            what = f"{card.name}, CUDA {torch.version.cuda}"
            yield Gap(what, gigabytes=card.total_memory / 1e9, verdict="found", books="all")
    except InputError as error:
        yield Gap(str(error), books="all")


def released_gaps(P: Params, checked: bool) -> Iterator[Gap]:
    """Lists and released features that are missing or, ``checked``, of another model or rate."""
    benchmark, folder = load_benchmark(P.detector.benchmark), P.features_dir
    for path in benchmark.files(P.data_dir):
        if not path.is_file():
            yield Gap(f"{path}: missing", LISTS.format(benchmark.title), books="05 06")
            checked = False
    if not folder.is_dir():
        yield Gap(f"{folder}: no such folder", "set features to where VadCLIP's lie", books="05 06")
    elif checked:
        try:
            check_features(P)
        except InputError as error:
            yield Gap(str(error), books="05 06")


def clip_gaps(P: Params) -> list[Gap]:
    """Annotations that cannot be read, and videos that they name and that are not there."""
    paths: set[Path] = set()
    gaps = []
    for split in ("train", "dev", "test"):
        try:
            paths |= {P.data_dir / item.video for item in load_split(P, split)[0]}
        except InputError as error:
            if "no such file" not in str(error):  # missing_data has said so
                gaps.append(Gap(str(error), SOURCES["annotations"]))
    for folder in (name for name in SOURCES if "/" in name and (P.data_dir / name).is_dir()):
        own = sorted(path for path in paths if path.is_relative_to(P.data_dir / folder))
        gaps += missing_videos("VAGTA's clips", SOURCES[folder], own, size(folder))
    verdict = "left out" if P.data.skip_lost_clips else "stops"
    advice = "" if P.data.skip_lost_clips else "; or go on without: -p skip_lost_clips=true"
    return [replace(gap, source=gap.source + advice, verdict=verdict) for gap in gaps]


def other_domains(P: Params) -> Iterator[Gap]:
    """What notebook 05 lacks of other benchmarks: it leaves their rows out."""
    for title, changes in P.evaluation.transfer.items():
        for gap in _changed_gaps(P, changes, ("test",)):
            source = f"{gap.source}; without it {title} has no rows"
            yield replace(gap, source=source, verdict="left out")
    if changes := P.evaluation.open_vocabulary_changes:
        yield from _changed_gaps(P, changes, ("test", "train"))


def _changed_gaps(P: Params, changes: dict[str, Any], splits: tuple[Split, ...]) -> list[Gap]:
    try:
        changed = P.changed(changes)
    except InputError:  # settings_gaps has said so
        return []
    return domain_gaps(changed, splits)


def disk_gaps(P: Params, numbers: Sequence[str]) -> Iterator[Gap]:
    """Disks with less room than the notebooks will write, beyond what is written already."""
    asked = [need for number, need in needs(P).items() if number in numbers]
    places = {
        P.cache_dir / "frames": sum(need.frames_gb for need in asked),
        P.run_dir / "features": sum(need.features_gb for need in asked),
    }
    disks: dict[int, list[tuple[Path, float]]] = {}
    for folder, gigabytes in places.items():
        there = next(p for p in (folder, *folder.parents) if p.exists())
        written = sum(file.stat().st_size for file in folder.rglob("*.npy")) / 1e9
        disks.setdefault(there.stat().st_dev, []).append((there, max(0, gigabytes - written)))
    for found in disks.values():
        place, total = found[0][0], sum(gigabytes for _, gigabytes in found)
        if (free := shutil.disk_usage(place).free / 1e9) < total:
            what = f"disk of {place}: {free:.0f} GB free, about {total:.0f} GB will be written"
            advice = "make room, or link runs/cache or the run's features/ to another disk"
            yield Gap(what, advice, verdict="warns", books="all")
