"""Audit of a published hard-negative file: contract violations, wrong polarity, word shortcuts.

``python -m curation.audit FILE --out audit`` writes audit.csv, a copy of the file without the
faulty negatives (vagta-clean.json) and a list of those removed (vagta-clean.csv). Intervals are 95%
bootstraps over videos, since the captions of one video resemble one another.
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
DROPPED = (*CONTRACT[1:], "cut off")  # faulty whatever the video shows
SEED = 42
CLOSED = r"[.!?][\"”'’)]?\s*$"
STEMS = yaml.safe_load((PARAMS / "facts" / "fantastical.yaml").read_text(encoding="utf-8"))
FANTASTICAL = [re.compile(rf"\b(?:{'|'.join(stems)})", re.IGNORECASE) for stems in STEMS.values()]


def read_regions(path: Path | str) -> pd.DataFrame:
    """Regions of a hard-negative file, exactly as published.

    Columns region (row number), key, video, class_name, abnormal, caption and negatives (the raw
    list). Raises InputError naming the first item that does not follow VAGTA's schema.
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
    """One row per hard negative: its region's columns and a bool column per kind of fault.

    Columns region, key, video, class_name, abnormal, caption, position, negative, then
    CONTRACT (without missing) and OTHER.
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
    forms, caption_forms = texts.map(normal_form), captions.map(normal_form)
    region_counts = table.groupby(forms)["region"].nunique()
    unclosed = captions.str.contains(CLOSED) & ~texts.str.contains(CLOSED)
    table["cut off"] = unclosed & texts.ne("")  # a length limit ended it in mid-sentence
    table["repeated in another region"] = forms.map(region_counts) > 1
    all_captions = set(regions["caption"].map(normal_form))
    table["caption of another region"] = forms.isin(all_captions) & (forms != caption_forms)
    # In rewrites of abnormal captions, such words are a fault of polarity instead.
    fantastical = [is_fantastical(*pair) for pair in zip(texts, captions, strict=True)]
    table["fantastical"] = ~table["abnormal"] & np.array(fantastical)
    return table


def is_fantastical(text: str, caption: str) -> bool:
    """Whether a rewrite contains a FANTASTICAL stem that its caption does not."""
    return any(stems.search(text) and not stems.search(caption) for stems in FANTASTICAL)


def violation_table(
    regions: pd.DataFrame, table: pd.DataFrame, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Share of faulty hard negatives: columns direction, kind, count, n, value, low, high.

    n is the number of negatives; for "missing", the number there should be.
    """
    absent = (NEGATIVES - regions["negatives"].map(len)).clip(lower=0)
    missing = _shares(regions, {"missing": absent}, n_boot, seed, NEGATIVES)
    faulty = _shares(table, {kind: table[kind] for kind in (*CONTRACT[1:], *OTHER)}, n_boot, seed)
    directions = pd.concat([missing, faulty]).groupby("direction", sort=False)
    return pd.concat([rows for _, rows in directions], ignore_index=True)


