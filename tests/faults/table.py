"""The table of bad inputs, from the tests themselves: ``python tests/faults/table.py``.

Writes figures/faults.csv: input, what is done, what is said, and the test that shows it. What is
said is what the library said when this was run, with folders as "...".
"""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

TESTS = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))

import test_benchmarks  # noqa: E402
import test_vagta  # noqa: E402

from faults import annotations, disks, training, videos  # noqa: E402
from faults.case import Case  # noqa: E402

CASES: list[Case] = [*annotations.CASES, *videos.CASES, *training.CASES, *disks.CASES]


class Row(NamedTuple):
    """A bad input, what is done, what is said, and the test of it."""

    given: str
    done: str
    says: str
    test: str


# Inputs that tests of their own part already meet: said is what they require of the message.
ELSEWHERE = (
    Row("video: the decoder hangs", "killed; PyAV reads instead, or it is left out", "no answer in",
        "test_video.py::test_a_decoder_that_hangs_is_killed_and_pyav_reads_instead"),
    Row("video: header promises more frames than decode", "counted by decoding", "asked for",
        "test_video.py::test_a_file_whose_header_promises_too_much"),
    Row("video: cut short, text, empty, missing, name of 300 letters", "left out", "(its name)",
        "test_video.py::test_unreadable_files_are_named"),
    Row("video: width the decoder cannot write", "PyAV reads instead", "(nothing)",
        "test_video.py::test_pyav_serves_widths_that_decord_cannot_write"),
    Row("video: a link out of the data root", "left out", "refused: outside the data root",
        "test_clips.py::test_what_cannot_be_read_is_named_and_left_out"),
    Row("video: segment begins after its end", "left out", "begins at 5.00 s",
        "test_clips.py::test_what_cannot_be_read_is_named_and_left_out"),
    Row("split: a video in two of train, dev, test", "stops before any work", "keep it in one",
        "test_clips.py::test_a_video_of_two_splits_stops_the_run"),
    Row("annotation file: 100000 nested lists", "file refused", "cannot be read as JSON",
        "test_vagta.py::test_malformed_files_are_named"),
    Row("annotation item: the same twice", "first one kept", "duplicate item, equal content",
        "test_vagta.py::test_segments_that_overlap_repeat_or_are_odd_are_counted"),
    Row("weights: QuickGELU trap, tag", "refused", "use backbone=ViT-B-32-quickgelu",
        "test_backbone.py::test_weights_of_another_activation_are_refused"),
    Row("weights: QuickGELU trap, file", "refused", "use backbone=ViT-B-32-quickgelu",
        "test_backbone.py::test_a_file_with_a_config_of_another_activation_beside_it_is_refused"),
    Row("weights: .pt file", "refused", "may hold code; convert it to .safetensors",
        "test_backbone.py::test_files_that_are_absent_or_may_hold_code_are_refused"),
    Row("weights: not cached and no network", "refused", "what, from where, where to put it",
        "test_backbone.py::test_missing_weights_say_what_from_where_and_where_to_put_it"),
    Row("benchmark: mask that is a pickle", "refused, not unpickled", "not a readable array",
        "test_benchmarks.py::test_shanghaitech_masks"),
    Row("training: weights that are not a number", "stops, names step and clips", "the clips were",
        "test_training.py::test_nan_names_step_and_clips"),
    Row("training: fewer clips than processes", "stops before any work", "need a clip each",
        "test_distributed.py::test_what_cannot_be_shared_is_said_by_all"),
    Row("training: processes with different data", "all stop", "give all the same files",
        "test_distributed.py::test_what_cannot_be_shared_is_said_by_all"),
    Row("parameter: tokens to keep, and adapters in every block", "stops before training",
        "set lora_blocks", "test_prefix.py::test_nothing_is_kept_where_the_first_block_learns"),
    Row("run: two ./run_all.sh of one profile", "the second stops", "another run is at work",
        "test_run.py::test_one_run_at_a_time"),
)  # fmt: skip


def rows() -> Iterator[Row]:
    """Every row: cases tried now, the parametrised tests of the readers, and named tests."""
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a left-out clip warns, besides its row
            said = case.run(Path(folder).resolve())
        said = said.replace(str(Path(folder).resolve()), "...")
        yield Row(case.given, case.done, said, f"test_faults.py::test_case[{case.given}]")
    for function, given, done in (
        (test_vagta.test_a_bad_item_is_left_out_and_the_others_stay, "annotation item", "left out"),
        (
            test_vagta.test_a_bad_box_drops_its_track_and_keeps_the_item,
            "box",
            "whole frame instead",
        ),
        (test_benchmarks.test_bad_ucf_rows_name_their_line, "UCF-Crime row", "file refused"),
    ):
        for values in parameters(function):
            changes, said = values if isinstance(values, tuple) else (values, "bad box")
            name = f"{Path(function.__code__.co_filename).name}::{function.__name__}"
            yield Row(f"{given}: {changes}", done, said, name)
    yield from ELSEWHERE


def parameters(function: Any) -> list[Any]:
    """The inputs of a parametrised test."""
    (mark,) = (mark for mark in function.pytestmark if mark.name == "parametrize")
    return list(mark.args[1])


def main() -> None:
    """Try every case and write the table."""
    from companion.figures import write_table
    from companion.profiles import ROOT

    table = pd.DataFrame(rows()).rename(columns={"given": "input"})
    table["says"] = table["says"].str.replace(r"\s+", " ", regex=True).str.slice(0, 200)
    table["input"] = table["input"].str.slice(0, 120)
    write_table(table, ROOT / "figures/faults.csv")
    print(f"{len(table)} bad inputs: figures/faults.csv")


if __name__ == "__main__":
    main()
