"""The same profile under several seeds: is what one run shows more than luck?

``python -m companion.seeds --profile mini --seeds 0 1 2 3 4`` trains both stages once per seed on
the same videos, as ``companion.ablations`` does, and measures MSS and zero-shot AUCs of each model,
and their paired differences, on the test clips. It writes runs/<profile>/seeds_reference.csv,
committed as figures/seeds_test.csv. World and prior do not change.
"""

import sys

import pandas as pd

from companion import ablations, result_tables, tuned_models
from companion.profiles import Params

PAIRS = (("clip", "stage1"), ("stage1", "full"), ("clip", "full"))


def measure(P: Params, name: str, seed: int) -> pd.DataFrame:
    """MSS and AUCs (per cent) of each model of a variant and their paired differences.

    Columns model, measure, value, low, high, n.
    """
    P = ablations.train_variant(P, name, seed)
    results = {stage: tuned_models.evaluate_stage(P, stage) for stage in tuned_models.STAGES}
    mss = result_tables.mss_by_class(P, list(results.values())).query("class_name == 'all'")
    table = result_tables.zero_shot(P, list(results.values()))
    aucs = table[table["setting"].str.endswith("AUC")].rename(columns={"setting": "measure"})
    rows = [mss.rename(columns={"mss": "value"}).assign(measure="MSS"), aucs]
    for before, after in PAIRS:
        difference = result_tables.paired(P, results[before], results[after])
        rows.append(difference.rename(columns={"difference": "model"}))
    columns = ["model", "measure", "value", "low", "high", "n"]
    return pd.concat([row[columns] for row in rows], ignore_index=True)


if __name__ == "__main__":
    sys.exit(ablations.main(measure, "seeds", ("full",), __doc__))
