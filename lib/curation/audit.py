"""Audit of a published hard-negative file: what in it breaks the contract, and how varied it is.

Intervals are 95 % bootstraps that resample videos, as the captions of one video resemble one
another.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from alertclip.caption_checks import is_text, token_count
from alertclip.errors import InputError
from alertclip.files import read_json
from alertclip.intervals import Interval, bootstrap_interval, ratio
from alertclip.records import Item, item_key
from curation.contract import NEGATIVES, normal_form, violations
from curation.fantastical import fantastical_group

CONTRACT = ("missing", "over-long", "not English", "repeated", "equal to the positive", "not text")
OTHER = ("cut off", "repeated in another region", "caption of another region", "fantastical")
DIRECTIONS = {True: "abnormal to normal", False: "normal to abnormal"}
WORD = re.compile(r"[a-z']+")

CLOSED = re.compile(r"[.!?][\"”'’)]?\s*$")


def read_regions(path: Path | str) -> pd.DataFrame:
    """Regions of a hard-negative file as published, nothing mended.

    Columns region (row number), key, video, region_index, class_name, abnormal, caption and
    negatives (the list as it stands; empty where there is none).
    InputError if the file is not of VAGTA's schema, naming the first item that is not.
    """
    content = read_json(path)
    rows = content.get("items") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected an object with a list named items, not empty")
    found = [_region(row, f"{path}, item {n}") for n, row in enumerate(rows)]
    return pd.DataFrame([{"region": n, **row} for n, row in enumerate(found)])


def _region(row: object, where: str) -> dict[str, object]:
    named = isinstance(row, dict) and is_text(row.get("video")) and "region_index" in row
    if not named or not is_text(row.get("region_caption")):
        raise InputError(f"{where}: needs video, region_index and region_caption")
    item = Item(row["video"], "", ())
    span, negatives = row.get("timestamps"), row.get("hard_negative")
    if span is not None and not (isinstance(span, list) and len(span) == 2):
        raise InputError(f"{where}: timestamps are not two seconds")
    return {
        "key": f"{item_key(row['video'], span and tuple(span))} region {row['region_index']}",
        "video": row["video"],
        "region_index": row["region_index"],
        "class_name": item.class_name,
        "abnormal": item.is_abnormal,
        "caption": row["region_caption"],
        "negatives": negatives if isinstance(negatives, list) else [],
    }


def negatives_table(regions: pd.DataFrame) -> pd.DataFrame:
    """One row per hard negative: its region's columns, tokens, overlap, and a flag per kind.

    Columns region, key, video, region_index, class_name, abnormal, caption, position, negative,
    tokens, overlap, and a bool column for each of CONTRACT (but missing) and OTHER.
    """
    rows = []
    for region in regions.to_dict("records"):
        broken = violations(region["negatives"], region["caption"])
        for position, text in enumerate(region["negatives"]):
            kinds = {v.kind for v in broken if v.index == position}
            row = {name: value for name, value in region.items() if name != "negatives"}
            row |= {"position": position, "negative": text if is_text(text) else ""}
            rows.append(row | {kind: kind in kinds for kind in CONTRACT[1:]})
    if not rows:
        raise InputError("no region has a hard negative: there is nothing to audit")
    table = pd.DataFrame(rows)
    table["tokens"] = table["negative"].map(token_count)
    pairs = zip(table["negative"], table["caption"], strict=True)
    table["overlap"] = [jaccard(negative, caption) for negative, caption in pairs]
    elsewhere = _repeated_elsewhere(table, regions)
    added = {"cut off": _cut_off(table), **elsewhere, "fantastical": _fantastical(table)}
    return table.assign(**added)


def jaccard(a: str, b: str) -> float:
    """Shared share of the distinct words of two captions: |A and B| / |A or B|, 0 if both empty."""
    left, right = set(words(a)), set(words(b))
    return len(left & right) / len(left | right) if left | right else 0.0


def words(text: str) -> list[str]:
    """Words of a caption, lower case, letters only."""
    return WORD.findall(text.casefold())


def _fantastical(table: pd.DataFrame) -> pd.Series:
    """Only rewrites of normal captions count: elsewhere such words are a matter of polarity."""
    pairs = zip(table["negative"], table["caption"], strict=True)
    groups = pd.Series([fantastical_group(text, own) for text, own in pairs], table.index)
    return ~table["abnormal"] & groups.ne("")


def _cut_off(table: pd.DataFrame) -> pd.Series:
    """A sentence without its end, where the caption has one: cut by a limit on its length."""
    closed = [table[name].map(lambda t: bool(CLOSED.search(t))) for name in ("caption", "negative")]
    return closed[0] & ~closed[1] & table["negative"].ne("")


def _repeated_elsewhere(table: pd.DataFrame, regions: pd.DataFrame) -> dict[str, pd.Series]:
    forms = table["negative"].map(normal_form)
    regions_with = forms.to_frame("form").assign(region=table["region"]).drop_duplicates()["form"]
    captions = regions["caption"].map(normal_form)
    own = table["caption"].map(normal_form)
    return {
        "repeated in another region": forms.map(regions_with.value_counts()) > 1,
        "caption of another region": forms.isin(set(captions)) & (forms != own),
    }


def violation_table(
    regions: pd.DataFrame, table: pd.DataFrame, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Hard negatives of each kind: columns direction, kind, count, n, value, low, high (shares).

    n counts the negatives there are; for "missing", those there should be.
    """
    rows = []
    for name, abnormal in [("all", None), *((v, k) for k, v in DIRECTIONS.items())]:
        part = table if abnormal is None else table[table["abnormal"] == abnormal]
        units = regions if abnormal is None else regions[regions["abnormal"] == abnormal]
        if part.empty:
            continue
        absent = (NEGATIVES - units["negatives"].map(len)).clip(lower=0)
        rows.append({"direction": name, "kind": "missing"} | _share(absent, units, n_boot, seed))
        for kind in flags(table):
            row = {"direction": name, "kind": kind}
            rows.append(row | _share(part[kind], part, n_boot, seed, each=1))
    return pd.DataFrame(rows)


