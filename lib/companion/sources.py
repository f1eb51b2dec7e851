"""The external files that a profile needs: who publishes them, and which are missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from alertclip.prompts import load_prompts
from companion.profiles import ROOT, Params, within
from companion.variants import load_variants
from detectors.benchmarks import Benchmark, Split, read_list, read_truth
from detectors.event_annotations import load_array
from media.errors import InputError

VAGTA = "VAGTA's annotations, https://github.com/ClarkZhu216/Alert-CLIP_dataset"
FOLDERS = {  # of VAGTA's videos: where to get them
    "UCF_Crimes_Videos/UCF_Crimes/Videos": "UCF-Crime (Sultani et al. 2018), the dataset's page",
    "MSAD/MSAD_Videos": "MSAD (Zhu et al. 2024), on request from its authors",
}
LISTS = "official lists and temporal annotation of {}, from the dataset's or VadCLIP's page"
Verdict = Literal["stops", "left out", "warns", "found"]
VERDICTS = get_args(Verdict)


@dataclass(frozen=True)
class Gap:
    """Something missing or wrong that a run needs, and the consequence."""

    what: str
    source: str = ""  # where to get it, or what to do
    verdict: Verdict = "stops"
    books: str = "all"  # numbers of the notebooks that need it

    def __str__(self) -> str:
        return f"{self.what}: {self.source}" if self.source else self.what


def gap_table(gaps: Sequence[Gap]) -> str:
    """One line per gap, those that stop the run first: verdict, notebooks, gap, remedy."""
    row = "{:9} {:27} {}"
    lines = [row.format("", "notebooks", "missing or wrong: where to get it, what to do")]
    for gap in sorted(gaps, key=lambda gap: VERDICTS.index(gap.verdict)):
        lines.append(row.format(gap.verdict, gap.books, str(gap)))
    return "\n".join(lines)


def refusal(call: Callable[..., Any], *args: Any, **fields: Any) -> list[Gap]:
    """The InputError of a call as a gap with the given ``fields``; none if it succeeds."""
    try:
        call(*args)
    except InputError as error:
        return [Gap(str(error), **fields)]
    return []


def missing_data(P: Params) -> list[Gap]:
    """Missing annotation files and video folders of VAGTA; none for the mini world.

    One of the two training files is enough: without hard negatives their loss term is left out;
    without captions the hard negatives serve as surrogates, and the run says so.
    """
    if P.data.world == "miniworld" or P.features:  # released_gaps checks the features
        return []
    root = P.data_dir
    names = {k: v for k, v in P.data if k.startswith(("annotations", "hard_negatives")) and v}
    missing = [field for field, name in names.items() if not (root / name).is_file()]
    training = [field for field in names if field.endswith("_train")]
    if set(training) - set(missing):
        missing = [field for field in missing if field not in training]
    gaps = [Gap(f"{field}: {root / names[field]} is missing", VAGTA) for field in missing]
    return gaps + [
        Gap(f"{root / name}: no such folder", f"{source}; unpack it there")
        for name, source in FOLDERS.items()
        if not (root / name).is_dir()
    ]


def settings_gaps(P: Params) -> Iterator[Gap]:
    """Missing files that parameters name, and ablations that do not suit the profile."""
    for variant in map(load_variants().__getitem__, P.ablation.variants):
        yield from refusal(within, f"ablation {variant.name}", P.changed, variant.changes)
    yield from refusal(load_prompts, ROOT / P.evaluation.prompts)
    for name in ("retention_imagenet", "retention_coco", "failure_videos", "video"):
        path = ROOT / P.flat()[name]  # empty: ROOT itself, which exists
        if not path.exists():
            yield Gap(f"{name}: {path} is missing", "correct it, or leave it empty")


def missing_videos(what: str, source: str, videos: Sequence[Path]) -> list[Gap]:
    """One gap that counts the ``videos`` that are missing or empty; none if all are there."""
    missing = [p for p in dict.fromkeys(videos) if not p.is_file() or not p.stat().st_size]
    if not missing:
        return []
    counts = f"{what}: {len(missing)} of {len(videos)} videos missing, first {missing[0]}"
    return [Gap(counts, source)]


def benchmark_gaps(
    benchmark: Benchmark, root: Path, videos: Mapping[Split, Callable[[], Sequence[Path]]]
) -> list[Gap]:
    """Lists, ground truth and videos of a benchmark that are missing, truncated or unreadable.

    ``videos``: for each split in use, a function that returns the videos read from it.
    """
    source, title = LISTS.format(benchmark.title), benchmark.title
    names = [file for split in videos for file in benchmark.list_files(root, split)]
    names += filter(None, (benchmark.annotation_file, benchmark.class_annotation_file))
    files = [root / benchmark.annotation_root / name for name in names if "{" not in name]
    gaps = [Gap(f"{path}: missing", source) for path in files if not path.is_file()]
    if gaps:  # nothing further can be read
        return gaps
    for split, video_paths in videos.items():
        try:
            entries, paths = read_list(benchmark, root, split), video_paths()
            if split == "test" and benchmark.annotation_format == "msad":
                load_array(files[-1])  # only loaded: splitting it needs the videos' lengths
            elif split == "test":
                read_truth(benchmark, root)
        except InputError as error:
            gaps.append(Gap(str(error), source))
            continue
        published = sum(benchmark.counts.get(split, {}).values())
        if published and len(entries) != published:
            what = f"{title}, {split} list: {len(entries)} videos, published are {published}"
            gaps.append(Gap(what, f"fetch it again: {source}"))
        gaps += missing_videos(f"{title}, {split}", "the dataset's page", paths)
    return gaps
