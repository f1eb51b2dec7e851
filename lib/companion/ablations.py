"""Trainings over seeds: variants of a profile, each measured by a job of its own.

``python -m companion.ablations --profile mini --seeds 0 1 2 3 4 --cores 2`` runs every variant of
params/ablations.yaml; ``--variants`` names some. What is finished is kept; a job that fails does
not stop the others. ``--measure`` chooses the table:

ablations    zero-shot metrics of the trained model on the test clips
seeds        the same for CLIP, Stage I and Full, with paired differences
benchmarks   the three models on whole videos: zero-shot in every domain, and in detectors
curves       development metrics every 25 steps

Results: runs/<profile>/<measure>/<variant>/seed<seed>.csv, runs/<profile>/<measure>_reference.csv
(committed as figures/ablations_reference, seeds_test, benchmarks_test and learning_curves.csv).
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

from companion.profiles import Params, read_command_line
from companion.splits import prepare_data
from companion.variant_runs import MEASURES, inputs_hash
from companion.variants import load_variants, require_variants
from media.errors import InputError
from media.files import progress, write_table


def result_file(P: Params, name: str, seed: int, measure: str = "ablations") -> Path:
    """Where the result of a variant under a seed is kept."""
    return P.run_dir / measure / name / f"seed{seed}.csv"


def run(
    P: Params,
    names: Sequence[str],
    seeds: Sequence[int],
    cores: int | None = None,
    measure: str = "ablations",
) -> None:
    """Run what is missing or outdated, ``cores`` jobs at once on a thread each; name the failed.

    By default one job per core that this process may use, or one alone on a GPU.
    """
    require_variants(names)
    pairs = [(name, seed) for seed in seeds for name in names]  # a whole seed first
    wanted = [pair for pair in pairs if not _current(P, *pair, measure)]
    if not wanted:
        return
    prepare_data(P)
    slots = cores or (1 if torch.cuda.is_available() else torch.get_num_threads())
    with ProcessPoolExecutor(slots, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = {pool.submit(_job, P, *pair, measure): pair for pair in wanted}
        for job in progress(as_completed(jobs), len(jobs), measure):
            if error := job.exception():
                (name, seed), log = jobs[job], result_file(P, *jobs[job], measure)
                print(f"{name}, seed {seed}: failed ({error}); see {log.with_suffix('.log')}")


def _job(P: Params, name: str, seed: int, measure: str) -> None:
    """A variant under a seed in a worker process, with a log beside its result."""
    result, own = result_file(P, name, seed, measure), inputs_hash(P, name, seed, measure)
    result.unlink(missing_ok=True)
    result.parent.mkdir(parents=True, exist_ok=True)
    with result.with_suffix(".log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            table = MEASURES[measure][0](P, name, seed)
            write_table(table.assign(variant=name, seed=seed, params=own), result)
        except Exception:
            traceback.print_exc()
            raise


def _current(P: Params, name: str, seed: int, measure: str) -> bool:
    file = result_file(P, name, seed, measure)
    return file.exists() and set(_read(file)["params"]) == {inputs_hash(P, name, seed, measure)}


def _read(file: Path) -> pd.DataFrame:
    # As text: 417e66085674 is a hash, and a number too large for a float.
    return pd.read_csv(file, dtype={"params": str, "weights": str})


def results(
    P: Params, names: Sequence[str], seeds: Sequence[int], measure: str = "ablations"
) -> pd.DataFrame:
    """Tidy results of the variants that have been run: what is measured, variant, seed, hashes."""
    files = [result_file(P, name, seed, measure) for name in names for seed in seeds]
    tables = [_read(file) for file in files if file.exists()]
    if not tables:
        raise InputError(f"{measure}: no variant of {P.profile} has a result; run them first")
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    """Command line: run variants and write runs/<profile>/<measure>_reference.csv."""
    parser = argparse.ArgumentParser(prog="python -m companion.ablations", description=__doc__)
    add = parser.add_argument
    add("--measure", choices=MEASURES, default="ablations")
    add("--variants", nargs="+", help="default: all; for other measures those that are committed")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--cores", type=int, help="jobs at once; default: one per core, one on a GPU")
    args, P = read_command_line(parser)
    names = args.variants or MEASURES[args.measure][1] or list(load_variants())
    tuned = [v.name for v in require_variants(names) if P.features and v.kind == "alertclip"]
    if tuned:
        print(f"left out, as tuning needs videos: {', '.join(tuned)}")
    names = [name for name in names if name not in tuned]
    if not names:
        raise InputError(f"{P.profile}: nothing is left to run; name a detector's variants")
    run(P, names, args.seeds, args.cores, args.measure)
    written = P.run_dir / f"{args.measure}_reference.csv"
    write_table(results(P, names, args.seeds, args.measure), written)
    print(written)


if __name__ == "__main__":
    main()
