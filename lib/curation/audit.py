"""Audit of a published hard-negative file: what in it breaks the contract, how varied it is.

``python -m curation.audit FILE --out audit`` writes audit.csv, a copy of the file without what
fails (vagta-clean.json) and what was left out (vagta-clean.csv). Intervals are 95% bootstraps over
videos, since the captions of one video resemble one another.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from alertclip.intervals import Interval, ratio
from alertclip.mss import bootstrap_interval
from alertclip.records import Item, is_text, item_key
from curation import PARAMS
from curation.contract import NEGATIVES, normal_form, violations
from media.errors import InputError
from media.files import read_json, write_json, write_table

CONTRACT = ("missing", "over-long", "not English", "repeated", "equal to the positive", "not text")
OTHER = ("cut off", "repeated in another region", "caption of another region", "fantastical")
DROPPED = (*CONTRACT[1:], "cut off")  # wrong whatever the video shows
SEED = 42
CLOSED = r"[.!?][\"”'’)]?\s*$"
STEMS = yaml.safe_load((PARAMS / "facts" / "fantastical.yaml").read_text(encoding="utf-8"))
FANTASTICAL = [re.compile(rf"\b(?:{'|'.join(stems)})", re.IGNORECASE) for stems in STEMS.values()]


def read_regions(path: Path | str) -> pd.DataFrame:
    """Regions of a hard-negative file as published, nothing mended.

    Columns region (row number), key, video, class_name, abnormal, caption and negatives (the list
    as it is). InputError names the first item not of VAGTA's schema.
    """
    content = read_json(path)
    rows = content.get("items") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected an object with a non-empty list named items")
    return pd.DataFrame([{"region": n, **_region(row, f"{path}, item {n}")}
                         for n, row in enumerate(rows)])  # fmt: skip


def _region(row: object, where: str) -> dict[str, object]:
    named = isinstance(row, dict) and is_text(row.get("video")) and "region_index" in row
    if not named or not is_text(row.get("region_caption")):
        raise InputError(f"{where}: needs video, region_index and region_caption")
    item, span = Item(row["video"], "", ()), row.get("timestamps")
    if span is not None and not (isinstance(span, list) and len(span) == 2):
        raise InputError(f"{where}: timestamps are not two seconds")
    texts = row.get("hard_negative")
    key = f"{item_key(row['video'], span and tuple(span))} region {row['region_index']}"
    return {"key": key, "video": row["video"], "class_name": item.class_name,
            "abnormal": item.is_abnormal, "caption": row["region_caption"],
            "negatives": texts if isinstance(texts, list) else []}  # fmt: skip


def negatives_table(regions: pd.DataFrame) -> pd.DataFrame:
    """One row per hard negative: its region's columns, and a bool column per kind of fault.

    Columns region, key, video, class_name, abnormal, caption, position, negative, then
    CONTRACT (but missing) and OTHER.
    """
    rows = []
    for region in regions.to_dict("records"):
        broken = violations(region["negatives"], region["caption"])
        for position, text in enumerate(region.pop("negatives")):
            kinds = {v.kind for v in broken if v.index == position}
            row = region | {"position": position, "negative": text if is_text(text) else ""}
            rows.append(row | {kind: kind in kinds for kind in CONTRACT[1:]})
    if not rows:
        raise InputError("no region has a hard negative: there is nothing to audit")
    table = pd.DataFrame(rows)
    texts, captions = table["negative"], table["caption"]
    forms, own = texts.map(normal_form), captions.map(normal_form)
    spread = table.groupby(forms)["region"].nunique()
    closed = captions.str.contains(CLOSED) & ~texts.str.contains(CLOSED)
    table["cut off"] = closed & texts.ne("")  # a limit on length ended it in mid-sentence
    table["repeated in another region"] = forms.map(spread) > 1
    elsewhere = set(regions["caption"].map(normal_form))
    table["caption of another region"] = forms.isin(elsewhere) & (forms != own)
    # In other rewrites such words are a matter of polarity.
    odd = [is_fantastical(*pair) for pair in zip(texts, captions, strict=True)]
    table["fantastical"] = ~table["abnormal"] & np.array(odd)
    return table


def is_fantastical(text: str, caption: str) -> bool:
    """Whether a rewrite adds something of FANTASTICAL that its caption does not have."""
    return any(stems.search(text) and not stems.search(caption) for stems in FANTASTICAL)


def violation_table(
    regions: pd.DataFrame, table: pd.DataFrame, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Hard negatives of each kind: columns direction, kind, count, n, value, low, high (shares).

    n counts the negatives; for "missing", those there should be.
    """
    absent = (NEGATIVES - regions["negatives"].map(len)).clip(lower=0)
    missing = _shares(regions, {"missing": absent}, n_boot, seed, NEGATIVES)
    found = _shares(table, {kind: table[kind] for kind in (*CONTRACT[1:], *OTHER)}, n_boot, seed)
    directions = pd.concat([missing, found]).groupby("direction", sort=False)
    return pd.concat([rows for _, rows in directions], ignore_index=True)


