"""Train a variant of params/ablations.yaml under a seed, and measure it.

``MEASURES`` names the tables that ``python -m companion.ablations --measure`` makes.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from alertclip import embeddings, export, training
from alertclip.checkpoint import TRAINABLE, checkpoints, restore, weights_hash
from alertclip.model import AlertCLIP
from alertclip.mss import encode_sets, signed_score
from companion import detector_tables, result_tables, screening_tables, splits, tuned_models
from companion.detector_tables import Curves, Scored
from companion.extraction import READERS
from companion.profiles import Params
from companion.stage_runs import initial_model, resolve_device, run_stage, stage_params
from companion.variants import Variant, load_variants
from companion.workflow import selected
from companion.world_gates import still_accuracy
from companion.zero_shot_tables import open_vocabulary_table, zero_shot_curves, zero_shot_table
from detectors.training_protocol import DETECTORS, Detector
from media.errors import InputError
from media.files import locked, sha256_json

STAGE1 = ("seed", "data", "world", "model", "training.negatives", "stage1")
NOT_STAGE1 = ("hard_negatives_train", "region_negatives", "region_pooling", "patch_tokens")
TUNING = ("seed", "data", "world", "model", "training", "stage1", "stage2", "evaluation.prompts")
DETECTION = ("detector", "evaluation.precision")
DOMAINS = ("evaluation.transfer", "evaluation.open_vocabulary_changes")
KEPT = {f"stage{stage}_{name}": value for stage in (1, 2)
        for name, value in (("save_steps", 25), ("save_limit", 1000))}  # fmt: skip
STILLS = 600  # per checkpoint, for accuracy on scene, colour, object and posture


def final_metrics(P: Params, name: str, seed: int) -> pd.DataFrame:
    """Train a variant under a seed and measure it on the test clips: one row per metric.

    Columns metric, value (per cent; MSS unscaled), weights (hash).
    """
    variant = load_variants()[name]
    if variant.kind == "alertclip":
        changed, stage = train_variant(P, name, seed), "full"
        rows = [_zero_shot(changed, [tuned_models.evaluate_stage(changed, "full")])]
        if P.ablation.detector and variant.detector:
            scored = detector_tables.score_stages(changed, "vadclip", ["full"])
            rows.append(_frame_metrics(changed, scored, "VadCLIP: "))
            curves = zero_shot_curves(changed, ["full"], "snippet")
            rows.append(_frame_metrics(changed, curves, "snippets: "))
    else:
        changed, stage = _changed(P, variant, seed), P.ablation.backbone
        rows = _detected(changed, variant.kind)
    weights = weights_hash(tuned_models.stage_model(changed, stage))[:12]
    return pd.concat(rows, ignore_index=True)[["metric", "value"]].assign(weights=weights)


def stage_metrics(P: Params, name: str, seed: int) -> pd.DataFrame:
    """MSS and AUCs (per cent) of a variant's models and their paired differences on test clips.

    Columns model, measure, value, low, high, n. World and prior do not depend on the seed.
    """
    P = train_variant(P, name, seed)
    results = [tuned_models.evaluate_stage(P, stage) for stage in tuned_models.STAGES]
    table = _zero_shot(P, results).rename(columns={"metric": "measure"})
    rows = [table[table["measure"].str.endswith(("AUC", "MSS"))]]
    for pair in (results[:2], results[1:], results[::2]):
        rows.append(result_tables.paired(P, *pair).rename(columns={"difference": "model"}))
    columns = ["model", "measure", "value", "low", "high", "n"]
    return pd.concat([row[columns] for row in rows], ignore_index=True)


def benchmark_metrics(P: Params, name: str, seed: int) -> pd.DataFrame:
    """Metrics (per cent) of each model of a variant on whole test videos, and their differences.

    Zero-shot in every domain, VadCLIP trained on base classes alone, and both detectors; means over
    the detector seeds. Columns model (or a difference), measure, value.
    """
    P, stages = train_variant(P, name, seed), tuple(tuned_models.STAGES)
    zero_shot = zero_shot_table(P, stages, "snippet")
    by_subset = open_vocabulary_table(P, stages).query("normals and metric == 'AUC'")
    names = "VadCLIP of base classes: frame AUC, " + by_subset["subset"]
    rows = [zero_shot.assign(metric="zero-shot, " + zero_shot["setting"])]
    rows.append(by_subset.assign(metric=names))
    for kind in READERS:
        scored = detector_tables.score_stages(P, kind, stages)
        rows.append(_frame_metrics(P, scored, f"{DETECTORS[kind]}: "))
    wide = pd.concat(rows).pivot(index="metric", columns="model", values="value")
    for before, after in combinations(tuned_models.STAGES.values(), 2):
        wide[f"{after} minus {before}"] = wide[after] - wide[before]
    return wide.rename_axis("measure").melt(var_name="model", ignore_index=False).reset_index()


def curve(P: Params, name: str, seed: int) -> pd.DataFrame:
    """Development metrics of a variant at each checkpoint of Stage II; of a reference, Stage I too.

    Columns step, metric, value (per cent; MSS unscaled), stage. Schedules are chosen from this
    table; the test clips are scored afterwards, with the models trained here.
    """
    trained, rows = train_variant(P.changed(KEPT), name, seed), []
    folders = {2: trained.tuned_dir / "full"}
    if load_variants()[name].reference:
        folders = {1: shared_stage1(trained, P.changed(KEPT))} | folders
    for stage, folder in folders.items():
        saved = {int(c.name.split("-")[1]): c for c in checkpoints(folder)}
        models = [_restored(trained, stage, checkpoint) for checkpoint in saved.values()]
        stills = still_accuracy(trained, models, STILLS)
        for step, model, accuracies in zip(saved, models, stills, strict=True):
            values = detection(trained, model)
            values |= {row["measure"]: 100 * row["value"] for row in accuracies}
            rows += [(step, metric, value, stage) for metric, value in values.items()]
    return pd.DataFrame(rows, columns=["step", "metric", "value", "stage"])


Measure = Callable[[Params, str, int], pd.DataFrame]  # of a variant under a seed
# Function that makes the table, and the variants it is for by default (empty: all).
MEASURES: dict[str, tuple[Measure, tuple[str, ...]]] = {
    "ablations": (final_metrics, ()),
    "seeds": (stage_metrics, ("full",)),
    "benchmarks": (benchmark_metrics, ("full",)),
    "curves": (curve, ("full", "global", "region", "hard")),
}


def train_variant(P: Params, name: str, seed: int) -> Params:
    """Train both stages of a variant of Alert-CLIP; return its parameters.

    Variants with the same Stage I parameters share one Stage I.
    """
    variant = load_variants()[name]
    if variant.kind != "alertclip":
        raise InputError(f"{name} is a detector's: choose variants that tune Alert-CLIP")
    changed = _changed(P, variant, seed)
    if variant.negatives:
        folder = changed.run_dir / "negatives"
        screening_tables.plant_and_clean(changed, folder)
        negatives = str(folder / f"{variant.negatives}.json")
        changed = changed.changed({"hard_negatives_train": negatives})
    if not changed.training.from_scratch and not (changed.tuned_dir / "stage1").exists():
        copying = changed.tuned_dir / "copying"
        ignored = shutil.ignore_patterns("checkpoint-*")
        shutil.copytree(shared_stage1(changed, P), copying, dirs_exist_ok=True, ignore=ignored)
        os.replace(copying, changed.tuned_dir / "stage1")
    run_stage(changed, 2)
    return changed


def _changed(P: Params, variant: Variant, seed: int) -> Params:
    """Parameters of a variant; a detector's variant uses the run's features and weights."""
    if variant.kind == "alertclip":
        run = {"profile": f"{P.profile}/ablations/{variant.name}/seed{seed}", "seed": seed}
        return P.changed(variant.changes | run)
    values = P.flat()
    changes = {k: values[k] | v if isinstance(v, dict) else v for k, v in variant.changes.items()}
    return P.changed(changes | {"detector_seeds": [seed]})


def inputs_hash(P: Params, name: str, seed: int, measure: str = "ablations") -> str:
    """Hash of the parameters that decide a variant's result."""
    variant = load_variants()[name]
    names = (*TUNING, *DETECTION, "ablation.backbone")
    if variant.kind == "alertclip":
        detection = DETECTION if P.ablation.detector and variant.detector else ()
        names = TUNING + (DETECTION + DOMAINS if measure == "benchmarks" else detection)
    elif P.features:
        names += ("features",)
    changed = _changed(P, variant, seed)
    decisive = _decisive(changed, names)
    if changed.training.from_scratch:  # Stage II has the steps of both
        decisive["stage2"] |= stage_params(changed, 2).model_dump(include={"steps", "epochs"})
    return sha256_json([variant.kind, variant.negatives, decisive])[:12]


