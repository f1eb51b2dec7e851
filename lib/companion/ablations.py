"""Run variants of a profile over seeds, each variant and seed in a job of its own.

``python -m companion.ablations --profile mini --seeds 0 1 2 3 4 --cores 2`` runs every variant of
params/ablations.yaml; ``--variants`` names some. Finished results are kept; a failed job does not
stop the others. Variants pair only on the same kind of processor. ``--measure`` chooses the table:

ablations    zero-shot metrics of the trained model on the test clips
seeds        the same for CLIP, Stage I and Full, with paired differences
benchmarks   the three models on whole videos: zero-shot in every domain, and in detectors
curves       development metrics every 25 steps

Results: runs/<profile>/<measure>/<variant>/seed<seed>.csv, runs/<profile>/<measure>_reference.csv
(figures/ablations_reference, seeds_test, benchmarks_test and learning_curves.csv come from them).
"""

import argparse
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from companion.latency import surroundings
from companion.profiles import Params, read_command_line
from companion.splits import prepare_data
from companion.stage_runs import resolve_device
from companion.variant_runs import MEASURES, inputs_hash
from companion.variants import load_variants, require_variants
from media.errors import InputError
from media.files import progress, write_table


def result_file(P: Params, name: str, seed: int, measure: str = "ablations") -> Path:
    """CSV with the result of a variant under a seed."""
    return P.run_dir / measure / name / f"seed{seed}.csv"


def run(
    P: Params,
    names: Sequence[str],
    seeds: Sequence[int],
    cores: int | None = None,
    measure: str = "ablations",
) -> None:
    """Run missing and outdated jobs, ``cores`` at once with one thread each; report failures.

    By default one job per core that this process may use, or a single one on a GPU.
    """
    require_variants(names)
    pairs = [(name, seed) for seed in seeds for name in names]  # seed by seed
    outdated = [pair for pair in pairs if not _current(P, *pair, measure)]
    if not outdated:
        return
    prepare_data(P)
    slots = cores or (1 if torch.cuda.is_available() else torch.get_num_threads())
    with ProcessPoolExecutor(slots, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = {pool.submit(_job, P, *pair, measure): pair for pair in outdated}
        for job in progress(as_completed(jobs), len(jobs), measure):
            if error := job.exception():
                (name, seed), log = jobs[job], result_file(P, *jobs[job], measure)
                print(f"{name}, seed {seed}: failed ({error}); see {log.with_suffix('.log')}")


def _job(P: Params, name: str, seed: int, measure: str) -> None:
    """Run a variant under a seed in a worker process, with a log beside its result."""
    result, inputs = result_file(P, name, seed, measure), inputs_hash(P, name, seed, measure)
    result.unlink(missing_ok=True)
    result.parent.mkdir(parents=True, exist_ok=True)
    with result.with_suffix(".log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            table = MEASURES[measure][0](P, name, seed)
            device = surroundings(resolve_device(P))["device"]
            table = table.assign(variant=name, seed=seed, params=inputs, processor=device)
            write_table(table, result)
        except Exception:
            traceback.print_exc()
            raise


def _current(P: Params, name: str, seed: int, measure: str) -> bool:
    file = result_file(P, name, seed, measure)
    return file.exists() and set(_read(file)["params"]) == {inputs_hash(P, name, seed, measure)}


def _read(file: Path) -> pd.DataFrame:
    # Hashes as text: 417e66085674 would be read as a number.
    return pd.read_csv(file, dtype={"params": str, "weights": str})


def results(
    P: Params, names: Sequence[str], seeds: Sequence[int], measure: str = "ablations"
) -> pd.DataFrame:
    """Results of the variants that have been run, in tidy form with variant, seed and hashes."""
    files = [result_file(P, name, seed, measure) for name in names for seed in seeds]
    tables = [_read(file) for file in files if file.exists()]
    if not tables:
        raise InputError(f"{measure}: no variant of {P.profile} has a result; run them first")
    return pd.concat(tables, ignore_index=True).fillna({"processor": "not recorded"})


def main() -> None:
    """Command line: run variants and write runs/<profile>/<measure>_reference.csv."""
    parser = argparse.ArgumentParser(prog="python -m companion.ablations", description=__doc__)
    add = parser.add_argument
    add("--measure", choices=MEASURES, default="ablations")
    add("--variants", nargs="+", help="default: all; for other measures, those in figures/")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--cores", type=int, help="jobs at once; default: one per core, one on a GPU")
    args, P = read_command_line(parser)
    names = args.variants or MEASURES[args.measure][1] or list(load_variants())
    tuned = [v.name for v in require_variants(names) if P.features and v.kind == "alertclip"]
    if tuned:
        print(f"left out, as tuning needs videos: {', '.join(tuned)}")
    names = [name for name in names if name not in tuned]
    if not names:
        raise InputError(f"{P.profile}: no variant left to run; name variants of a detector")
    run(P, names, args.seeds, args.cores, args.measure)
    path = P.run_dir / f"{args.measure}_reference.csv"
    write_table(results(P, names, args.seeds, args.measure), path)
    print(path)


if __name__ == "__main__":
    main()
