"""Screening of candidate clips by four criteria (Alert-CLIP, supplementary A.2).

Score = 1 class + 2 clarity + 2 quality + 5 redundancy, each from 1 to 5; a clip below 25 is
removed. One fault alone never brings a clip below 25: with redundancy 1 and all else perfect it has
30 points, with redundancy 5 at least 30. So we also remove a clip with any criterion at 1;
``decision_by_score`` is the decision by the published rule alone.
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
BINS = ("0-25", "25-40", "40-50")  # the paper's; a score on an edge belongs to the upper one
KEEP, DROP = "keep", "drop"
FRAMES, BATCH = 8, 32  # frames embedded per clip, clips embedded at a time

# Class: log-odds of the labelled class against the likeliest other one, which at -3 is twenty times
# as likely. Clarity: share of frames on which the labelled class is the likeliest. Both chosen on
# the mini world's development clips.
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
    decision_by_score, reason, override; then a note per criterion and every raw measurement.
    Measurements are cached in ``store``. An unreadable file scores 1, with the error as its reason.
    """
    clips, measured, content, failures = measure_clips(root, items, model, store, workers)
    quality = _quality(clips.keys, measured)
    classes = sorted(set(clips.classes) - {"Normal"})
    scale = float(model.backbone.model.logit_scale.detach().exp())
    texts = class_embeddings(model, classes, prompts)
    consistency = score_consistency(clips, texts, classes, scale)
    hashes, motion = np.stack([q.hashes for q in measured]), [q.motion for q in measured]
    prints = Fingerprint(content, hashes, motion, clips.embedding)
    redundancy = _redundancy(clips.keys, prints, quality["quality"].to_numpy())
    scores = pd.concat([quality, consistency, redundancy], axis=1)
    labels = [(item.key, item.class_name) for item in items]
    table = pd.DataFrame(labels, columns=["clip", "class_name"]).merge(scores, "left", on="clip")
    unreadable = table["quality"].isna()
    table.loc[unreadable, list(WEIGHTS)] = 1
    table.loc[unreadable, "quality_note"] = table.loc[unreadable, "clip"].map(failures)
    return decide(apply_overrides(table, overrides))


def measure_clips(
    root: Path, items: Sequence[Item], model: AlertCLIP, store: Path, workers: int
) -> tuple[ClipEmbeddings, list[Quality], list[str], dict[str, str]]:
    """Embeddings, quality and content (equal for equal bytes and segment) of every readable clip.

    The last value maps the other clips' keys to errors. Raises InputError if no clip is readable.
    """
    cache = FrameCache(store, model.backbone.image_size)
    dataset = _dataset(root, items, cache, workers)
    failures = {finding.item: finding.reason for finding in dataset.failures}

    def one(item: Item) -> Quality:
        path = root / item.video
        return measure(path, cache.info(path), item.timestamps, store / "quality")

    results = in_threads(one, dataset.items, workers, "measuring clips")
    measured = {item.key: result for item, result in results.items()}
    if failed := {key: error for key, error in measured.items() if isinstance(error, str)}:
        failures |= failed  # the frames of the data set decode, others do not
        dataset = _dataset(root, [i for i in dataset.items if i.key not in failed], cache, workers)
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
        warnings.simplefilter("ignore", UserWarning)  # unreadable files are rows of the result
        return ClipDataset(root, items, FRAMES, cache, workers)


def _quality(keys: Sequence[str], measured: Sequence[Quality]) -> pd.DataFrame:
    rows = []
    for key, clip in zip(keys, measured, strict=True):
        score, worst = score_quality(clip.values)
        report = clip.report if worst == "decodable" else ""
        note = report or f"{worst} {clip.values[worst]:.3g}"
        rows.append({"clip": key, "quality": score, "quality_note": note} | clip.values)
    return pd.DataFrame(rows)


def class_embeddings(model: AlertCLIP, names: Sequence[str], prompts: Prompts) -> np.ndarray:
    """Normalised mean text embedding of each class's prompts, or else of its name: (C, D)."""
    means = []
    for name in names:
        texts = prompts.classes.get(name) or [f"a video of {name.replace('_', ' ').lower()}"]
        mean = model.encode_text(list(texts)).float().detach().cpu().numpy().mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
    return np.array(means)


