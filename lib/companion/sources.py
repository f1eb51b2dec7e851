"""The files a profile needs from elsewhere: what each is, who publishes it, what is missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import yaml

from alertclip.errors import InputError
from alertclip.prompts import load_prompts
from companion.profiles import BUDGETS, ROOT, Params, within
from companion.variants import load_variants
from detectors.benchmarks import Benchmark, Split, read_list, read_truth
from detectors.event_annotations import SNIPPET, load_array

VAGTA_PAGE = "https://github.com/ClarkZhu216/Alert-CLIP_dataset"
SOURCES = {
    "annotations": f"VAGTA's annotations, {VAGTA_PAGE}",
    "hard_negatives": f"VAGTA's hard negatives, {VAGTA_PAGE}",
    "UCF_Crimes_Videos/UCF_Crimes/Videos": "UCF-Crime (Sultani et al. 2018), the dataset's page",
    "MSAD/MSAD_Videos": "MSAD (Zhu et al. 2024), on request from its authors",
}
BENCHMARK_OF = {"UCF_Crimes_Videos/UCF_Crimes/Videos": "ucf_crime", "MSAD/MSAD_Videos": "msad"}
TRAINING = ("annotations_train", "hard_negatives_train")
TEXTS = ("annotations_dev", "annotations_test", "hard_negatives_test")
LISTS = "official lists and temporal annotation of {}, from the dataset's or VadCLIP's page"
Verdict = Literal["stops", "left out", "warns", "found"]
VERDICTS = get_args(Verdict)


@dataclass(frozen=True)
class Gap:
    """Something that a run needs and that is missing or wrong, and what follows from it."""

    what: str
    source: str = ""  # where to get it, or what to do
    gigabytes: float = 0
    verdict: Verdict = "stops"
    books: str = ""  # numbers of the notebooks that need it

    def __str__(self) -> str:
        return f"- {self.what}: {self.source}" if self.source else f"- {self.what}"


def gap_table(gaps: Sequence[Gap]) -> str:
    """A line per gap, what stops a run first: verdict, notebooks, GB to get, what, where from."""
    row = "{:9} {:27} {:>6}  {}"
    lines = [row.format("", "notebooks", "GB", "missing or wrong: where to get it, what to do")]
    for gap in sorted(gaps, key=lambda gap: VERDICTS.index(gap.verdict)):
        amount = f"{max(0.1, gap.gigabytes):.1f}" if gap.gigabytes else ""
        lines.append(row.format(gap.verdict, gap.books or "all", amount, str(gap)[2:]))
    return "\n".join(lines)


def missing_data(P: Params) -> list[Gap]:
    """Missing annotation files and video folders of VAGTA; none for the mini world.

    Of the two training files one is enough: captions without hard negatives leave that term out,
    and hard negatives without captions serve as flagged surrogates.
    """
    if P.data.world == "miniworld":
        return []
    try:
        root = P.data_dir
    except InputError as error:
        return [Gap(f"{error}; it should hold"), *(Gap(k, v) for k, v in SOURCES.items())]
    if P.features:  # no video is read; the pre-flight looks at the features
        return []
    names = {field: getattr(P.data, field) for field in (*TRAINING, *TEXTS)}
    missing = {f: name for f, name in names.items() if name and not (root / name).is_file()}
    served = any(names[field] and field not in missing for field in TRAINING)
    folders = [name for name in SOURCES if "/" in name and not (root / name).is_dir()]
    return [
        *(
            Gap(f"{field}: {root / name} is missing", SOURCES[field.rsplit("_", 1)[0]])
            for field, name in missing.items()
            if not (served and field in TRAINING)
        ),
        *(
            Gap(f"{root / name}: no such folder", f"{SOURCES[name]}; unpack it there", size(name))
            for name in folders
        ),
    ]


def settings_gaps(P: Params) -> Iterator[Gap]:
    """Files that parameters name, and nested changes that do not go with the profile."""
    nested = {f"transfer: {title}": c for title, c in P.evaluation.transfer.items()}
    chosen = [v for v in load_variants().values() if v.name in P.ablation.variants]
    nested |= {f"ablation {v.name}": v.changes | P.ablation.changes for v in chosen}
    nested["open_vocabulary_changes"] = P.evaluation.open_vocabulary_changes
    for where, changes in nested.items():
        try:
            within(where, P.changed, changes)
        except InputError as error:
            yield Gap(str(error))
    try:
        load_prompts(ROOT / P.evaluation.prompts)
    except InputError as error:
        yield Gap(str(error))
    named = {
        "retention_imagenet": P.evaluation.retention_imagenet,
        "retention_coco": P.evaluation.retention_coco,
        "failure_videos": P.failure.videos,
        "video": P.video,
    }
    for name, value in named.items():
        if value and not (ROOT / value).exists():
            yield Gap(f"{name}: {ROOT / value} is missing", "correct it, or leave it empty")


def size(folder: str) -> float:
    """GB of the videos in one of the folders of SOURCES, about."""
    return video_gigabytes(BENCHMARK_OF[folder], ("train", "test"))


def video_gigabytes(benchmark: str, splits: Sequence[str], share: float = 1) -> float:
    """GB of a ``share`` of a benchmark's videos, about; 0 where its length is not known."""
    known = yaml.safe_load(BUDGETS.read_text())
    frames = sum(known["frames"].get(benchmark, {}).get(split, 0) for split in splits)
    return share * frames * known["video_bytes_per_frame"] / 1e9


