"""The same profile under several seeds: is what one run shows more than luck?

``python -m companion.seeds --profile mini --seeds 0 1 2 3 4`` trains both stages once per seed on
the same videos and writes runs/<profile>/seeds_test.csv: MSS and zero-shot AUCs per model and
seed, and their paired differences. Finished seeds are reused; world and prior do not change.
"""

import argparse
from collections.abc import Sequence

import pandas as pd

from companion import ablations, result_tables, tuned_models
from companion.ablation_tables import student_table
from companion.figures import write_table
from companion.profiles import Params, load_params
from companion.splits import Split

PAIRS = (("clip", "stage1"), ("stage1", "full"), ("clip", "full"))


def measure(P: Params, split: Split) -> pd.DataFrame:
    """MSS and AUCs (per cent) of each model and their paired differences, with intervals."""
    results = {name: tuned_models.evaluate_stage(P, name, split) for name in tuned_models.STAGES}
    mss = result_tables.mss_by_class(P, list(results.values())).query("class_name == 'all'")
    table = result_tables.zero_shot(P, list(results.values()), split)
    aucs = table[table["setting"].str.endswith("AUC")].rename(columns={"setting": "measure"})
    rows = [mss.rename(columns={"mss": "value"}).assign(measure="MSS"), aucs]
    for before, after in PAIRS:
        difference = result_tables.paired(P, results[before], results[after], split)
        rows.append(difference.rename(columns={"difference": "model"}))
    columns = ["model", "measure", "value", "low", "high", "n"]
    return pd.concat([row[columns] for row in rows], ignore_index=True)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with the 95 % interval of Student's t; needs at least two seeds."""
    return student_table(table.set_index(["measure", "model", "seed"])["value"], "mean")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: train, measure, print and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m companion.seeds", description=__doc__)
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    args = parser.parse_args(arguments)
    P = load_params(args.profile, ablations.WHOLE)
    tables = []
    for seed in args.seeds:
        own = ablations.train_variant(P, "full", seed)
        tables.append(measure(own, args.split).assign(seed=seed))
        write_table(pd.concat(tables, ignore_index=True), P.run_dir / f"seeds_{args.split}.csv")
    if len(tables) > 1:
        summary = over_seeds(pd.concat(tables))
        write_table(summary, P.run_dir / f"seeds_{args.split}_summary.csv")
        print(summary.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
