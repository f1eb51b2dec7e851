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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from alertclip.errors import InputError
from alertclip.export import META
from alertclip.files import locked, progress, sha256_json
from companion import (
    detector_tables,
    result_tables,
    screening_tables,
    tuned_models,
    zero_shot_tables,
)
from companion.figures.style import write_table
from companion.profiles import Params, load_params, parse_overrides
from companion.splits import prepare_data
from companion.stage_runs import run_stage
from companion.variants import Variant, load_variants, require_variants
from companion.workflow import selected

STAGE1 = ("seed", "data", "world", "model", "training.negatives", "stage1")
NOT_STAGE1 = ("hard_negatives_train", "region_negatives", "region_pooling", "patch_tokens")
TUNING = ("seed", "data", "world", "model", "training", "stage1", "stage2", "evaluation.prompts")
DETECTION = ("detector", "evaluation.precision")


def result_file(P: Params, name: str, seed: int) -> Path:
    """Where the result of a variant under a seed is kept."""
    return P.run_dir / "ablations" / name / f"seed{seed}.csv"


def run_variant(P: Params, name: str, seed: int) -> Path:
    """Train and measure a variant under a seed; one row per metric.

    Columns variant, seed, metric, value (per cent; MSS as it is), params and weights, hashes.
    """
    variant = load_variants()[name]
    changed = _changed(P, variant, seed)
    tuned = variant.kind == "alertclip"
    table = _tuned(changed, P, variant) if tuned else _detected(changed, variant)
    out = result_file(P, name, seed)
    write_table(table.assign(variant=name, seed=seed, params=inputs_hash(P, name, seed)), out)
    return out


def _changed(P: Params, variant: Variant, seed: int) -> Params:
    """The parameters of a variant; a detector's keeps the features and weights of the run."""
    if variant.kind == "alertclip":
        own = {"profile": f"{P.profile}/ablations/{variant.name}/seed{seed}", "seed": seed}
        return P.changed(P.ablation.changes | variant.changes | own)
    values = P.flat()
    changes = {k: values[k] | v if isinstance(v, dict) else v for k, v in variant.changes.items()}
    return P.changed(changes | {"detector_seeds": [seed]})


def inputs_hash(P: Params, name: str, seed: int) -> str:
    """Hash of the parameter groups that decide a variant's result."""
    variant = load_variants()[name]
    names = (*TUNING, *DETECTION, "ablation.backbone")
    if variant.kind == "alertclip":
        names = TUNING + (DETECTION if P.ablation.detector and variant.detector else ())
    decisive = selected(_changed(P, variant, seed), names)
    return sha256_json([variant.kind, variant.negatives, decisive])[:12]


def _tuned(P: Params, base: Params, variant: Variant) -> pd.DataFrame:
    """Both stages and the zero-shot metrics; Stage I is shared where its parameters agree."""
    if variant.negatives:
        folder = base.run_dir / "negatives"
        screening_tables.plant_and_clean(P, folder)
        P = P.changed({"hard_negatives_train": str(folder / f"{variant.negatives}.json")})
    if not P.training.from_scratch and not (P.run_dir / "stage1").exists():
        copying = P.run_dir / "copying"
        checkpoints = shutil.ignore_patterns("checkpoint-*")
        shutil.copytree(_shared_stage1(P, base), copying, dirs_exist_ok=True, ignore=checkpoints)
        os.replace(copying, P.run_dir / "stage1")
    run_stage(P, 2)
    result = tuned_models.evaluate_stage(P, "full", "test")
    table = result_tables.zero_shot(P, [result]).rename(columns={"setting": "metric"})
    mss = result_tables.mss_by_class(P, [result]).query("class_name == 'all'")
    rows = [table, mss.rename(columns={"mss": "value"}).assign(metric="MSS")]
    if base.ablation.detector and variant.detector:
        rows += _on_benchmark(P)
    return _rows(P, rows, "full")


def _on_benchmark(P: Params) -> list[pd.DataFrame]:
    """Frame metrics of the tuned model on the profile's benchmark: VadCLIP's and zero-shot."""
    scored = detector_tables.score_stages(P, "vadclip", ["full"])
    curves = zero_shot_tables.zero_shot_curves(P, ["full"], "snippet")
    return [_frame_metrics(P, scored, "VadCLIP: "), _frame_metrics(P, curves, "snippets: ")]


