"""Ablations: variants of a profile under several seeds, each measured by a job of its own.

``python -m companion.ablations --profile mini --seeds 0 1 2 3 4 --cores 2`` runs every variant of
params/ablations.yaml; ``--variants`` names some. What is finished is kept; a job that fails does
not stop the others. Results: runs/<profile>/ablations/<variant>/seed<seed>.csv;
``ablation_tables`` pairs them by seed.
"""

import argparse
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from alertclip.checkpoint import weights_hash
from alertclip.export import META
from alertclip.training import BOOKKEEPING
from companion import detector_tables, result_tables, tuned_models
from companion.detector_tables import Curves, Scored
from companion.figures.style import write_table
from companion.profiles import Params, load_params, parse_overrides
from companion.screening_tables import plant_and_clean
from companion.splits import prepare_data
from companion.stage_runs import run_stage, stage_params
from companion.variants import Variant, load_variants, require_variants
from companion.workflow import selected
from companion.zero_shot_tables import zero_shot_curves
from detectors.training_protocol import Detector
from media.errors import InputError
from media.files import locked, progress, sha256_json

STAGE1 = ("seed", "data", "world", "model", "training.negatives", "stage1")
NOT_STAGE1 = ("hard_negatives_train", "region_negatives", "region_pooling", "patch_tokens")
TUNING = ("seed", "data", "world", "model", "training", "stage1", "stage2", "evaluation.prompts")
DETECTION = ("detector", "evaluation.precision")


def result_file(P: Params, name: str, seed: int, folder: str = "ablations") -> Path:
    """Where the result of a variant under a seed is kept."""
    return P.run_dir / folder / name / f"seed{seed}.csv"


def run_variant(P: Params, name: str, seed: int) -> pd.DataFrame:
    """Train a variant under a seed and measure it on the test clips; one row per metric.

    Columns metric, value (per cent; MSS as it is), weights (hash).
    """
    variant = load_variants()[name]
    if variant.kind == "alertclip":
        changed, stage = train_variant(P, name, seed), "full"
        rows = _tuned(changed)
        if P.ablation.detector and variant.detector:
            rows += _on_benchmark(changed)
    else:
        changed, stage = _changed(P, variant, seed), P.ablation.backbone
        rows = _detected(changed, variant.kind)
    weights = weights_hash(tuned_models.stage_model(changed, stage))[:12]
    return pd.concat(rows, ignore_index=True)[["metric", "value"]].assign(weights=weights)


def train_variant(P: Params, name: str, seed: int) -> Params:
    """Train both stages of a variant of Alert-CLIP; returns its parameters.

    Variants whose Stage I has the same parameters share it.
    """
    variant = load_variants()[name]
    if variant.kind != "alertclip":
        raise InputError(f"{name} is a detector's: choose variants that tune Alert-CLIP")
    changed = _changed(P, variant, seed)
    if variant.negatives:
        folder = changed.run_dir / "negatives"
        plant_and_clean(changed, folder)
        planted = str(folder / f"{variant.negatives}.json")
        changed = changed.changed({"hard_negatives_train": planted})
    if not changed.training.from_scratch and not (changed.tuned_dir / "stage1").exists():
        copying = changed.tuned_dir / "copying"
        checkpoints = shutil.ignore_patterns("checkpoint-*")
        shutil.copytree(shared_stage1(changed, P), copying, dirs_exist_ok=True, ignore=checkpoints)
        os.replace(copying, changed.tuned_dir / "stage1")
    run_stage(changed, 2)
    return changed


def _changed(P: Params, variant: Variant, seed: int) -> Params:
    """The parameters of a variant; a detector's keeps the features and weights of the run."""
    if variant.kind == "alertclip":
        own = {"profile": f"{P.profile}/ablations/{variant.name}/seed{seed}", "seed": seed}
        return P.changed(variant.changes | own)
    values = P.flat()
    changes = {k: values[k] | v if isinstance(v, dict) else v for k, v in variant.changes.items()}
    return P.changed(changes | {"detector_seeds": [seed]})


def inputs_hash(P: Params, name: str, seed: int) -> str:
    """Hash of the parameter groups that decide a variant's result."""
    variant = load_variants()[name]
    names = (*TUNING, *DETECTION, "ablation.backbone")
    if variant.kind == "alertclip":
        names = TUNING + (DETECTION if P.ablation.detector and variant.detector else ())
    elif P.features:
        names += ("features",)
    changed = _changed(P, variant, seed)
    decisive = _decisive(changed, names)
    if changed.training.from_scratch:  # then Stage II has the steps of both
        decisive["stage2"] |= stage_params(changed, 2).model_dump(include={"steps", "epochs"})
    return sha256_json([variant.kind, variant.negatives, decisive])[:12]


def _decisive(P: Params, names: tuple[str, ...]) -> dict[str, Any]:
    """The groups and fields of ``names``, without how often checkpoints are written."""
    found = selected(P, names)
    for stage in {"stage1", "stage2"} & found.keys():
        found[stage] = {k: v for k, v in found[stage].items() if k not in BOOKKEEPING}
    return found


def shared_stage1(P: Params, base: Params) -> Path:
    """Stage I for all variants that have the same: the run's own, or one trained here once."""
    unused = {name: base.flat()[name] for name in NOT_STAGE1}
    decisive, own = _decisive(P.changed(unused), STAGE1), base.tuned_dir / "stage1"
    if decisive == _decisive(base, STAGE1) and (own / META).exists():
        return own
    name = f"stage1-{sha256_json(decisive)[:8]}"
    shared = P.changed({**unused, "profile": f"{base.profile}/ablations/{name}"})
    with locked(shared.run_dir.with_suffix(".lock")):  # two jobs may want the same
        return run_stage(shared, 1)


