"""What each notebook needs on the real data: hours by GPU, GB of disk and of memory.

Estimates from params/budgets.yaml. The pre-flight check compares them with the free disk space, and
``python -m companion.budgets [PROFILE]`` prints the table of docs/real-data.md. The hours do not
include decoding on the CPU; small notebooks (all but 03 to 07) are left out.
"""

import sys
from typing import Any

import pandas as pd
import yaml

from companion.profiles import PROFILES, Params, load_params
from companion.stage_runs import stage_params
from companion.variants import load_variants

SIDE, DIM, FLOAT = 224, 512, 4  # pixels, width of an embedding, bytes
MODELS = 3  # CLIP, Stage I, Full
SUMS = dict.fromkeys(("fp32", "bf16", "frames_gb", "features_gb"), "sum")


def needs(P: Params) -> pd.DataFrame:
    """Needs of notebooks 03 to 07 (the index); no rows for the mini world.

    Columns: work in TFLOP by precision (fp32, bf16); GB of decoded frames in runs/cache, of
    features in the run's folder, and of memory (one model at a time).
    """
    rows = [] if P.data.world == "miniworld" else _rows(P)
    table = pd.DataFrame(rows, columns=["notebook", *SUMS, "memory_gb"]).fillna(0.0)
    return table.groupby("notebook").agg(SUMS | {"memory_gb": "max"})


def _rows(P: Params) -> list[dict[str, Any]]:
    facts = yaml.safe_load((PROFILES / "budgets.yaml").read_text())
    gflop = facts["gflop_per_frame"]
    tflop = gflop.get(P.model.backbone, max(gflop.values())) / 1000
    first, second = (_stage(P, number, facts, tflop) for number in (1, 2))
    train, test = (_frames(P, facts, split) for split in ("train", "test"))
    transfer = sum(_frames(P.changed(c), facts, "test") for c in P.evaluation.transfer.values())
    length, crops = P.detector.snippet_length, P.detector.snippet_crops
    vadclip = _features(P, train * crops + test, length, tflop)  # tests use one crop
    variants = [v for v in map(load_variants().get, P.ablation.variants) if v]
    tuned, seeds = [v for v in variants if v.kind == "alertclip"], len(P.ablation.seeds)
    parts = (  # notebook, how often, need
        ("03", 1, first),
        ("04", 1, second),
        ("05", MODELS, _features(P, transfer, length, tflop)),
        ("06", MODELS, vadclip),
        ("06", MODELS, _features(P, (train + test) / P.detector.frame_stride, 1, tflop)),
        ("07", seeds, first | {"frames_gb": 0}),
        *(("07", seeds, _stage(P.changed(v.changes), 2, facts, tflop)) for v in tuned),
        ("07", seeds * sum(v.detector for v in tuned) * P.ablation.detector, vadclip),
    )
    return [
        {name: times * amount for name, amount in need.items()}
        | {"notebook": book, "memory_gb": bool(times) * need.get("features_gb", 0)}
        for book, times, need in parts
    ]


def _stage(P: Params, number: int, facts: dict[str, Any], tflop: float) -> dict[str, float]:
    """Need of a training stage; Stage I also decodes the clips."""
    stage = stage_params(P, number)
    clips = {k: min(n, P.rehearsal.clips or n) for k, n in facts["clips"].items()}
    frames = stage.total_steps(clips["train"]) * stage.items_per_step * P.data.num_frames
    work = frames * tflop * facts["training_passes"][P.model.checkpointing]
    decoded = sum(clips.values()) * P.data.num_frames * SIDE**2 * 3 / 1e9
    return {stage.precision: work, "frames_gb": decoded if number == 1 else 0}


def _frames(P: Params, facts: dict[str, Any], split: str) -> float:
    """Frames of a benchmark's split, or of a rehearsal's share of it; 0 if unknown."""
    limit = P.detector.videos if split == "train" else P.rehearsal.test_videos
    videos = sum(P.benchmark.counts.get(split, {}).values())
    share = min(1, limit / videos) if limit and videos else 1
    return share * facts["frames"].get(P.benchmark.name, {}).get(split, 0)


def _features(P: Params, frames: float, length: int, tflop: float) -> dict[str, float]:
    """Need of one model's features: one row per ``length`` frames, all or some of them embedded."""
    embedded = frames * min(P.detector.snippet_frames, length) / length
    kept = frames / length * DIM * FLOAT / 1e9
    half = P.evaluation.precision != "fp32"  # fp16 and, on a GPU, auto are as fast as bf16
    return {"bf16" if half else "fp32": embedded * tflop, "features_gb": kept}


def budget_table(P: Params) -> pd.DataFrame:
    """Columns notebook, hours on each GPU, disk and memory in GB; the last row is for all."""
    cards, need = yaml.safe_load((PROFILES / "budgets.yaml").read_text())["cards"], needs(P)
    hours = {
        f"{card}, h": (need["fp32"] / speed["fp32"] + need["bf16"] / speed["bf16"]) / 3600
        for card, speed in cards.items()
    }
    disk = need["frames_gb"] + need["features_gb"]
    table = pd.DataFrame(hours | {"disk, GB": disk, "memory, GB": need["memory_gb"]})
    table.loc["all"] = [*table.iloc[:, :-1].sum(), table["memory, GB"].max()]
    return table.rename_axis("notebook").reset_index()


def markdown(P: Params) -> str:
    """The budget as a table in Markdown."""
    header, *rows = budget_table(P).map(_cell).to_csv(sep="|", index=False).splitlines()
    rule = "|".join("---" for _ in header.split("|"))
    return "\n".join(f"| {line.replace('|', ' | ')} |" for line in (header, rule, *rows))


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


if __name__ == "__main__":
    print(markdown(load_params((sys.argv[1:] or ["paper"])[0], {"data_root": "."})))
