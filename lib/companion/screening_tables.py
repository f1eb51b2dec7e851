"""Screening and hard negatives for notebook 01, measured on faults planted on purpose.

Faults are planted in rendered clips only: of real clips nobody knows which are faulty.
"""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from alertclip.records import Item
from companion import tuned_models
from companion.figures import write_table
from companion.profiles import Params, load_params
from companion.splits import Split, load_split, prepare_data
from curation import audit
from curation.screening import DROP, screen
from media.video import DecodeError, probe, read_frames
from miniworld import planted_faults

CLEAN_SHARE, FAULT_SHARE = 0.2, 0.02  # of a split: clean clips, clips per fault
OVERALL, CLEAN_REMOVED = "all faults", "clean clips removed"
SHOWN = (240, 320)  # H, W of example frames
RULES = {"decision": "score or veto", "decision_by_score": "published score"}


def mini_world(P: Params) -> Params:
    """P itself if its data are the mini world, else the mini profile with P's model and folder."""
    if P.data.world == "miniworld":
        return P
    kept = ("seed", "device", "workers", "backbone", "pretrained", "prompts")
    sizes = dict.fromkeys(("world_train", "world_dev", "world_test"), P.rehearsal.world)
    overrides = {name: P.flat()[name] for name in kept} | (sizes if P.rehearsal.world else {})
    return load_params("mini", overrides).model_copy(update={"profile": P.profile})


def screen_planted(P: Params, split: Split = "test") -> tuple[pd.DataFrame, Path]:
    """Plant faults in copies of a mini world's clips and screen them with untuned CLIP.

    Returns the screening table with column kind (a fault or "clean") and the folder of the copies.
    Both are kept in the run's 01_data_filtering/ and reused.
    """
    prepare_data(P)
    items, _ = load_split(P, split)
    folder = P.run_dir / "01_data_filtering" / "planted" / split
    clean = 2 * round(CLEAN_SHARE * len(items) / 2)
    per_fault = max(1, round(FAULT_SHARE * len(items)))
    planted = planted_faults.plant(P.data_dir, items, folder, clean, per_fault, P.seed, P.workers)
    copies = [Item(video, "", ()) for video in planted["video"]]
    model, prompts = tuned_models.stage_model(P, "clip"), tuned_models.prompts_of(P)
    table = screen(folder, copies, model, prompts, P.cache_dir / "screening", P.workers)
    table.insert(1, "kind", planted["kind"].to_numpy())
    write_table(table, P.run_dir / "01_data_filtering" / f"screening_{split}.csv")
    return table, folder


def removed_examples(
    table: pd.DataFrame, folder: Path, count: int
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Middle frames (H, W, 3) of up to ``count`` removed clips, one of each kind first.

    Unreadable files are shown as black frames.
    """
    removed = table[table["decision"] == DROP]
    order = removed.groupby("kind", sort=False).cumcount().sort_values(kind="stable").index
    examples = removed.loc[order[:count]].reset_index(drop=True)
    frames = [np.zeros((*SHOWN, 3), np.uint8) for _ in examples["clip"]]
    for i, path in enumerate(folder / clip for clip in examples["clip"]):
        with suppress(DecodeError):
            frames[i] = read_frames(path, [probe(path).frames // 2], SHOWN)[0]
    return frames, examples


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of the removal, with 95% Wilson intervals, for both rules.

    Columns rule, measure, setting, value, low, high (per cent), found, n. Recall per kind and over
    all faults; precision: faulty share of removed clips; last, share of clean clips removed.
    """
    rows = []
    for column, rule in RULES.items():
        removed, faulty = table[column] == DROP, table["kind"] != planted_faults.CLEAN
        for kind in [k for k in planted_faults.FAULTS if (table["kind"] == k).any()]:
            rows.append((rule, "recall", kind, *_wilson(removed[table["kind"] == kind])))
        rows.append((rule, "recall", OVERALL, *_wilson(removed[faulty])))
        rows.append((rule, "precision", OVERALL, *_wilson(faulty[removed])))
        rows.append((rule, "false alarms", CLEAN_REMOVED, *_wilson(removed[~faulty])))
    columns = ["rule", "measure", "setting", "value", "low", "high", "found", "n"]
    return pd.DataFrame(rows, columns=columns)


def _wilson(hits: pd.Series) -> tuple[float, float, float, int, int]:
    """Share in per cent with its Wilson interval, number of hits, n; nan without any cases."""
    count, n = int(hits.sum()), len(hits)
    if n == 0:
        return np.nan, np.nan, np.nan, 0, 0
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return 100 * count / n, 100 * interval.low, 100 * interval.high, count, n


def plant_and_clean(P: Params, folder: Path, share: float = 0.5) -> pd.DataFrame:
    """Share of planted faults of each kind that the audit flags in P's training negatives.

    Writes into ``folder`` planted.json, with faults in ``share`` of the regions, and
    vagta-clean.json, without what is flagged. Columns kind, count (flagged), n, value, low, high.
    """
    planted_file, negatives = folder / "planted.json", P.data_dir / P.data.hard_negatives_train
    planted = planted_faults.plant_text_faults(negatives, planted_file, share, P.seed)
    regions = audit.read_regions(planted_file)
    table = audit.negatives_table(regions)
    table["wrong polarity"] = audit.wrong_polarity(regions, table, P.seed)
    dropped = [*audit.DROPPED, "fantastical", "wrong polarity"]
    audit.clean(planted_file, folder / "vagta-clean.json", table, dropped)
    incomplete = set(regions.loc[regions["negatives"].map(len) < audit.NEGATIVES, "key"])
    flags, rows = table.set_index(["key", "position"]), []
    for kind, faults in planted.groupby("kind", sort=False):
        if kind == "missing":
            hits = faults["key"].isin(incomplete)
        else:
            hits = flags.loc[list(zip(faults["key"], faults["position"], strict=True)), kind]
        interval = audit.share_interval(hits.to_numpy(float), faults["key"], *P.draws)
        rows.append({"kind": kind, "count": int(hits.sum()), **interval._asdict()})
    return pd.DataFrame(rows)
