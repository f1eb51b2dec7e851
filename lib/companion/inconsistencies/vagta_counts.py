"""What is said of VAGTA against its published files."""

from collections import Counter
from typing import Any, NamedTuple

from alertclip.caption_checks import MAX_TOKENS, token_count
from alertclip.errors import InputError
from alertclip.files import read_json
from alertclip.vagta import strip_prefix
from companion.inconsistencies.check import CONTRADICTED, DOUBTFUL, HOLDS, Check, Outcome, agree
from companion.profiles import Params
from detectors.benchmarks import load_benchmark

COUNT = "Alert-CLIP | VAGTA | {} | count"
TOKENS = "Alert-CLIP supplementary | A.4 | tokens, at most | value"
UCF = "UCF_Crimes_Videos/"


class Files(NamedTuple):
    """Items as published: test annotations, and regions or segments of training videos."""

    test: list[dict[str, Any]]
    train: list[dict[str, Any]]


def read_files(P: Params) -> Files | None:
    """The published files; None on another world or where one is missing or of another shape."""
    if P.data.world != "vagta":
        return None
    try:
        test = read_json(P.data_dir / P.data.annotations_test)
        train = read_json(P.data_dir / P.data.hard_negatives_train)["items"]
    except (InputError, KeyError, TypeError):
        return None
    return Files(test, train)


def training_items(files: Files) -> Outcome:
    """Items of the training file."""
    videos = len({row["video"] for row in files.train})
    return Outcome(len(files.train), agree(len(files.train) == 3726), f"of {videos:,} videos")


def abnormal_items(files: Files) -> Outcome:
    """Abnormal "clips" are regions, several to a video."""
    rows = [row for row in files.train if row["frames_25"] is not None]
    videos = len({row["video"] for row in rows})
    return Outcome(
        len(rows), agree(len(rows) == videos), f"regions of {videos:,} videos, not clips"
    )


def normal_items(files: Files) -> Outcome:
    """Normal clips are segments."""
    rows = [row for row in files.train if row["frames_25"] is None]
    videos = len({row["video"] for row in rows})
    return Outcome(len(rows), agree(len(rows) == 2585), f"segments of {videos:,} videos")


def test_items(files: Files) -> Outcome:
    """No count of the test file is the stated one."""
    videos = len({row["video"] for row in files.test})
    regions = sum(len(row["region_captions"]) for row in files.test)
    finding = f"{len(files.test)} items, {videos} videos, {regions} regions"
    return Outcome(len(files.test), agree(486 in (len(files.test), videos, regions)), finding)


def negatives_per_caption(files: Files) -> Outcome:
    """Hard negatives of each region caption."""
    (usual, number), *others = Counter(len(r["hard_negative"]) for r in files.train).most_common()
    finding = f"{number:,} of {len(files.train):,} have {usual}"
    return Outcome(usual, HOLDS if not others or number > 0.99 * len(files.train) else CONTRADICTED,
                   finding)  # fmt: skip


def longest_negative(files: Files) -> Outcome:
    """CLIP tokens of the hard negatives."""
    lengths = [token_count(text) for row in files.train for text in row["hard_negative"]]
    long = sum(length > MAX_TOKENS for length in lengths)
    finding = f"{long:,} of {len(lengths):,} are longer than {MAX_TOKENS} tokens"
    return Outcome(max(lengths), agree(not long), finding)


def class_prefix(files: Files) -> Outcome:
    """Global captions that begin with their label."""
    captions = [row["global_caption"] for row in files.test]
    stated = sum(strip_prefix(caption) != caption for caption in captions)
    finding = f"{stated} of {len(captions)} begin with the class or with Normal"
    return Outcome(stated, DOUBTFUL if stated else HOLDS, finding)


def in_domain(files: Files) -> Outcome:
    """UCF-Crime's training videos that the zero-shot model was tuned on."""
    videos = len({row["video"] for row in files.train if row["video"].startswith(UCF)})
    official = sum(load_benchmark("ucf_crime").counts["train"].values())
    finding = f"of UCF-Crime's {official:,} training videos, {videos:,} are in VAGTA with captions"
    return Outcome(videos, agree(videos == 0), finding)


def box_units(files: Files) -> Outcome:
    """The largest coordinate of a box."""
    boxes = [k["bbox"] for row in files.test for track in row["box_infos"] for k in track]
    largest = max(max(box) for box in boxes)
    finding = f"{len(boxes):,} boxes, largest coordinate {largest:.3f}: shares of the frame"
    return Outcome(largest, agree(largest > 2), finding)


CHECKS = (
    Check("training items", "Alert-CLIP", "training clips", COUNT.format("training clips"),
          training_items, (COUNT.format("training clips"),)),
    Check("abnormal training items", "Alert-CLIP", "abnormal training clips",
          COUNT.format("abnormal training clips"), abnormal_items,
          (COUNT.format("abnormal training clips"),)),
    Check("normal training items", "Alert-CLIP", "normal training clips",
          COUNT.format("normal training clips"), normal_items,
          (COUNT.format("normal training clips"),)),
    Check("test items", "Alert-CLIP", "test clips", COUNT.format("test clips"), test_items,
          (COUNT.format("test clips"),)),
    Check("hard negatives per caption", "Alert-CLIP", "hard negatives of a caption",
          COUNT.format("hard negatives per region caption"), negatives_per_caption,
          (COUNT.format("hard negatives per region caption"),)),
    Check("longest hard negative", "Alert-CLIP supplementary", "tokens of a hard negative", TOKENS,
          longest_negative, (TOKENS,)),
    Check("class prefix", "Alert-CLIP", "global captions describe what is seen", "no label in them",
          class_prefix),
    Check("in-domain zero-shot", "Alert-CLIP", "UCF-Crime is tested zero-shot",
          "no training video of it", in_domain),
    Check("box coordinates", "Alert-CLIP supplementary", "boxes are in pixels", "pixels",
          box_units),
)  # fmt: skip
