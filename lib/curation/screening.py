"""Screening of candidate clips by four criteria (Alert-CLIP paper, supplementary A.2).

Score = 1 class + 2 clarity + 2 quality + 5 redundancy, each from 1 to 5; below 25 a clip goes. One
fault alone cannot bring a clip below 25: a perfect clip with redundancy 1 still has 30, and one
with redundancy 5 never less than 30. So by default a criterion at 1 also removes (``veto``, ours);
what the published rule alone does stands beside it in ``decision_by_score``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from alertclip.errors import InputError
from alertclip.model import AlertCLIP
from alertclip.prompts import Prompts
from alertclip.records import Item
from curation.consistency import Judge, Similarities, ask_judge, score_consistency, similarities
from curation.endpoint import NoReply
from curation.inspection import Inspected, inspect
from curation.quality import LEVELS, score_quality
from curation.redundancy import Fingerprint, compare, score_redundancy

WEIGHTS = {"class": 1, "clarity": 2, "quality": 2, "redundancy": 5}
THRESHOLD = 25
BINS = ("0-25", "25-40", "40-50")  # the paper's; a score on an edge is in the upper one
KEEP, DROP = "keep", "drop"
OVERRIDES = (KEEP, DROP, *WEIGHTS)


@dataclass(frozen=True)
class Settings:
    """What may differ between screenings. ``overrides`` is a CSV, see `read_overrides`."""

    veto: bool = True
    judge: Judge | None = None
    overrides: Path | None = None
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # more prompts, by class


def screen(
    root: Path,
    items: Sequence[Item],
    model: AlertCLIP,
    prompts: Prompts,
    store: Path,
    workers: int = 2,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Screen ``items`` below ``root``: one row per clip, in their order.

    Columns clip, class_name, class, clarity, quality, redundancy, score, bin, decision,
    decision_by_score, reason, override; then the evidence: a note per criterion and every raw
    measurement. Measurements are kept in ``store`` by content, so that a second run is quick. A
    file that cannot be read has 1 everywhere and the error as its reason.
    """
    settings = settings or Settings()
    inspected = inspect(root, items, model, store, workers)
    parts = [_quality(inspected), _consistency(inspected, model, prompts, settings)]
    parts.append(_redundancy(inspected, parts[0]["quality"].to_numpy()))
    scores = pd.concat(parts, axis=1)
    table = pd.DataFrame({"clip": [item.key for item in items]})
    table["class_name"] = [item.class_name for item in items]
    table = table.merge(scores, on="clip", how="left")
    lost = table["quality"].isna()
    table.loc[lost, list(WEIGHTS)] = 1
    table.loc[lost, "quality_note"] = table.loc[lost, "clip"].map(inspected.failures)
    return decide(_overridden(table, settings.overrides), settings.veto)


def decide(table: pd.DataFrame, veto: bool = True) -> pd.DataFrame:
    """Add score, bin, decision, decision_by_score, reason to the criteria, notes and overrides."""
    table = table.astype({name: int for name in WEIGHTS})
    score = sum(weight * table[name] for name, weight in WEIGHTS.items())
    low = score < THRESHOLD
    floor = (table[list(WEIGHTS)] == 1).any(axis=1) & veto
    human = table["override"].str.split(":").str[0]
    drop = ((low | floor) & (human != KEEP)) | (human == DROP)
    made = pd.DataFrame(
        {
            "score": score,
            "bin": score_bins(score),
            "decision": np.where(drop, DROP, KEEP),
            "decision_by_score": np.where(low, DROP, KEEP),
        }
    )
    whole = pd.concat([table, made], axis=1)
    whole["reason"] = [
        _reason(row) if row["decision"] == DROP else "" for _, row in whole.iterrows()
    ]
    first = ["clip", "class_name", *WEIGHTS, *made.columns, "reason", "override"]
    return whole[[*first, *(name for name in whole if name not in first)]]


def score_bins(scores: Sequence[float]) -> list[str]:
    """Bin of each score: [10, 25), [25, 40), [40, 50]."""
    return [BINS[number] for number in np.digitize(scores, [THRESHOLD, 40])]


