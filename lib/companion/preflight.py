"""The pre-flight check: everything that a run will read, examined before it starts."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import constants as hub
from huggingface_hub.errors import LocalEntryNotFoundError

from alertclip.backbone import load_backbone
from companion import budgets, extraction, splits, stage_runs, workflow
from companion.profiles import Params
from companion.sources import FOLDERS, LISTS, VAGTA, Gap, missing_data, missing_videos, refusal
from media.errors import InputError

NO_CLIPS = ("00", "09", "11")  # notebooks that read none of VAGTA's clips


def find_gaps(P: Params, books: Sequence[workflow.Notebook], fetch: bool = True) -> list[Gap]:
    """Everything that the notebooks ``books`` of a profile lack.

    ``fetch``: download missing weights; without it they are only reported.
    """
    numbers = [book.name[:2] for book in books]
    clips = " ".join(number for number in numbers if number not in NO_CLIPS)
    scored = " ".join(book.name[:2] for book in books if "detector" in book.fields)
    gaps = [*weight_gaps(P, fetch), *device_gaps(P)]
    if P.data.world == "miniworld":
        return gaps
    if P.features:
        return [*gaps, *released_gaps(P, all(gap.verdict == "found" for gap in gaps))]
    if clips:
        gaps += [replace(gap, books=clips) for gap in (*missing_data(P), *clip_gaps(P))]
    if scored:
        gaps += [replace(gap, books=scored) for gap in extraction.domain_gaps(P, ("test", "train"))]
    if "05" in numbers:
        gaps += [replace(gap, books="05") for gap in other_domains(P)]
    return [*gaps, *disk_gaps(P, numbers)]


def weight_gaps(P: Params, fetch: bool) -> Iterator[Gap]:
    """A gap if the backbone's weights cannot be loaded: not available, or another backbone's."""
    try:
        with nullcontext() if fetch else offline():
            load_backbone(P.model.backbone, P.model.pretrained)
    except InputError as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, LocalEntryNotFoundError):
            cause = cause.__cause__ or cause.__context__
        if fetch or not cause:
            yield Gap(str(error))
        else:  # on the hub, not yet in its local cache
            what = f"weights {P.model.pretrained} of {P.model.backbone}: not on this machine yet"
            yield Gap(what, "the run downloads them", verdict="warns")


def device_gaps(P: Params) -> list[Gap]:
    """A missing device with the driver's reason, or the GPU that was found with its memory."""
    gaps = refusal(stage_runs.resolve_device, P)
    if not gaps and (device := stage_runs.resolve_device(P)).type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        what = f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
        gaps.append(Gap(what, verdict="found"))
    return gaps


@contextmanager
def offline() -> Iterator[None]:
    """No downloads from the hub inside the block."""
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    logging.disable()  # open_clip logs a file not yet downloaded as an error
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
        logging.disable(logging.NOTSET)


def released_gaps(P: Params, checked: bool) -> list[Gap]:
    """Lists and released features that are missing or, if ``checked``, of another model or rate."""
    benchmark, folder, books = P.benchmark, P.features_dir, "05 06"
    lists = [path for path in benchmark.files(P.data_dir) if not path.is_file()]
    source = LISTS.format(benchmark.title)
    gaps = [Gap(f"{path}: missing", source, books=books) for path in lists]
    if not folder.is_dir():
        advice = "set features to the folder of VadCLIP's features"
        return [*gaps, Gap(f"{folder}: no such folder", advice, books=books)]
    return gaps or (refusal(extraction.check_features, P, books=books) if checked else [])


def clip_gaps(P: Params) -> list[Gap]:
    """Annotations that cannot be read, and missing videos that they name."""
    paths: set[Path] = set()
    gaps = []
    for split in ("train", "dev", "test"):
        try:
            paths |= {P.data_dir / item.video for item in splits.load_split(P, split)[0]}
        except InputError as error:
            if "no such file" not in str(error):  # missing_data reports those
                gaps.append(Gap(str(error), VAGTA))
    for folder in (name for name in FOLDERS if (P.data_dir / name).is_dir()):
        videos = sorted(path for path in paths if path.is_relative_to(P.data_dir / folder))
        gaps += missing_videos("VAGTA's clips", FOLDERS[folder], videos)
    verdict = "left out" if P.data.skip_lost_clips else "stops"
    advice = "" if P.data.skip_lost_clips else "; or continue without: -p skip_lost_clips=true"
    return [replace(gap, source=gap.source + advice, verdict=verdict) for gap in gaps]


def other_domains(P: Params) -> Iterator[Gap]:
    """What notebook 05 lacks of other benchmarks; of those for transfer only rows are left out."""
    for title, changes in P.evaluation.transfer.items():
        for gap in extraction.domain_gaps(P.changed(changes)):
            source = f"{gap.source}; without it {title} has no rows"
            yield replace(gap, source=source, verdict="left out")
    if changes := P.evaluation.open_vocabulary_changes:
        yield from extraction.domain_gaps(P.changed(changes), ("test", "train"))


def disk_gaps(P: Params, numbers: Sequence[str]) -> Iterator[Gap]:
    """Disks with less free space than the notebooks still have to write."""
    needs = budgets.needs(P)
    needs = needs[needs.index.isin(numbers)]
    columns = {P.cache_dir / "frames": "frames_gb", P.run_dir / "features": "features_gb"}
    disks: dict[int, list[tuple[Path, float]]] = {}
    for folder, column in columns.items():
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        written = sum(file.stat().st_size for file in folder.rglob("*.npy")) / 1e9
        left = max(0, needs[column].sum() - written)
        disks.setdefault(existing.stat().st_dev, []).append((existing, left))
    for folders in disks.values():
        place, total = folders[0][0], sum(gigabytes for _, gigabytes in folders)
        if (free := shutil.disk_usage(place).free / 1e9) < total:
            what = f"disk of {place}: {free:.0f} GB free, about {total:.0f} GB will be written"
            advice = "make room, or link runs/cache or the run's features/ to another disk"
            yield Gap(what, advice, verdict="warns")
