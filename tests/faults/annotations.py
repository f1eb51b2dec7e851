"""Bad annotation files and items."""

import json
from pathlib import Path
from typing import Any

from test_vagta import NORMAL, item, keyframe, qwen, written
from test_video import SIZE, write_ids

from alertclip.cache import FrameCache
from alertclip.clips import ClipDataset
from alertclip.records import Item, Keyframe, Region
from alertclip.vagta import load_surrogate, load_vagta

from .case import Case, refused

REFUSED, LEFT_OUT = "file refused", "item left out, the others stay"
LATIN, WIDE = '[{"video": "Fußball.mp4"}]'.encode("latin-1"), json.dumps([item()]).encode("utf-16")


def file_case(given: str, content: bytes, says: str) -> Case:
    """An annotation file of these bytes."""

    def run(folder: Path) -> str:
        path = folder / "annotations.json"
        path.write_bytes(content)
        return refused(load_vagta, path)

    return Case(f"annotation file: {given}", REFUSED, rf"annotations\.json: .*{says}", run)


def item_case(given: str, changes: dict[str, Any], says: str, done: str = LEFT_OUT) -> Case:
    """An item with these changes, beside a good one."""

    def run(folder: Path) -> str:
        good = item(video="MSAD/MSAD_Videos/Normal_Testing/a b.mp4", box_infos=[[]])
        items, report = load_vagta(written(folder, [item(**changes), good]))
        assert len(items) == (1 if done == LEFT_OUT else 2) and items[-1].video == good["video"]
        return "; ".join(f"{row.reason}: {row.action}" for row in report.rows)

    return Case(f"annotation item: {given}", done, says, run)


def region_case(given: str, changes: dict[str, Any], says: str, done: str, kept: int) -> Case:
    """A row of the hard-negative file with these changes."""

    def run(folder: Path) -> str:
        rows = [qwen(**changes), qwen(video=NORMAL)]
        items, report = load_surrogate(written(folder, {"items": rows}))
        assert len(items) == kept
        return "; ".join(f"{row.reason}: {row.action}" for row in report.rows)

    return Case(f"hard-negative row: {given}", done, says, run)


def twice(folder: Path) -> str:
    """One clip annotated twice, differently."""
    items, report = load_vagta(written(folder, [item(), item(global_caption="Fighting: other")]))
    assert len(items) == 1
    return "; ".join(f"{row.reason}: {row.action}" for row in report.rows)


def far_frames(folder: Path) -> str:
    """A box a million years after the video."""
    write_ids(folder / "a.mp4")
    track = (Keyframe(10**15, (0, 0, 1, 1)), Keyframe(int(1e308), (0, 0, 1, 1)))
    items = [Item("a.mp4", "Normal video: a", (Region("a", track),), (0.0, 1e308))]
    dataset = ClipDataset(folder, items, 4, FrameCache(folder / "cache", SIZE), 1, cover=True)
    assert dataset[0]["regions"][0][1].sum() == 1  # the region keeps its nearest frame
    return "; ".join(f"{note.reason}: {note.action}" for note in dataset.notes)


CASES = [
    file_case("empty", b"", "not valid UTF-8 JSON"),
    file_case("Latin-1", LATIN, "not valid UTF-8 JSON"),
    file_case("UTF-16", WIDE, "not valid UTF-8 JSON"),
    file_case("UTF-8 with a byte order mark", b"\xef\xbb\xbf[]", "not valid UTF-8 JSON"),
    file_case("cut in its middle", json.dumps([item()]).encode()[:150], "not valid UTF-8 JSON"),
    file_case("zeros after a power cut", bytes(500), "not valid UTF-8 JSON"),
    file_case("still compressed", b"\x1f\x8b\x08\x00" * 9, "not valid UTF-8 JSON"),
    file_case("two files in one", b"[][]", "Extra data"),
    file_case("null", b"null", "expected a list"),
    file_case("a text", b'"items"', "expected a list"),
    item_case("path back and out", {"video": "a/../../b.mp4"}, "path leaves the data root"),
    item_case("path with a drive", {"video": "C:\\x.mp4"}, "path leaves the data root"),
    item_case("path is a dot", {"video": "."}, "path leaves the data root"),
    item_case("line break in the path", {"video": "a\nb.mp4"}, "no video path"),
    item_case("path is a list", {"video": ["a.mp4"]}, "no video path"),
    item_case("blank caption", {"global_caption": " \t"}, "captions missing or not text"),
    item_case("captions as one text", {"region_captions": "two men"}, "captions missing"),
    item_case("boxes as an object", {"box_infos": {"0": []}}, "boxes do not match"),
    item_case("negative time", {"timestamps": [-1, 5]}, "not two increasing seconds"),
    item_case("NaN time", {"timestamps": [float("nan"), 5]}, "not two increasing seconds"),
    item_case("boolean times", {"timestamps": [False, True]}, "not two increasing seconds"),
    item_case("three times", {"timestamps": [0, 1, 2]}, "not two increasing seconds"),
    item_case("an empty segment", {"timestamps": [3, 3]}, "not two increasing seconds"),
    item_case(
        "a segment of 1e308 s",
        {"timestamps": [0, 1e308]},
        "longer than 1800 s: kept",
        "kept, clipped to the video",
    ),
    item_case(
        "a caption of 3000 words",
        {"region_captions": ["word " * 3000]},
        "over 20 CLIP tokens: kept",
        "kept, cut to CLIP's context",
    ),
    item_case("null keyframe", {"box_infos": [[None]]}, "bad box", "whole frame instead"),
    item_case(
        "coordinates of 1e300",
        {"box_infos": [[keyframe(bbox=(0, 0, 1e300, 1))]]},
        "outside the frame",
        "whole frame instead",
    ),
    item_case(
        "a track with a text in it",
        {"box_infos": [[keyframe(), "end"]]},
        "bad box",
        "whole frame instead",
    ),
    Case("annotation item: twice, differently", "first one kept", "duplicate item, diff", twice),
    Case(
        "annotation item: boxes and segment ages after the video",
        "clipped to the video",
        "segment ends at .* its video at 1.33 s: clipped; region ends",
        far_frames,
    ),
    region_case("index true", {"region_index": True}, "region_index", "region left out", 1),
    region_case("index below 0", {"region_index": -1}, "region_index", "region left out", 1),
    region_case("no caption", {"region_caption": None}, "no region caption", "region left out", 1),
    region_case(
        "frames in reverse", {"frames_25": [20, 2]}, "frames_25", "whole clip as its span", 2
    ),
    region_case("frames NaN", {"frames_25": [float("nan"), 2]}, "frames_25", "whole clip", 2),
    region_case(
        "negatives as an object",
        {"hard_negative": {"a": 1}},
        "not a list",
        "region without hard-negative loss",
        2,
    ),
]
