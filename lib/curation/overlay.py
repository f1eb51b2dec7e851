"""``vagta-clean``: a hard-negative file without what fails, and planted faults to test it with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.files import read_json, write_json
from alertclip.records import frame_time
from curation.audit import CONTRACT, read_regions, share_interval
from curation.contract import NEGATIVES
from curation.negatives import write_unit
from curation.writers import Unit, Writer

DROPPED = (*CONTRACT[1:], "cut off")  # what is wrong with one string whatever the video shows
FAULTS = (*CONTRACT[:5], "cut off", "fantastical", "wrong polarity")
LONG_TAIL = ", seen by a fixed camera high up on a wall at some distance from everybody in view"
ACTS = ("floating in mid-air", "turning into statues", "glowing in the dark")
FOREIGN = "穿梭"  # "shuttle to and fro", as it stands in eight of VAGTA's own captions


def clean(
    path_in: Path,
    path_out: Path,
    table: pd.DataFrame,
    kinds: Sequence[str] = DROPPED,
    writer: Writer | None = None,
) -> pd.DataFrame:
    """Write a copy of a hard-negative file without the negatives flagged as any of ``kinds``.

    table: ``negatives_table`` of path_in, with flag columns of one's own if wanted. With a
    ``writer``, a region that lost or lacks negatives gets three new ones that keep the contract,
    where it manages. Returns what was done: key, negative, kind, action (dropped | rewritten).
    """
    if unknown := [kind for kind in kinds if kind not in table]:
        raise InputError(f"{path_out.name}: no flag is called {', '.join(unknown)}")
    content, regions = read_json(path_in), read_regions(path_in)
    failed = table[table[list(kinds)].any(axis=1)]
    bad = {key: set(part["position"]) for key, part in failed.groupby("key")}
    rewritten: set[str] = set()
    for row, region in zip(content["items"], regions.to_dict("records"), strict=True):
        kept = [t for i, t in enumerate(region["negatives"]) if i not in bad.get(region["key"], ())]
        if writer is not None and len(kept) < NEGATIVES:
            made = write_unit(writer, _unit(row, region), repairs=2)["negatives"]
            kept, rewritten = (made, rewritten | {region["key"]}) if made else (kept, rewritten)
        row["hard_negative"] = kept
    write_json(path_out, content)
    return _actions(failed, kinds, rewritten)


def _unit(row: dict[str, Any], region: dict[str, Any]) -> Unit:
    span, frames = row.get("timestamps"), row.get("frames_25")
    seconds = tuple(frame_time(f) for f in frames) if frames else span and tuple(span)
    return Unit(
        region["video"],
        region["region_index"],
        region["caption"],
        region["abnormal"],
        span and tuple(span),
        frames and tuple(frames),
        seconds,
    )


def _actions(failed: pd.DataFrame, kinds: Sequence[str], rewritten: set[str]) -> pd.DataFrame:
    rows = [
        {
            "key": row["key"],
            "negative": row["negative"],
            "kind": ", ".join(kind for kind in kinds if row[kind]),
            "action": "rewritten" if row["key"] in rewritten else "dropped",
        }
        for row in failed.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=["key", "negative", "kind", "action"])


def plant_faults(
    path_in: Path, path_out: Path, share: float, seed: int, kinds: Sequence[str] = FAULTS
) -> pd.DataFrame:
    """Write a copy of a hard-negative file with a share of its regions spoilt, by seed.

    Each spoilt region has one of ``kinds``, each equally often, in all its negatives (repeated: all
    but the first). "wrong polarity" puts captions of other regions of the same class in their
    place: true descriptions called false. Returns what was planted, one row per negative: key,
    position, kind, before, after (empty for "missing").
    """
    if not 0 <= share <= 1:
        raise InputError(f"share of planted faults is {share}: give a number from 0 to 1")
    if unknown := sorted(set(kinds) - set(FAULTS)) or not kinds:
        raise InputError(f"faults {unknown}: choose of {', '.join(FAULTS)}")
    content, regions = read_json(path_in), read_regions(path_in).to_dict("records")
    rng = np.random.default_rng(seed)
    rows = []
    for number, chosen in enumerate(rng.permutation(len(regions))[: round(share * len(regions))]):
        region, kind = regions[chosen], kinds[number % len(kinds)]
        spoilt = _spoilt(kind, region, regions, rng)
        content["items"][chosen]["hard_negative"] = spoilt
        after = spoilt or [""] * len(region["negatives"])
        for position, texts in enumerate(zip(region["negatives"], after, strict=True)):
            if not (kind == "repeated" and position == 0):
                rows.append((region["key"], position, kind, *texts))
    write_json(path_out, content)
    return pd.DataFrame(rows, columns=["key", "position", "kind", "before", "after"])


def _spoilt(
    kind: str,
    region: dict[str, Any],
    regions: Sequence[dict[str, Any]],
    rng: np.random.Generator,
) -> list[str]:
    """The negatives of a region with a fault in each."""
    texts, caption = region["negatives"], region["caption"]
    if kind == "missing":
        return []
    if kind == "over-long":
        return [text.rstrip(".") + LONG_TAIL for text in texts]
    if kind == "not English":
        return [FOREIGN.join(_cut(text)) for text in texts]
    if kind == "cut off":
        return [" ".join(text.split()[:-2]) for text in texts]
    if kind == "repeated":
        return texts[:1] * len(texts)
    if kind == "equal to the positive":
        return [caption] * len(texts)
    if kind == "fantastical":
        return [f"{caption.rstrip('.')} while {act}" for act, _ in zip(ACTS, texts, strict=False)]
    same = [r["caption"] for r in regions if r["class_name"] == region["class_name"]]
    others = sorted({text for text in same if text != caption}) or [caption]
    return [others[i] for i in rng.integers(len(others), size=len(texts))]


def _cut(text: str) -> tuple[str, str]:
    """The text in two behind its first word."""
    first, blank, rest = text.partition(" ")
    return first, blank + rest


def recall_table(
    planted: pd.DataFrame,
    regions: pd.DataFrame,
    table: pd.DataFrame,
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of the planted faults of each kind that the audit of the spoilt file flags.

    Columns kind, count (found), n (planted), value, low, high; regions are resampled. A kind that
    ``table`` has no flag for, such as "wrong polarity" without a judge, is found nowhere.
    """
    short = set(regions.loc[regions["negatives"].map(len) < NEGATIVES, "key"])
    places = table.set_index(["key", "position"])
    rows = []
    for kind, part in planted.groupby("kind", sort=False):
        if kind == "missing":
            hits = part["key"].isin(short).to_numpy()
        elif kind in places:
            hits = places.loc[
                list(zip(part["key"], part["position"], strict=True)), kind
            ].to_numpy()
        else:
            hits = np.zeros(len(part), bool)
        interval = share_interval(hits.astype(float), part["key"], n_boot, seed)
        rows.append({"kind": kind, "count": int(hits.sum()), **interval._asdict()})
    return pd.DataFrame(rows)