def _decisive(P: Params, names: tuple[str, ...]) -> dict[str, Any]:
    """Values of the groups and fields in ``names``, without checkpoint bookkeeping."""
    values = selected(P, names)
    for stage in {"stage1", "stage2"} & values.keys():
        values[stage] = {k: v for k, v in values[stage].items() if k not in training.BOOKKEEPING}
    return values


def shared_stage1(P: Params, base: Params) -> Path:
    """Folder of a variant's Stage I: the run's if the parameters agree, else one trained once."""
    unused = {name: base.flat()[name] for name in NOT_STAGE1}
    decisive, folder = _decisive(P.changed(unused), STAGE1), base.tuned_dir / "stage1"
    if decisive == _decisive(base, STAGE1) and (folder / export.META).exists():
        return folder
    name = f"stage1-{sha256_json(decisive)[:8]}"
    shared = P.changed({**unused, "profile": f"{base.profile}/ablations/{name}"})
    with locked(shared.run_dir.with_suffix(".lock")):  # two jobs may need the same
        return run_stage(shared, 1)


def _restored(P: Params, stage: int, checkpoint: Path) -> AlertCLIP:
    model = initial_model(P, stage)
    restore(model, load_file(checkpoint / TRAINABLE))
    return model.to(resolve_device(P)).eval()