def _directions(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and rows of each direction of rewriting that has rows."""
    labels = {"all": [True, False], "abnormal to normal": [True], "normal to abnormal": [False]}
    parts = {name: table[table["abnormal"].isin(kept)] for name, kept in labels.items()}
    return ((name, part) for name, part in parts.items() if len(part))


def share_interval(
    counts: np.ndarray, videos: Iterable[str], n_boot: int, seed: int, each: int = 1
) -> Interval:
    """Share of ``counts`` (M,) out of ``each`` per row; bootstrap over videos, Wilson at 0 or 1."""
    frame = pd.DataFrame({"count": counts, "n": float(each), "video": list(videos)})
    values = frame.groupby("video")[["count", "n"]].sum().to_numpy()
    share = values[:, 0].sum() / values[:, 1].sum()
    if share in (0.0, 1.0):  # no spread to resample
        size = len(values)
        wilson = binomtest(round(share * size), size).proportion_ci(method="wilson")
        return Interval(float(share), float(wilson.low), float(wilson.high), len(frame))
    return bootstrap_interval(values, ratio, n_boot, seed)._replace(n=len(frame))


def wrong_polarity(regions: pd.DataFrame, table: pd.DataFrame, seed: int = 0) -> pd.Series:
    """Negatives that keep their caption's polarity, by a classifier of other videos' captions."""
    known = regions["caption"].to_numpy(str), regions["abnormal"].to_numpy(), regions["video"]
    scores = _words_scores(known, table["negative"], table["video"], seed)
    return (scores > 0) == table["abnormal"]


def shortcut_table(
    regions: pd.DataFrame, table: pd.DataFrame, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How often words alone pick the caption among its negatives, without the video.

    A bag-of-words classifier, trained on other videos, picks one of each region's texts: the task
    of the hard-negative loss. Columns direction, value, low, high, n (regions with negatives),
    chance; shares in [0, 1].
    """
    texts = pd.concat([regions["caption"], table["negative"]]).to_numpy(str)
    videos = pd.concat([regions["video"], table["video"]])
    labels = np.arange(len(texts)) < len(regions)
    scores = _words_scores((texts, labels, videos), texts, videos, seed)
    caption_scores, negative_scores = scores[: len(regions)], pd.Series(scores[len(regions) :])
    best = negative_scores.groupby(table["region"].to_numpy()).agg(["max", "size"])
    judged, picked = regions.loc[best.index], caption_scores[best.index] > best["max"]
    chance = [(1 / (1 + best["size"][rows.index])).mean() for _, rows in _directions(judged)]
    shares = _shares(judged, {"picked": picked}, n_boot, seed).assign(chance=chance)
    return shares[["direction", "value", "low", "high", "n", "chance"]]


def _shares(
    table: pd.DataFrame, hits: Mapping[str, pd.Series], n_boot: int, seed: int, each: int = 1
) -> pd.DataFrame:
    """Share of ``hits`` of each kind in each direction, out of ``each`` per row of the table."""
    rows = []
    for (name, part), (kind, hit) in product(_directions(table), hits.items()):
        counts = hit.loc[part.index].to_numpy(float)
        share = share_interval(counts, part["video"], n_boot, seed, each)._asdict()
        row = {"direction": name, "kind": kind, "count": int(counts.sum()), "n": each * len(part)}
        rows.append(row | {key: share[key] for key in ("value", "low", "high")})
    return pd.DataFrame(rows)


def _words_scores(
    known: tuple[np.ndarray, np.ndarray, pd.Series], judged: Iterable, videos: pd.Series, seed: int
) -> np.ndarray:
    """Cross-validated scores: each judged text by a classifier that never saw its video.

    ``known`` holds the labelled texts: texts, bool labels, videos.
    """
    texts, labels, known_videos = known
    groups, judged = known_videos.to_numpy(str), np.asarray(judged, str)
    scores = np.zeros(len(judged))
    folds = GroupKFold(min(5, len(set(groups))), shuffle=True, random_state=seed)
    for train, test in folds.split(groups, groups=groups):
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        linear = LogisticRegression(C=10.0, class_weight="balanced", max_iter=500)
        model = make_pipeline(words, linear).fit(texts[train], labels[train])
        if (held_out := videos.isin(set(groups[test])).to_numpy()).any():
            scores[held_out] = model.decision_function(judged[held_out])
    return scores


def clean(
    path_in: Path, path_out: Path, table: pd.DataFrame, kinds: Sequence[str] = DROPPED
) -> pd.DataFrame:
    """Write a copy without negatives flagged as ``kinds``; return those: key, negative, kind."""
    faulty = table[table[list(kinds)].any(axis=1)]
    removed = set(zip(faulty["region"], faulty["position"], strict=True))
    content = read_json(path_in)
    for number, row in enumerate(content["items"]):
        texts = row.get("hard_negative") or []
        row["hard_negative"] = [t for i, t in enumerate(texts) if (number, i) not in removed]
    write_json(path_out, content)
    flags = [", ".join(k for k in kinds if row[k]) for row in faulty.to_dict("records")]
    return faulty[["key", "negative"]].assign(kind=flags)


def summary(regions: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """All shares of the audit in one table: columns direction, measure, value, low, high, n."""
    kept = {"polarity kept, by words": wrong_polarity(regions, table, SEED)}
    picked = shortcut_table(regions, table, seed=SEED)
    picked["kind"] = "picked among four by words alone (chance .25)"
    faults = violation_table(regions, table, seed=SEED)
    shares = pd.concat([faults, picked, _shares(table, kept, 1000, SEED)], ignore_index=True)
    columns = ["direction", "measure", "value", "low", "high", "n"]
    return shares.rename(columns={"kind": "measure"})[columns]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m curation.audit", description=__doc__)
    parser.add_argument("file", type=Path, help="a hard-negative file in VAGTA's format")
    parser.add_argument("--out", type=Path, default=Path("audit"), help="folder to write")
    args = parser.parse_args(arguments)
    try:
        regions = read_regions(args.file)
        table = negatives_table(regions)
        shares = summary(regions, table)
        removed = clean(args.file, args.out / "vagta-clean.json", table)
        for name, rows in {"audit": shares, "vagta-clean": removed}.items():
            write_table(rows, args.out / f"{name}.csv")
    except InputError as error:
        sys.exit(str(error))
    print(shares.to_string(index=False))
    print(f"{args.out}: vagta-clean.json leaves out {len(removed)} of {len(table)} negatives")


if __name__ == "__main__":
    main()