def _shared_stage1(P: Params, base: Params) -> Path:
    """Stage I for all variants that have the same: the run's own, or one trained here once."""
    unused = {name: base.flat()[name] for name in NOT_STAGE1}
    decisive, own = selected(P.changed(unused), STAGE1), base.run_dir / "stage1"
    if decisive == selected(base, STAGE1) and (own / META).exists():
        return own
    name = f"stage1-{sha256_json(decisive)[:8]}"
    shared = P.changed({**unused, "profile": f"{base.profile}/ablations/{name}"})
    with locked(shared.run_dir.with_suffix(".lock")):  # two jobs may want the same
        return run_stage(shared, 1)


def _frame_metrics(
    P: Params, scored: Sequence[detector_tables.Scored | detector_tables.Curves], prefix: str = ""
) -> pd.DataFrame:
    table = detector_tables.backbone_table(detector_tables.resample_models(P, scored), "none")
    return table.assign(metric=prefix + table["setting"])


def _detected(P: Params, variant: Variant) -> pd.DataFrame:
    """A detector on the profile's backbone: frame metrics, and those of its own paper by class."""
    scored = detector_tables.score_stages(P, variant.kind, [P.ablation.backbone])
    rows = [_frame_metrics(P, scored)]
    if variant.kind == "anomalyclip":
        classes = detector_tables.class_table(P, scored).query("class_name == 'mean'")
        rows.append(classes.rename(columns={"setting": "metric"}))
    else:
        rows.append(detector_tables.detection_table(P, scored).query("not normals"))
    return _rows(P, rows, P.ablation.backbone)


def _rows(P: Params, rows: list[pd.DataFrame], stage: tuned_models.Stage) -> pd.DataFrame:
    weights = tuned_models.weights_hash(tuned_models.stage_model(P, stage))[:12]
    return pd.concat(rows, ignore_index=True)[["metric", "value"]].assign(weights=weights)


def run(P: Params, names: Sequence[str], seeds: Sequence[int], cores: int | None = None) -> None:
    """Run what is missing or outdated, ``cores`` jobs at once on a thread each; name the failed.

    By default one job per core that this process may use, or one alone on a GPU.
    """
    require_variants(list(names))
    wanted = [(name, seed) for name in names for seed in seeds if not _current(P, name, seed)]
    if not wanted:
        return
    prepare_data(P)
    slots = cores or (1 if torch.cuda.is_available() else torch.get_num_threads())
    with ProcessPoolExecutor(slots, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = {pool.submit(_job, P, *pair): pair for pair in wanted}
        for job in progress(as_completed(jobs), len(jobs), "ablations"):
            if error := job.exception():
                (name, seed), log = jobs[job], result_file(P, *jobs[job]).with_suffix(".log")
                print(f"ablation {name}, seed {seed}: failed ({error}); see {log}")


def _job(P: Params, name: str, seed: int) -> None:
    """A variant under a seed in a worker process, with a log beside its result."""
    result = result_file(P, name, seed)
    result.unlink(missing_ok=True)
    result.parent.mkdir(parents=True, exist_ok=True)
    with result.with_suffix(".log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            run_variant(P, name, seed)
        except Exception:
            traceback.print_exc()
            raise


def _current(P: Params, name: str, seed: int) -> bool:
    file = result_file(P, name, seed)
    return file.exists() and set(_read(file)["params"]) == {inputs_hash(P, name, seed)}


def _read(file: Path) -> pd.DataFrame:
    # As text: 417e66085674 is a hash, and a number too large for a float.
    return pd.read_csv(file, dtype={"params": str, "weights": str})


def results(P: Params, names: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Tidy results of the variants that have been run: variant, seed, metric, value, hashes."""
    files = [result_file(P, name, seed) for name in names for seed in seeds]
    tables = [_read(file) for file in files if file.exists()]
    if not tables:
        raise InputError(f"no ablation of {P.profile} has a result; run them first")
    return pd.concat(tables, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: run variants and write their results as one table."""
    parser = argparse.ArgumentParser(prog="python -m companion.ablations", description=__doc__)
    add = parser.add_argument
    add("--profile", default="mini")
    add("--variants", nargs="+", default=[], help="default: all")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--cores", type=int, help="jobs at once; default: one per core, one on a GPU")
    add("-p", nargs="*", action="extend", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args(arguments)
    try:
        P = load_params(args.profile, parse_overrides(args.overrides))
        names = args.variants or list(load_variants())
        run(P, names, args.seeds, args.cores)
        write_table(results(P, names, args.seeds), P.run_dir / "ablations_reference.csv")
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