def _tuned(P: Params) -> list[pd.DataFrame]:
    """Zero-shot metrics and MSS of a trained variant."""
    result = tuned_models.evaluate_stage(P, "full")
    mss = result_tables.mss_by_class(P, [result]).query("class_name == 'all'")
    table = result_tables.zero_shot(P, [result]).rename(columns={"setting": "metric"})
    return [table, mss.rename(columns={"mss": "value"}).assign(metric="MSS")]


def _on_benchmark(P: Params) -> list[pd.DataFrame]:
    """Frame metrics of the tuned model on the profile's benchmark: VadCLIP's and zero-shot."""
    scored = detector_tables.score_stages(P, "vadclip", ["full"])
    curves = zero_shot_curves(P, ["full"], "snippet")
    return [_frame_metrics(P, scored, "VadCLIP: "), _frame_metrics(P, curves, "snippets: ")]


def _detected(P: Params, kind: Detector) -> list[pd.DataFrame]:
    """A detector on the profile's backbone: frame metrics, and those of its own paper by class."""
    scored = detector_tables.score_stages(P, kind, [P.ablation.backbone])
    if kind == "anomalyclip":
        own = detector_tables.class_table(P, scored).query("class_name == 'mean'")
        own = own.rename(columns={"setting": "metric"})
    else:
        own = detector_tables.detection_table(P, scored).query("not normals")
    return [_frame_metrics(P, scored), own]


def _frame_metrics(P: Params, scored: Sequence[Scored | Curves], prefix: str = "") -> pd.DataFrame:
    table = detector_tables.backbone_table(detector_tables.resample_models(P, scored), "none")
    return table.assign(metric=prefix + table["setting"])


Measure = Callable[[Params, str, int], pd.DataFrame]  # of a variant under a seed


def run(
    P: Params,
    names: Sequence[str],
    seeds: Sequence[int],
    cores: int | None = None,
    measure: Measure = run_variant,
    folder: str = "ablations",
) -> None:
    """Run what is missing or outdated, ``cores`` jobs at once on a thread each; name the failed.

    By default one job per core that this process may use, or one alone on a GPU. ``measure`` makes
    the table that ``folder`` keeps.
    """
    require_variants(names)
    pairs = [(name, seed) for seed in seeds for name in names]  # a whole seed first
    wanted = [pair for pair in pairs if not _current(P, *pair, folder)]
    if not wanted:
        return
    prepare_data(P)
    slots = cores or (1 if torch.cuda.is_available() else torch.get_num_threads())
    with ProcessPoolExecutor(slots, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = {pool.submit(_job, measure, P, folder, *pair): pair for pair in wanted}
        for job in progress(as_completed(jobs), len(jobs), folder):
            if error := job.exception():
                (name, seed), log = jobs[job], result_file(P, *jobs[job], folder)
                print(f"{name}, seed {seed}: failed ({error}); see {log.with_suffix('.log')}")


def _job(measure: Measure, P: Params, folder: str, name: str, seed: int) -> None:
    """A variant under a seed in a worker process, with a log beside its result."""
    result, own = result_file(P, name, seed, folder), inputs_hash(P, name, seed)
    result.unlink(missing_ok=True)
    result.parent.mkdir(parents=True, exist_ok=True)
    with result.with_suffix(".log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            table = measure(P, name, seed).assign(variant=name, seed=seed, params=own)
            write_table(table, result)
        except Exception:
            traceback.print_exc()
            raise


def _current(P: Params, name: str, seed: int, folder: str) -> bool:
    file = result_file(P, name, seed, folder)
    return file.exists() and set(_read(file)["params"]) == {inputs_hash(P, name, seed)}


def _read(file: Path) -> pd.DataFrame:
    # As text: 417e66085674 is a hash, and a number too large for a float.
    return pd.read_csv(file, dtype={"params": str, "weights": str})


def results(
    P: Params, names: Sequence[str], seeds: Sequence[int], folder: str = "ablations"
) -> pd.DataFrame:
    """Tidy results of the variants that have been run: what is measured, variant, seed, hashes."""
    files = [result_file(P, name, seed, folder) for name in names for seed in seeds]
    tables = [_read(file) for file in files if file.exists()]
    if not tables:
        raise InputError(f"{folder}: no variant of {P.profile} has a result; run them first")
    return pd.concat(tables, ignore_index=True)


def main(
    measure: Measure = run_variant,
    folder: str = "ablations",
    variants: Sequence[str] = (),
    about: str | None = __doc__,
) -> int:
    """Command line: run variants and write runs/<profile>/<folder>_reference.csv."""
    parser = argparse.ArgumentParser(description=about)
    add = parser.add_argument
    add("--profile", default="mini")
    add("--variants", nargs="+", default=variants, help=f"default: {', '.join(variants) or 'all'}")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--cores", type=int, help="jobs at once; default: one per core, one on a GPU")
    add("-p", nargs="*", action="extend", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args()
    try:
        P = load_params(args.profile, parse_overrides(args.overrides))
        chosen = require_variants(args.variants or list(load_variants()))
        if P.features:
            tuned = [variant.name for variant in chosen if variant.kind == "alertclip"]
            chosen = [variant for variant in chosen if variant.kind != "alertclip"]
            if tuned:
                print(f"left out, as tuning needs videos: {', '.join(tuned)}")
        names = [variant.name for variant in chosen]
        run(P, names, args.seeds, args.cores, measure, folder)
        table = results(P, names, args.seeds, folder)
        write_table(table, written := P.run_dir / f"{folder}_reference.csv")
        print(written)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
