"""Learning curves on the development split: what each loss adds, step by step, over seeds.

``python -m companion.learning_curves --variants full global region hard --seeds 0 1 2 3 4`` trains
variants of params/ablations.yaml as ``companion.ablations`` does, keeps a checkpoint every 25 steps
and measures each on the development clips. Schedules are chosen from this table. The ablations
score the test clips afterwards, with the models trained here.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

from alertclip.checkpoint import TRAINABLE, checkpoints, restore
from alertclip.embeddings import embed_clips
from alertclip.errors import InputError
from alertclip.model import AlertCLIP
from alertclip.mss import encode_sets, signed_score
from companion import ablations, result_tables
from companion.ablation_tables import student_table
from companion.profiles import Params
from companion.splits import Split, clip_dataset
from companion.stage_runs import initial_model, resolve_device
from companion.tuned_models import StageResult, prompts_of
from companion.variants import load_variants
from companion.world_gates import still_accuracy

VARIANTS = ("full", "global", "region", "hard")
EVERY = 25  # optimiser steps between two points of a curve
KEPT = {f"stage{stage}_{name}": value for stage in (1, 2)
        for name, value in (("save_steps", EVERY), ("save_limit", 1000))}  # fmt: skip
RULE = ("video AUC", "frame AUC")  # what the choice of the schedule looks at
STILLS = 600  # per point: how well scene, colour, object and posture are still told


def curve(P: Params, name: str, seed: int) -> pd.DataFrame:
    """Development metrics of a variant at each checkpoint of Stage II; the reference's Stage I too.

    Columns variant, seed, stage, step, metric, value (per cent; MSS as it is), params (hash).
    """
    variant = load_variants()[name]
    if variant.kind != "alertclip":
        raise InputError(
            f"{name} is a detector's ablation: only variants of Alert-CLIP have curves"
        )
    trained = ablations.train_variant(P.changed(KEPT), name, seed)
    stages = {2: trained.tuned_dir / "full"}
    if variant.reference:
        stages[1] = ablations.shared_stage1(trained, P.changed(KEPT))
    tables = [_points(trained, stage, folder) for stage, folder in sorted(stages.items())]
    own = {"variant": name, "seed": seed, "params": ablations.inputs_hash(P, name, seed)}
    return pd.concat(tables, ignore_index=True).assign(**own)


def _points(P: Params, stage: int, folder: Path) -> pd.DataFrame:
    """Metrics at every checkpoint of a stage. Columns stage, step, metric, value."""
    steps, models = zip(*_models(P, stage, folder), strict=True)
    return measured(P, steps, models).rename(columns={"name": "step"}).assign(stage=stage)


def measured(
    P: Params, names: Sequence[float], models: Sequence[AlertCLIP], split: Split = "dev"
) -> pd.DataFrame:
    """``detection`` of each model, and what it tells on stills. Columns name, metric, value."""
    rows = []
    seen = still_accuracy(P, models, STILLS)
    for name, model, attributes in zip(names, models, seen, strict=True):
        found = detection(P, model, split)
        found |= {row["measure"]: 100 * row["value"] for row in attributes}
        rows += [{"name": name, "metric": metric, "value": v} for metric, v in found.items()]
    return pd.DataFrame(rows)


def _models(P: Params, stage: int, folder: Path) -> Iterator[tuple[int, AlertCLIP]]:
    """The model at each checkpoint, in evaluation mode, with its step."""
    for saved in checkpoints(folder):
        model = initial_model(P, stage)
        restore(model, load_file(saved / TRAINABLE))
        yield int(saved.name.split("-")[1]), model.to(resolve_device(P)).eval()


def detection(P: Params, model: AlertCLIP, split: Split = "dev") -> dict[str, float]:
    """MSS and zero-shot AUC and AP (per cent) on the clips of a split."""
    dataset = clip_dataset(P, split, model.image_size)
    clips = embed_clips(model, dataset, P.evaluation.batch_size, resolve_device(P))
    result = StageResult("full", clips, *encode_sets(model.encode_text, prompts_of(P).sets))
    few = P.changed({"bootstrap_samples": 10})  # the interval is over seeds
    table = result_tables.zero_shot(few, [result], split).set_index("setting")["value"]
    return {"MSS": signed_score(result.similarities, clips.labels).mean(), **table}


def gains(table: pd.DataFrame, name: str = "full", against: str = "global") -> pd.DataFrame:
    """Paired differences of two variants at each step of Stage II, over seeds.

    Columns step, metric, change, low, high (95%, Student's t), seeds.
    """
    wide = table[table["stage"] == 2].pivot_table(
        index=["metric", "step", "seed"], columns="variant", values="value", sort=False
    )
    return student_table(wide[name] - wide[against], "change")


def first_gain(table: pd.DataFrame, metrics: Sequence[str] = RULE) -> int | None:
    """The schedule's rule: the first step at which Full beats global alone in every metric.

    Beats: the 95% interval of the paired difference over seeds lies above zero.
    """
    found = gains(table)
    low = found[found["metric"].isin(metrics)].pivot(index="step", columns="metric", values="low")
    steps = low.index[(low > 0).all(axis=1)]
    return int(steps[0]) if len(steps) else None


if __name__ == "__main__":
    sys.exit(ablations.main(about=__doc__, folder="curves", measure=curve, variants=VARIANTS))