def read_overrides(path: Path, clips: Sequence[str]) -> pd.DataFrame:
    """Human decisions: CSV with columns clip, override, value, reason.

    override is keep, drop, or a criterion whose score becomes ``value`` (1 to 5; empty for keep
    and drop). InputError names the first row that is wrong, such as an unknown clip.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from None
    if missing := {"clip", "override", "value", "reason"} - set(table):
        raise InputError(f"{path}: no column {', '.join(sorted(missing))}")
    known = set(clips)
    for number, row in enumerate(table.to_dict("records"), start=2):
        if fault := _override_fault(row, known):
            raise InputError(f"{path}, line {number}: {fault}")
    return table


def _override_fault(row: dict[str, str], clips: set[str]) -> str:
    if row["clip"] not in clips:
        return f"no clip {row['clip']} among those screened"
    if row["override"] not in OVERRIDES:
        return f"override {row['override']!r}: use one of {', '.join(OVERRIDES)}"
    if not row["reason"].strip():
        return "give a reason"
    if row["override"] in WEIGHTS and row["value"] not in ("1", "2", "3", "4", "5"):
        return f"value {row['value']!r}: a {row['override']} score is 1, 2, 3, 4 or 5"
    return ""


def _overridden(table: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    table = table.assign(override="")
    if path is None:
        return table
    for row in read_overrides(path, table["clip"].tolist()).to_dict("records"):
        here = table["clip"] == row["clip"]
        what = row["override"]
        if what in WEIGHTS:
            before = int(table.loc[here, what].iloc[0])
            table.loc[here, what] = int(row["value"])
            what = f"{what} {before} -> {row['value']}"
        earlier = table.loc[here, "override"].iloc[0]
        told = f"{what}: {row['reason']}"
        # keep and drop lead: `decide` reads the first word.
        joined = f"{told}; {earlier}" if row["override"] in (KEEP, DROP) else f"{earlier}; {told}"
        table.loc[here, "override"] = joined.strip("; ")
    return table


def _reason(row: pd.Series) -> str:
    if row["override"].startswith(DROP):
        return f"human: {row['override'].removeprefix(f'{DROP}: ')}"
    worst = min(row[name] for name in WEIGHTS)
    notes = dict.fromkeys(
        f"{name}: {row[f'{name}_note']}"
        for name in WEIGHTS
        if row[name] == worst and isinstance(row[f"{name}_note"], str)
    )
    return "; ".join(notes)


def _quality(found: Inspected) -> pd.DataFrame:
    values = pd.DataFrame([q.values for q in found.quality], columns=list(LEVELS))
    scored = [score_quality(q.values) for q in found.quality]
    notes = [
        f"{name} {q.values[name]:.3g}" for q, (_, name) in zip(found.quality, scored, strict=True)
    ]
    head = {"clip": found.clips.keys, "quality": [s for s, _ in scored], "quality_note": notes}
    return pd.concat([pd.DataFrame(head), values], axis=1)


def _redundancy(found: Inspected, quality: np.ndarray) -> pd.DataFrame:
    """The better picture stays of two copies, then the one listed first."""
    prints = Fingerprint(
        found.content,
        np.stack([q.hashes for q in found.quality]),
        [q.motion for q in found.quality],
        found.clips.embedding,
    )
    rank = np.argsort(np.argsort(-quality, kind="stable"), kind="stable")
    scored = score_redundancy(compare(prints), rank)
    match = [found.clips.keys[i] if i >= 0 else "" for i in scored["match"]]
    notes = [f"{k} as {m}" if m else "" for k, m in zip(scored["kind"], match, strict=True)]
    evidence = {"redundancy_note": notes, "match": match, "match_evidence": scored["evidence"]}
    return pd.DataFrame({"redundancy": scored["score"], **evidence})


def _consistency(
    found: Inspected, model: AlertCLIP, prompts: Prompts, settings: Settings
) -> pd.DataFrame:
    names = sorted({name for name in found.clips.classes if name != "Normal"})
    near = _similarities(found, model, names, {**prompts.classes, **settings.classes})
    table = score_consistency(near)
    table = table.assign(class_log_odds=near.margin, clarity_share=near.share)
    if settings.judge is None:
        return table
    return _judged(table, found, settings.judge)


def _similarities(
    found: Inspected, model: AlertCLIP, names: list[str], prompts: Mapping[str, Sequence[str]]
) -> Similarities:
    clips = found.clips
    if len(names) < 2:  # nothing to compare with
        nothing = np.full(len(clips.keys), np.nan)
        return Similarities(nothing, nothing, [""] * len(clips.keys))
    texts = []
    for name in names:
        sentences = prompts.get(name) or [f"a video of {name.replace('_', ' ').lower()}"]
        mean = model.encode_text(list(sentences)).float().detach().cpu().numpy().mean(axis=0)
        texts.append(mean / np.linalg.norm(mean))
    scale = float(model.backbone.model.logit_scale.detach().exp())
    stacked = np.stack(texts)
    return similarities(clips.embedding, clips.v, clips.mask, stacked, clips.classes, names, scale)


def _judged(table: pd.DataFrame, found: Inspected, judge: Judge) -> pd.DataFrame:
    """The judge's scores over CLIP's; where it gives none, CLIP's stay and the note says so."""
    table = table.copy()
    for number, name in enumerate(found.clips.classes):
        try:
            scores = ask_judge(judge, name, found.frames(number))
        except NoReply as error:
            scores = dict.fromkeys(("class", "clarity"), None) | {"why": str(error)}
        for criterion in ("class", "clarity"):
            note = f"{criterion}_note"
            given = scores[criterion]
            if given is None:
                table.loc[number, note] += "; judge: no usable reply"
            else:
                table.loc[number, [criterion, note]] = [given, f"judge: {given}"]
    return table
