"""Screening of candidate clips by four criteria (Alert-CLIP, supplementary A.2).

Score = 1 class + 2 clarity + 2 quality + 5 redundancy, each from 1 to 5; below 25 a clip is
removed. One fault alone never brings a clip below 25: with redundancy 1 and all else perfect it has
30 points, with redundancy 5 at least 30. So a criterion at 1 also removes a clip (ours);
``decision_by_score`` says what the published rule alone does.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from alertclip.checkpoint import weights_hash
from alertclip.clips import ClipDataset
from alertclip.embeddings import ClipEmbeddings, embed_clips, reuse_or_embed
from alertclip.model import AlertCLIP
from alertclip.prompts import Prompts
from alertclip.records import Item
from curation.quality import Quality, level, measure, score_quality
from curation.redundancy import Fingerprint, compare, score_redundancy
from media.cache import FrameCache, in_threads
from media.errors import InputError
from media.files import sha256_json

WEIGHTS = {"class": 1, "clarity": 2, "quality": 2, "redundancy": 5}
THRESHOLD = 25
BINS = ("0-25", "25-40", "40-50")  # the paper's; a score on an edge is in the upper one
KEEP, DROP = "keep", "drop"
FRAMES, BATCH = 8, 32  # frames embedded per clip, clips embedded at a time

# Log-odds of the labelled class against the likeliest other class: at -3 the model holds the other
# for twenty times as likely. Clarity: share of frames on which the labelled class is the likeliest.
# Both chosen on the mini world's development clips.
CLASS_LEVELS = (-3.0, -2.0, -1.0, 0.0)
CLARITY_LEVELS = (0.1, 0.2, 0.35, 0.5)


def screen(
    root: Path,
    items: Sequence[Item],
    model: AlertCLIP,
    prompts: Prompts,
    store: Path,
    workers: int,
    overrides: Path | None = None,
) -> pd.DataFrame:
    """Screen ``items`` below ``root``: one row per clip, in their order.

    Columns clip, class_name, class, clarity, quality, redundancy, score, bin, decision,
    decision_by_score, reason, override; then a note per criterion and every raw measurement, kept
    in ``store`` by content. A file that cannot be read scores 1, with the error as its reason.
    """
    clips, measured, content, failures = measure_clips(root, items, model, store, workers)
    quality = _quality(clips.keys, measured)
    names = sorted(set(clips.classes) - {"Normal"})
    scale = float(model.backbone.model.logit_scale.detach().exp())
    texts = class_embeddings(model, names, prompts)
    consistency = score_consistency(clips, texts, names, scale)
    hashes, motion = np.stack([q.hashes for q in measured]), [q.motion for q in measured]
    prints = Fingerprint(content, hashes, motion, clips.embedding)
    redundancy = _redundancy(clips.keys, prints, quality["quality"].to_numpy())
    scores = pd.concat([quality, consistency, redundancy], axis=1)
    named = [(item.key, item.class_name) for item in items]
    table = pd.DataFrame(named, columns=["clip", "class_name"]).merge(scores, "left", on="clip")
    lost = table["quality"].isna()
    table.loc[lost, list(WEIGHTS)] = 1
    table.loc[lost, "quality_note"] = table.loc[lost, "clip"].map(failures)
    return decide(apply_overrides(table, overrides))


def measure_clips(
    root: Path, items: Sequence[Item], model: AlertCLIP, store: Path, workers: int
) -> tuple[ClipEmbeddings, list[Quality], list[str], dict[str, str]]:
    """Embeddings, quality and content (equal for equal bytes and segment) of every readable clip.

    Last, why others cannot be read, by key. InputError only if none can.
    """
    cache = FrameCache(store, model.backbone.image_size)
    dataset = _dataset(root, items, cache, workers)
    failures = {finding.item: finding.reason for finding in dataset.failures}

    def one(item: Item) -> Quality:
        path = root / item.video
        return measure(path, cache.info(path), item.timestamps, store / "quality")

    found = in_threads(one, dataset.items, workers, "measuring clips")
    measured = {item.key: quality for item, quality in found.items()}
    if lost := {key: reason for key, reason in measured.items() if isinstance(reason, str)}:
        failures |= lost  # the frames of the data set decode, others do not
        dataset = _dataset(root, [i for i in dataset.items if i.key not in lost], cache, workers)
    failures = {key: reason.replace(f"{root}/", "") for key, reason in failures.items()}
    keys = [item.key for item in dataset.items]
    identity = {"model": weights_hash(model), "videos": dataset.digest(), "clips": keys}
    name = f"{sha256_json(identity)[:32]}.safetensors"
    make = partial(embed_clips, model, dataset, BATCH, model.mean.device)
    clips = reuse_or_embed(store / "embeddings" / name, identity, make)
    content = [f"{cache.info(root / i.video).sha256} {i.timestamps}" for i in dataset.items]
    return clips, [measured[key] for key in keys], content, failures


def _dataset(root: Path, items: Sequence[Item], cache: FrameCache, workers: int) -> ClipDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an unreadable file is a row of the result
        return ClipDataset(root, items, FRAMES, cache, workers)


def _quality(keys: Sequence[str], measured: Sequence[Quality]) -> pd.DataFrame:
    rows = []
    for key, clip in zip(keys, measured, strict=True):
        score, worst = score_quality(clip.values)
        told = clip.report if worst == "decodable" else ""
        note = told or f"{worst} {clip.values[worst]:.3g}"
        rows.append({"clip": key, "quality": score, "quality_note": note} | clip.values)
    return pd.DataFrame(rows)


def class_embeddings(model: AlertCLIP, names: Sequence[str], prompts: Prompts) -> np.ndarray:
    """Unit mean text embedding of each class's prompts, or of its name: (C, D)."""
    texts = []
    for name in names:
        plain = [f"a video of {name.replace('_', ' ').lower()}"]
        found = model.encode_text(list(prompts.classes.get(name) or plain)).float().detach()
        mean = found.cpu().numpy().mean(axis=0)
        texts.append(mean / np.linalg.norm(mean))
    return np.array(texts)


