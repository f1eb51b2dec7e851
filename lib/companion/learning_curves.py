"""Learning curves on the development split: what each loss adds, step by step, over seeds.

``python -m companion.learning_curves --variants full global region hard --seeds 0 1 2 3 4`` trains
variants of params/ablations.yaml as ``companion.ablations`` does, keeps a checkpoint every 25 steps
and measures each on the development clips; it writes runs/<profile>/curves_reference.csv, committed
as figures/learning_curves.csv. Schedules are chosen from this table. The ablations score the test
clips afterwards, with the models trained here.
"""

import sys
from collections.abc import Sequence

import pandas as pd
from safetensors.torch import load_file

from alertclip.checkpoint import TRAINABLE, checkpoints, restore
from alertclip.embeddings import embed_clips
from alertclip.model import AlertCLIP
from alertclip.mss import encode_sets, signed_score
from companion import ablations, result_tables
from companion.ablation_tables import student_table
from companion.profiles import Params
from companion.splits import clip_dataset
from companion.stage_runs import initial_model, resolve_device
from companion.tuned_models import StageResult, prompts_of
from companion.variants import load_variants
from companion.world_gates import still_accuracy

KEPT = {f"stage{stage}_{name}": value for stage in (1, 2)
        for name, value in (("save_steps", 25), ("save_limit", 1000))}  # fmt: skip
STILLS = 600  # per point: how well scene, colour, object and posture are still told


def curve(P: Params, name: str, seed: int) -> pd.DataFrame:
    """Development metrics of a variant at each checkpoint of Stage II; the reference's Stage I too.

    Columns step, metric, value (per cent; MSS as it is), stage.
    """
    variant, tables = load_variants()[name], []
    trained = ablations.train_variant(P.changed(KEPT), name, seed)
    folders = {2: trained.tuned_dir / "full"}
    if variant.reference:
        folders = {1: ablations.shared_stage1(trained, P.changed(KEPT))} | folders
    for stage, folder in folders.items():
        models = {}
        for saved in checkpoints(folder):
            model = models[int(saved.name.split("-")[1])] = initial_model(trained, stage)
            restore(model, load_file(saved / TRAINABLE))
            model.to(resolve_device(P)).eval()
        table = measured(trained, list(models), list(models.values()))
        tables.append(table.rename(columns={"name": "step"}).assign(stage=stage))
    return pd.concat(tables, ignore_index=True)


def measured(P: Params, names: Sequence[float], models: Sequence[AlertCLIP]) -> pd.DataFrame:
    """``detection`` of each model, and what it tells on stills. Columns name, metric, value."""
    rows = []
    seen = still_accuracy(P, models, STILLS)
    for name, model, attributes in zip(names, models, seen, strict=True):
        found = detection(P, model)
        found |= {row["measure"]: 100 * row["value"] for row in attributes}
        rows += [{"name": name, "metric": metric, "value": v} for metric, v in found.items()]
    return pd.DataFrame(rows)


def detection(P: Params, model: AlertCLIP) -> dict[str, float]:
    """MSS and zero-shot AUC and AP (per cent) on the development clips."""
    dataset = clip_dataset(P, "dev", model.image_size)
    clips = embed_clips(model, dataset, P.evaluation.batch_size, resolve_device(P))
    result = StageResult("full", clips, *encode_sets(model.encode_text, prompts_of(P).sets))
    few = P.changed({"bootstrap_samples": 10})  # the interval is over seeds
    table = result_tables.zero_shot(few, [result], "dev").set_index("setting")["value"]
    return {"MSS": signed_score(result.similarities, clips.labels).mean(), **table}


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Full minus global alone at each step of Stage II, paired by seed.

    Columns step, metric, change, low, high (95%, Student's t), seeds.
    """
    wide = table[table["stage"] == 2].pivot_table(
        index=["metric", "step", "seed"], columns="variant", values="value", sort=False
    )
    return student_table(wide["full"] - wide["global"], "change")


def first_gain(table: pd.DataFrame) -> int | None:
    """The schedule's rule: the first step at which Full beats global in video and in frame AUC.

    Beats: the 95% interval of the paired difference over seeds lies above zero.
    """
    found = gains(table).query("metric in ('video AUC', 'frame AUC')")
    clear = found.assign(clear=found["low"] > 0).groupby("step")["clear"].all()
    return int(clear.idxmax()) if clear.any() else None


if __name__ == "__main__":
    variants = ("full", "global", "region", "hard")
    sys.exit(ablations.main(curve, "curves", variants, __doc__))