def _directions(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Names and rows of the directions of rewriting that there are."""
    parts = {"all": [True, False], "abnormal to normal": [True], "normal to abnormal": [False]}
    named = {name: table[table["abnormal"].isin(kept)] for name, kept in parts.items()}
    return ((name, part) for name, part in named.items() if len(part))


def share_interval(
    counts: np.ndarray, videos: Iterable[str], n_boot: int, seed: int, each: int = 1
) -> Interval:
    """counts (M,) of ``each`` possible per row, as a share; resamples videos, or is Wilson's."""
    frame = pd.DataFrame({"count": counts, "n": float(each), "video": list(videos)})
    values = frame.groupby("video")[["count", "n"]].sum().to_numpy()
    share = values[:, 0].sum() / values[:, 1].sum()
    if share in (0.0, 1.0):  # no spread to resample
        size = len(values)
        wilson = binomtest(round(share * size), size).proportion_ci(method="wilson")
        return Interval(float(share), float(wilson.low), float(wilson.high), len(frame))
    return bootstrap_interval(values, ratio, n_boot, seed)._replace(n=len(frame))


def wrong_polarity(regions: pd.DataFrame, table: pd.DataFrame, seed: int = 0) -> pd.Series:
    """Which negatives keep their caption's polarity, by the words of other videos' captions."""
    known = regions["caption"].to_numpy(str), regions["abnormal"].to_numpy(), regions["video"]
    scores = _words_scores(known, table["negative"], table["video"], seed)
    return (scores > 0) == table["abnormal"]


def shortcut_table(
    regions: pd.DataFrame, table: pd.DataFrame, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How often words alone pick the caption among its negatives, without any video.

    A bag-of-words classifier of captions against negatives of other videos picks one of each
    region's texts, which is the task of the hard-negative loss. Columns direction, value, low,
    high, n (regions with negatives), chance; shares of one.
    """
    texts = pd.concat([regions["caption"], table["negative"]]).to_numpy(str)
    videos = pd.concat([regions["video"], table["video"]])
    labels = np.arange(len(texts)) < len(regions)
    scores = _words_scores((texts, labels, videos), texts, videos, seed)
    own, theirs = scores[: len(regions)], pd.Series(scores[len(regions) :])
    best = theirs.groupby(table["region"].to_numpy()).agg(["max", "size"])
    part, hit = regions.loc[best.index], own[best.index] > best["max"]
    chance = [(1 / (1 + best["size"][rows.index])).mean() for _, rows in _directions(part)]
    found = _shares(part, {"picked": hit}, n_boot, seed).assign(chance=chance)
    return found[["direction", "value", "low", "high", "n", "chance"]]


def _shares(
    table: pd.DataFrame, hits: Mapping[str, pd.Series], n_boot: int, seed: int, each: int = 1
) -> pd.DataFrame:
    """Shares of ``hits`` by kind in each direction, of ``each`` possible per row of the table."""
    rows = []
    for (name, part), (kind, counts) in product(_directions(table), hits.items()):
        found = counts.loc[part.index].to_numpy(float)
        share = share_interval(found, part["video"], n_boot, seed, each)._asdict()
        row = {"direction": name, "kind": kind, "count": int(found.sum()), "n": each * len(part)}
        rows.append(row | {key: share[key] for key in ("value", "low", "high")})
    return pd.DataFrame(rows)


def _words_scores(
    known: tuple[np.ndarray, np.ndarray, pd.Series], judged: Iterable, of: pd.Series, seed: int
) -> np.ndarray:
    """Scores of ``judged`` texts ``of`` videos by classifiers of others' texts and labels."""
    texts, labels, videos = known
    names, judged = videos.to_numpy(str), np.asarray(judged, str)
    scores = np.zeros(len(judged))
    folds = GroupKFold(min(5, len(set(names))), shuffle=True, random_state=seed)
    for train, test in folds.split(names, groups=names):
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        linear = LogisticRegression(C=10.0, class_weight="balanced", max_iter=500)
        model = make_pipeline(words, linear).fit(texts[train], labels[train])
        if (mine := of.isin(set(names[test])).to_numpy()).any():
            scores[mine] = model.decision_function(judged[mine])
    return scores


def clean(
    path_in: Path, path_out: Path, table: pd.DataFrame, kinds: Sequence[str] = DROPPED
) -> pd.DataFrame:
    """Write a copy less what is flagged as ``kinds``; what was left out: key, negative, kind."""
    failed = table[table[list(kinds)].any(axis=1)]
    bad = set(zip(failed["region"], failed["position"], strict=True))
    content = read_json(path_in)
    for number, row in enumerate(content["items"]):
        texts = row.get("hard_negative") or []
        row["hard_negative"] = [t for i, t in enumerate(texts) if (number, i) not in bad]
    write_json(path_out, content)
    named = [", ".join(k for k in kinds if row[k]) for row in failed.to_dict("records")]
    return failed[["key", "negative"]].assign(kind=named)


def summary(regions: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The audit in one table of shares: columns direction, measure, value, low, high, n."""
    kept = {"polarity kept, by words": wrong_polarity(regions, table, SEED)}
    picked = shortcut_table(regions, table, seed=SEED)
    picked["kind"] = "picked among four by words alone (chance .25)"
    broken = violation_table(regions, table, seed=SEED)
    found = pd.concat([broken, picked, _shares(table, kept, 1000, SEED)], ignore_index=True)
    columns = ["direction", "measure", "value", "low", "high", "n"]
    return found.rename(columns={"kind": "measure"})[columns]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m curation.audit", description=__doc__)
    parser.add_argument("file", type=Path, help="a hard-negative file in VAGTA's format")
    parser.add_argument("--out", type=Path, default=Path("audit"), help="folder to write")
    args = parser.parse_args(arguments)
    try:
        regions = read_regions(args.file)
        table = negatives_table(regions)
        found = summary(regions, table)
        done = clean(args.file, args.out / "vagta-clean.json", table)
        for name, rows in {"audit": found, "vagta-clean": done}.items():
            write_table(rows, args.out / f"{name}.csv")
    except InputError as error:
        sys.exit(str(error))
    print(found.to_string(index=False))
    print(f"{args.out}: vagta-clean.json leaves {len(done)} of {len(table)} negatives out")


if __name__ == "__main__":
    main()