def missing_videos(what: str, source: str, videos: Sequence[Path], total_gb: float = 0) -> list:
    """One gap for those of ``videos`` that are missing or empty; ``total_gb``: size of all."""
    lost = [p for p in dict.fromkeys(videos) if not p.is_file() or not p.stat().st_size]
    if not lost:
        return []
    counted = f"{what}: {len(lost)} of {len(videos)} videos missing, first {lost[0]}"
    return [Gap(counted, source, total_gb * len(lost) / len(videos))]


def benchmark_gaps(
    benchmark: Benchmark, root: Path, videos: Mapping[Split, Callable[[], Sequence[Path]]]
) -> list[Gap]:
    """Lists, truth and videos of a benchmark that are missing, cut short or unreadable.

    ``videos``: the splits in use, with what lists the videos that are read of each.
    """
    source, title = LISTS.format(benchmark.title), benchmark.title
    names = [file for split in videos for file in benchmark.list_files(root, split)]
    names += filter(None, (benchmark.annotation_file, benchmark.class_annotation_file))
    files = [root / benchmark.annotation_root / name for name in names if "{" not in name]
    gaps = [Gap(f"{path}: missing", source) for path in files if not path.is_file()]
    if gaps:  # nothing further can be read
        return gaps
    for split, chosen in videos.items():
        try:
            entries, paths = read_list(benchmark, root, split), chosen()
            if split == "test":
                _check_truth(benchmark, root)
        except InputError as error:
            gaps.append(Gap(str(error), source))
            continue
        published = sum(benchmark.counts.get(split, {}).values())
        if published and len(entries) != published:
            what = f"{title}, {split} list: {len(entries)} videos, published are {published}"
            gaps.append(Gap(what, f"fetch it again: {source}"))
        gigabytes = video_gigabytes(benchmark.name, [split], len(paths) / max(1, len(entries)))
        gaps += missing_videos(f"{title}, {split}", "the dataset's page", paths, gigabytes)
    return gaps


def _check_truth(benchmark: Benchmark, root: Path) -> None:
    if benchmark.annotation_format != "msad":  # whose vector is cut by the videos' lengths
        read_truth(benchmark, root)
        return
    file = root / benchmark.annotation_root / benchmark.annotation_file
    if frames := load_array(file).size % SNIPPET:
        raise InputError(f"{file}: {frames} frames more than whole snippets of {SNIPPET}")