def flags(table: pd.DataFrame) -> list[str]:
    """Names of the flag columns, in the order in which they were added."""
    known = [kind for kind in (*CONTRACT, *OTHER) if kind in table]
    added = [c for c in table if table[c].dtype == bool and c not in (*known, "abnormal")]
    return [*known, *added]


def by_class(
    table: pd.DataFrame, kinds: Sequence[str], n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Share of each kind per class: columns class_name, kind, count, n, value, low, high."""
    rows = [
        {"class_name": name, "kind": kind} | _share(part[kind], part, n_boot, seed, each=1)
        for name, part in table.groupby("class_name")
        for kind in kinds
    ]
    return pd.DataFrame(rows)


def _share(
    counts: pd.Series, part: pd.DataFrame, n_boot: int, seed: int, each: int = NEGATIVES
) -> dict[str, float]:
    interval = share_interval(counts.to_numpy(float), part["video"], n_boot, seed, each)
    return {
        "count": int(counts.sum()),
        "n": each * len(part),
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
    }


def share_interval(
    counts: np.ndarray, videos: Iterable[str], n_boot: int, seed: int, each: int = 1
) -> Interval:
    """counts (M,) of ``each`` possible per row, as a share of all, resampling videos.

    Where nothing or everything counts, resampling is blind: Wilson's interval over the videos.
    """
    frame = pd.DataFrame({"count": counts, "n": float(each), "video": list(videos)})
    values = frame.groupby("video")[["count", "n"]].sum().to_numpy()
    share = values[:, 0].sum() / values[:, 1].sum()
    if share in (0.0, 1.0):
        size = len(values)
        wilson = binomtest(round(share * size), size).proportion_ci(method="wilson")
        return Interval(float(share), float(wilson.low), float(wilson.high), len(frame))
    return bootstrap_interval(values, ratio, n_boot, seed)._replace(n=len(frame))


def overlap_table(table: pd.DataFrame, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Mean word overlap of negatives with their caption: direction, value, low, high, n."""
    rows = []
    for abnormal, name in DIRECTIONS.items():
        part = table[table["abnormal"] == abnormal]
        if len(part):
            interval = share_interval(part["overlap"].to_numpy(), part["video"], n_boot, seed)
            rows.append({"direction": name, **interval._asdict()})
    return pd.DataFrame(rows)


def richness_table(
    regions: pd.DataFrame, table: pd.DataFrame, size: int = 5000, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Distinct words per word in ``size`` words, and distinct captions, of four kinds of text.

    The ratio falls with length, so texts are compared at equal length: whole videos are drawn until
    ``size`` words are reached. value is the mean of the draws, low and high hold 95 % of them (nan
    where a text is too short); distinct is the share of captions that differ.
    """
    rows = []
    for abnormal, word in ((True, "abnormal"), (False, "normal")):
        captions = regions[regions["abnormal"] == abnormal]
        negatives = table[table["abnormal"] != abnormal]  # rewrites that should be of this kind
        for name, texts, videos in (
            (f"{word} captions", captions["caption"], captions["video"]),
            (f"{word} negatives", negatives["negative"], negatives["video"]),
        ):
            if len(texts):
                rows.append({"texts": name} | _richness(texts, videos, size, draws, seed))
    return pd.DataFrame(rows)


def _richness(
    texts: pd.Series, videos: pd.Series, size: int, draws: int, seed: int
) -> dict[str, float]:
    grouped = [sum(map(words, part), []) for _, part in texts.groupby(videos.to_numpy())]
    row = {"n": len(texts), "distinct": texts.map(normal_form).nunique() / len(texts)}
    if sum(map(len, grouped)) < size:
        return row | {"value": np.nan, "low": np.nan, "high": np.nan}
    rng, ratios = np.random.default_rng(seed), []
    for _ in range(draws):
        taken: list[str] = []
        for i in rng.permutation(len(grouped)):
            taken += grouped[i]
            if len(taken) >= size:
                break
        ratios.append(len(set(taken[:size])) / size)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return row | {"value": float(np.mean(ratios)), "low": float(low), "high": float(high)}


def sample_sheet(table: pd.DataFrame, per_direction: int = 50, seed: int = 0) -> pd.DataFrame:
    """Negatives drawn by seed for human eyes, with empty columns to fill in.

    Columns key, class_name, caption, negative, flags, polarity_inverted, same_scene, remark.
    """
    parts = [
        part.sample(min(per_direction, len(part)), random_state=seed)
        for _, part in table.groupby("abnormal", sort=True)
    ]
    sheet, kinds = pd.concat(parts), flags(table)
    named = [", ".join(k for k in kinds if row[k]) for row in sheet[kinds].to_dict("records")]
    columns = sheet[["key", "class_name", "caption", "negative"]].reset_index(drop=True)
    return columns.assign(flags=named, polarity_inverted="", same_scene="", remark="")