def detection(P: Params, model: AlertCLIP) -> dict[str, float]:
    """MSS and zero-shot AUC and AP (per cent) on the development clips."""
    dataset = splits.clip_dataset(P, "dev", model.image_size)
    clips = embeddings.embed_clips(model, dataset, P.evaluation.batch_size, resolve_device(P))
    sets = encode_sets(model.encode_text, tuned_models.prompts_of(P).sets)
    result = tuned_models.StageResult("full", clips, *sets)
    few = P.changed({"bootstrap_samples": 10})  # its intervals are not used
    table = result_tables.zero_shot(few, [result], "dev").set_index("setting")["value"]
    return {"MSS": signed_score(result.similarities, clips.labels).mean(), **table}


def _zero_shot(P: Params, results: list[tuned_models.StageResult]) -> pd.DataFrame:
    """Zero-shot metrics and MSS of models: columns model, metric, value, low, high, n."""
    mss = result_tables.mss_by_class(P, results).query("class_name == 'all'")
    table = result_tables.zero_shot(P, results).rename(columns={"setting": "metric"})
    return pd.concat([table, mss.rename(columns={"mss": "value"}).assign(metric="MSS")])


def _detected(P: Params, kind: Detector) -> list[pd.DataFrame]:
    """A detector on the profile's backbone: frame metrics, and its paper's metrics by class."""
    scored = detector_tables.score_stages(P, kind, [P.ablation.backbone])
    if kind == "anomalyclip":
        by_class = detector_tables.class_table(P, scored).query("class_name == 'mean'")
        by_class = by_class.rename(columns={"setting": "metric"})
    else:
        by_class = detector_tables.detection_table(P, scored).query("not normals")
    return [_frame_metrics(P, scored), by_class]


def _frame_metrics(P: Params, scored: Sequence[Scored | Curves], prefix: str = "") -> pd.DataFrame:
    table = detector_tables.backbone_table(detector_tables.resample_models(P, scored), "none")
    return table.assign(metric=prefix + table["setting"])