def score_consistency(
    clips: ClipEmbeddings, texts: np.ndarray, classes: Sequence[str], scale: float
) -> pd.DataFrame:
    """Whether each clip shows its class, and how clearly, by CLIP's logits at ``scale``.

    ``texts`` (C, D) embed the abnormal ``classes``. Untuned CLIP cannot tell a normal event from
    the abnormal one that resembles it (Alert-CLIP, Fig. 1), so clips labelled normal are not judged
    and score 5; with a single class, no clip is judged. Columns class, clarity, class_note,
    clarity_note, class_log_odds, clarity_share (nan where not judged).
    """
    judged, rows = (classes if len(classes) > 1 else ()), []
    logits = scale * clips.embedding @ texts.T if judged else None
    for i, name in enumerate(clips.classes):
        if name not in judged:
            rows.append((5, 5, "not judged", "not judged", np.nan, np.nan))
            continue
        label = list(classes).index(name)
        [odds], [other] = _log_odds(logits[i : i + 1], label)
        frames = clips.v[i][clips.mask[i]]
        share = (_log_odds(scale * frames @ texts.T, label)[0] > 0).mean()
        scores = level(odds, CLASS_LEVELS), level(share, CLARITY_LEVELS)
        note = f"log-odds {odds:+.1f} against {classes[other]}"
        rows.append((*scores, note, f"likeliest on {share:.0%} of frames", odds, share))
    columns = ["class", "clarity", "class_note", "clarity_note", "class_log_odds", "clarity_share"]
    return pd.DataFrame(rows, columns=columns)


def _log_odds(logits: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Logit of class ``label`` minus the best other: (n, C) -> (n,); and that other's index."""
    others = logits.copy()
    others[:, label] = -np.inf
    return logits[:, label] - others.max(axis=1), others.argmax(axis=1)


def _redundancy(keys: Sequence[str], prints: Fingerprint, quality: np.ndarray) -> pd.DataFrame:
    """Redundancy of each clip; of two copies the one of better quality stays, else the first."""
    rank = np.argsort(np.argsort(-quality, kind="stable"), kind="stable")
    scores = score_redundancy(compare(prints), rank)
    match = [keys[i] if i >= 0 else "" for i in scores["match"]]
    notes = [f"{k} as {m}" if m else "" for k, m in zip(scores["kind"], match, strict=True)]
    evidence = {"redundancy_note": notes, "match": match, "match_evidence": scores["evidence"]}
    return pd.DataFrame({"redundancy": scores["score"], **evidence})


def decide(table: pd.DataFrame) -> pd.DataFrame:
    """Add score, bin, decision, decision_by_score and reason to criteria, notes and overrides."""
    table = table.astype({name: int for name in WEIGHTS})
    score = sum(weight * table[name] for name, weight in WEIGHTS.items())
    low = score < THRESHOLD
    veto = (table[list(WEIGHTS)] == 1).any(axis=1)
    human = table["override"].str.split(":").str[0]
    drop = ((low | veto) & (human != KEEP)) | (human == DROP)
    decisions = pd.DataFrame({"score": score, "bin": score_bins(score)})
    decisions["decision"] = np.where(drop, DROP, KEEP)
    decisions["decision_by_score"] = np.where(low, DROP, KEEP)
    table = pd.concat([table, decisions], axis=1)
    rows = table.to_dict("records")
    table["reason"] = [_reason(row) if row["decision"] == DROP else "" for row in rows]
    first = ["clip", "class_name", *WEIGHTS, *decisions.columns, "reason", "override"]
    return table[[*first, *(name for name in table if name not in first)]]


def score_bins(scores: Sequence[float]) -> list[str]:
    """Bin of each score: [10, 25), [25, 40), [40, 50]."""
    return [BINS[number] for number in np.digitize(scores, [THRESHOLD, 40])]


def _reason(row: dict) -> str:
    if row["override"].startswith(DROP):
        return f"human: {row['override'].removeprefix(f'{DROP}: ')}"
    worst = min(row[name] for name in WEIGHTS)
    notes = {name: row[f"{name}_note"] for name in WEIGHTS if row[name] == worst}
    return "; ".join(f"{name}: {note}" for name, note in notes.items() if isinstance(note, str))


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
        clip, decision, reason = (row.get(name, "") for name in ("clip", "override", "reason"))
        if clip not in clips or decision not in (KEEP, DROP) or not reason.strip():
            needed = "needs clip (one of those screened), override (keep or drop) and a reason"
            got = f"got {clip!r}, {decision!r}, {reason!r}"
            raise InputError(f"{path}, line {number}: {needed}; {got}")
        table.loc[table["clip"] == clip, "override"] = f"{decision}: {reason}"
    return table
