"""Bad annotation files and items."""

import json
from pathlib import Path
from typing import Any

from test_vagta import NORMAL, item, keyframe, qwen, written
from test_video import SIZE, write_ids

from alertclip.cache import FrameCache
from alertclip.clips import ClipDataset
from alertclip.records import Item, Keyframe, Region
from alertclip.vagta import Report, load_surrogate, load_vagta

from .harness import Case, refused

LEFT_OUT, WHOLE = "item left out, the others stay", "whole frame instead"
BAD_TEXT = {
    "empty": b"",
    "Latin-1": '[{"video": "Fußball.mp4"}]'.encode("latin-1"),
    "UTF-8 with a byte order mark": b"\xef\xbb\xbf[]",
    "cut in its middle": json.dumps([item()]).encode()[:150],
    "still compressed": b"\x1f\x8b\x08\x00" * 9,
}
FILES = [
    *((given, content, "not valid UTF-8 JSON") for given, content in BAD_TEXT.items()),
    ("null", b"null", "expected a list"),
]
LEAVES, TIMES = "path leaves the data root", "not two increasing seconds"
FAR_BOX, MIXED = [[keyframe(bbox=(0, 0, 1e300, 1))]], [[keyframe(), "end"]]
ITEMS: list[tuple[str, dict[str, Any], str, str]] = [
    ("path back and out", {"video": "a/../../b.mp4"}, LEAVES, LEFT_OUT),
    ("absolute path", {"video": "/etc/passwd"}, LEAVES, LEFT_OUT),
    ("path with a drive", {"video": "C:\\x.mp4"}, LEAVES, LEFT_OUT),
    ("line break in the path", {"video": "a\nb.mp4"}, "no video path", LEFT_OUT),
    ("blank caption", {"global_caption": " \t"}, "captions missing or not text", LEFT_OUT),
    ("half a surrogate pair", {"global_caption": "\ud800"}, "captions missing", LEFT_OUT),
    ("no captions", {"region_captions": []}, "captions missing", LEFT_OUT),
    ("captions as one text", {"region_captions": "two men"}, "captions missing", LEFT_OUT),
    ("boxes as an object", {"box_infos": {"0": []}}, "boxes do not match", LEFT_OUT),
    ("negative time", {"timestamps": [-1, 5]}, TIMES, LEFT_OUT),
    ("NaN time", {"timestamps": [float("nan"), 5]}, TIMES, LEFT_OUT),
    ("a time of 1e400", {"timestamps": [0, 10**400]}, TIMES, LEFT_OUT),
    ("boolean times", {"timestamps": [False, True]}, TIMES, LEFT_OUT),
    ("an empty segment", {"timestamps": [3, 3]}, TIMES, LEFT_OUT),
    ("a segment of 1e308 s", {"timestamps": [0, 1e308]}, "longer than 1800 s: kept", "kept"),
    ("3000 words", {"region_captions": ["word " * 3000]}, "over 20 CLIP tokens: kept", "kept"),
    ("null keyframe", {"box_infos": [[None]]}, "bad box", WHOLE),
    ("coordinates of 1e300", {"box_infos": FAR_BOX}, "outside the frame", WHOLE),
    ("a track with a text in it", {"box_infos": MIXED}, "bad box", WHOLE),
]
NO_INDEX = ("region_index", "region left out", 1)
ROWS: list[tuple[str, dict[str, Any], str, str, int]] = [
    ("index true", {"region_index": True}, *NO_INDEX),
    ("index below 0", {"region_index": -1}, *NO_INDEX),
    ("no caption", {"region_caption": None}, "no region caption", "region left out", 1),
    ("frames in reverse", {"frames_25": [20, 2]}, "frames_25", "whole clip as its span", 2),
    ("frames NaN", {"frames_25": [float("nan"), 2]}, "frames_25", "whole clip", 2),
    ("negatives as an object", {"hard_negative": {"a": 1}}, "not a list", "no hard negatives", 2),
]


def told(report: Report) -> str:
    """What a report says of its rows."""
    return "; ".join(f"{row.reason}: {row.action}" for row in report.rows)


def file_case(given: str, content: bytes, says: str) -> Case:
    def run(folder: Path) -> str:
        (folder / "annotations.json").write_bytes(content)
        return refused(load_vagta, folder / "annotations.json")

    return Case(f"annotation file: {given}", "file refused", rf"annotations\.json: .*{says}", run)


def item_case(given: str, changes: dict[str, Any], says: str, done: str) -> Case:
    def run(folder: Path) -> str:
        good = item(video="MSAD/MSAD_Videos/Normal_Testing/a b.mp4", box_infos=[[]])
        items, report = load_vagta(written(folder, [item(**changes), good]))
        assert len(items) == (1 if done == LEFT_OUT else 2) and items[-1].video == good["video"]
        return told(report)

    return Case(f"annotation item: {given}", done, says, run)


def region_case(given: str, changes: dict[str, Any], says: str, done: str, kept: int) -> Case:
    def run(folder: Path) -> str:
        rows = [qwen(**changes), qwen(video=NORMAL)]
        items, report = load_surrogate(written(folder, {"items": rows}))
        assert len(items) == kept
        return told(report)

    return Case(f"hard-negative row: {given}", done, says, run)


def twice(folder: Path) -> str:
    items, report = load_vagta(written(folder, [item(), item(global_caption="Fighting: other")]))
    assert len(items) == 1
    return told(report)


def far_frames(folder: Path) -> str:
    write_ids(folder / "a.mp4")
    track = (Keyframe(10**15, (0, 0, 1, 1)), Keyframe(int(1e308), (0, 0, 1, 1)))
    items = [Item("a.mp4", "Normal video: a", (Region("a", track),), (0.0, 1e308))]
    dataset = ClipDataset(folder, items, 4, FrameCache(folder / "cache", SIZE), 1, cover=True)
    assert dataset[0]["regions"][0][1].sum() == 1  # the region keeps its nearest frame
    return "; ".join(f"{note.reason}: {note.action}" for note in dataset.notes)


CASES = [
    *(file_case(*row) for row in FILES),
    *(item_case(*row) for row in ITEMS),
    *(region_case(*row) for row in ROWS),
    Case("annotation item: twice, differently", "first one kept", "duplicate item, diff", twice),
    Case("annotation item: ages after its video", "clipped to the video",
         "segment ends at .* its video at 1.33 s: clipped; region ends", far_frames),
]  # fmt: skip