def score_consistency(
    clips: ClipEmbeddings, texts: np.ndarray, classes: Sequence[str], scale: float
) -> pd.DataFrame:
    """Whether each clip shows its class, and how clearly, by CLIP's logits at ``scale``.

    ``classes`` names the texts (C, D): abnormal ones. Untuned CLIP cannot tell a normal event from
    the abnormal one that resembles it (Alert-CLIP, Fig. 1), so clips filed as normal are not judged
    and score 5; nor is any where there is one class. Columns class, clarity, class_note,
    clarity_note, class_log_odds, clarity_share (nan where not judged).
    """
    rows = []
    for i, name in enumerate(clips.classes):
        if name not in classes or len(classes) < 2:
            rows.append((5, 5, "not judged", "not judged", np.nan, np.nan))
            continue
        own = list(classes).index(name)
        odds, other = (found[i] for found in _log_odds(scale * clips.embedding @ texts.T, own))
        frames = clips.v[i][clips.mask[i]]
        share = (_log_odds(scale * frames @ texts.T, own)[0] > 0).mean()
        scores = level(odds, CLASS_LEVELS), level(share, CLARITY_LEVELS)
        against = f"log-odds {odds:+.1f} against {classes[other]}"
        rows.append((*scores, against, f"likeliest on {share:.0%} of frames", odds, share))
    columns = ["class", "clarity", "class_note", "clarity_note", "class_log_odds", "clarity_share"]
    return pd.DataFrame(rows, columns=columns)


def _log_odds(logits: np.ndarray, own: int) -> tuple[np.ndarray, np.ndarray]:
    """Logit of class ``own`` minus the best other, (n, C) -> (n,), and the index of that other."""
    others = logits.copy()
    others[:, own] = -np.inf
    return logits[:, own] - others.max(axis=1), others.argmax(axis=1)


def _redundancy(keys: Sequence[str], prints: Fingerprint, quality: np.ndarray) -> pd.DataFrame:
    """Of two copies the one of better quality stays, else the one listed first."""
    rank = np.argsort(np.argsort(-quality, kind="stable"), kind="stable")
    scored = score_redundancy(compare(prints), rank)
    match = [keys[i] if i >= 0 else "" for i in scored["match"]]
    notes = [f"{k} as {m}" if m else "" for k, m in zip(scored["kind"], match, strict=True)]
    evidence = {"redundancy_note": notes, "match": match, "match_evidence": scored["evidence"]}
    return pd.DataFrame({"redundancy": scored["score"], **evidence})


def decide(table: pd.DataFrame) -> pd.DataFrame:
    """Add score, bin, decision, decision_by_score and reason to criteria, notes and overrides."""
    table = table.astype({name: int for name in WEIGHTS})
    score = sum(weight * table[name] for name, weight in WEIGHTS.items())
    low = score < THRESHOLD
    floor = (table[list(WEIGHTS)] == 1).any(axis=1)
    human = table["override"].str.split(":").str[0]
    drop = ((low | floor) & (human != KEEP)) | (human == DROP)
    made = pd.DataFrame({"score": score, "bin": score_bins(score)})
    made["decision"] = np.where(drop, DROP, KEEP)
    made["decision_by_score"] = np.where(low, DROP, KEEP)
    whole = pd.concat([table, made], axis=1)
    rows = whole.to_dict("records")
    whole["reason"] = [_reason(row) if row["decision"] == DROP else "" for row in rows]
    first = ["clip", "class_name", *WEIGHTS, *made.columns, "reason", "override"]
    return whole[[*first, *(name for name in whole if name not in first)]]


def score_bins(scores: Sequence[float]) -> list[str]:
    """Bin of each score: [10, 25), [25, 40), [40, 50]."""
    return [BINS[number] for number in np.digitize(scores, [THRESHOLD, 40])]


def _reason(row: dict) -> str:
    if row["override"].startswith(DROP):
        return f"human: {row['override'].removeprefix(f'{DROP}: ')}"
    worst = min(row[name] for name in WEIGHTS)
    named = {name: row[f"{name}_note"] for name in WEIGHTS if row[name] == worst}
    return "; ".join(f"{name}: {note}" for name, note in named.items() if isinstance(note, str))


def apply_overrides(table: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    """Add column override ("keep: reason", ...) from a CSV with clip, override and reason."""
    table = table.assign(override="")
    if path is None:
        return table
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path}: cannot be read as CSV ({error})") from None
    clips = set(table["clip"])
    for number, row in enumerate(rows, start=2):
        clip, what, reason = (row.get(name, "") for name in ("clip", "override", "reason"))
        if clip not in clips or what not in (KEEP, DROP) or not reason.strip():
            needed = "needs clip (one of those screened), override (keep or drop) and a reason"
            got = f"got {clip!r}, {what!r}, {reason!r}"
            raise InputError(f"{path}, line {number}: {needed}; {got}")
        table.loc[table["clip"] == clip, "override"] = f"{what}: {reason}"
    return table
