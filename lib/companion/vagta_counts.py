"""What Alert-CLIP says of VAGTA against its published files."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from alertclip.errors import InputError
from alertclip.files import read_json
from alertclip.records import MAX_TOKENS, token_count
from alertclip.vagta import strip_prefix
from companion.profiles import Params
from detectors.benchmarks import load_benchmark

HOLDS, CONTRADICTED, DOUBTFUL = "holds", "contradicted", "doubtful"
Results = Iterator[tuple[str, float | str, str, str]]  # check, computed, verdict, finding


def holds(right: bool, otherwise: str = CONTRADICTED) -> str:
    """The verdict of a comparison."""
    return HOLDS if right else otherwise


def vagta_files(P: Params) -> Results:
    """Counts in VAGTA's published files; nothing on another world or without the files."""
    try:
        if P.data.world != "vagta":
            return
        test = read_json(P.data_dir / P.data.annotations_test)
        train = read_json(P.data_dir / P.data.hard_negatives_train)["items"]
    except (InputError, KeyError, TypeError):  # missing, or of another shape
        return
    yield from _training_file(train)
    yield from _test_file(test)


def _training_file(train: list[dict[str, Any]]) -> Results:
    abnormal = [row for row in train if row["frames_25"] is not None]
    normal = [row for row in train if row["frames_25"] is None]
    total, some, rest = (len({row["video"] for row in rows}) for rows in (train, abnormal, normal))
    yield "training items", len(train), holds(len(train) == 3726), f"of {total:,} videos"
    finding = f"regions of {some:,} videos, not clips"
    yield "abnormal training items", len(abnormal), holds(len(abnormal) == some), finding
    finding = f"segments of {rest:,} videos"
    yield "normal training items", len(normal), holds(len(normal) == 2585), finding
    usual, number = Counter(len(row["hard_negative"]) for row in train).most_common(1)[0]
    finding = f"{number:,} of {len(train):,} have {usual}"
    yield "hard negatives per caption", usual, holds(number > 0.99 * len(train)), finding
    lengths = [token_count(text) for row in train for text in row["hard_negative"]]
    long = sum(length > MAX_TOKENS for length in lengths)
    finding = f"{long:,} of {len(lengths):,} are longer than {MAX_TOKENS} tokens"
    yield "longest hard negative", max(lengths), holds(not long), finding
    ucf = len({row["video"] for row in train if row["video"].startswith("UCF_Crimes_Videos/")})
    official = sum(load_benchmark("ucf_crime").counts["train"].values())
    finding = f"of UCF-Crime's {official:,} training videos, {ucf:,} are in VAGTA with captions"
    yield "in-domain zero-shot", ucf, holds(ucf == 0), finding


def _test_file(test: list[dict[str, Any]]) -> Results:
    videos, regions = len({row["video"] for row in test}), [row["region_captions"] for row in test]
    counts = len(test), videos, sum(map(len, regions))
    finding = "{} items, {} videos, {} regions".format(*counts)
    yield "test items", len(test), holds(486 in counts), finding
    captions = [row["global_caption"] for row in test]
    labelled = sum(strip_prefix(caption) != caption for caption in captions)
    finding = f"{labelled} of {len(captions)} begin with the class or with Normal"
    yield "class prefix", labelled, holds(not labelled, DOUBTFUL), finding
    boxes = [k["bbox"] for row in test for track in row["box_infos"] for k in track]
    largest = max(map(max, boxes))
    finding = f"{len(boxes):,} boxes, largest coordinate {largest:.3f}: shares of the frame"
    yield "box coordinates", largest, holds(largest > 2), finding
