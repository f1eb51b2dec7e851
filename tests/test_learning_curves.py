"""The rule that chooses the schedule, and the correlation of MSS with AUC."""

import numpy as np
import pandas as pd
import pytest

from companion import readme
from companion.ablation_tables import first_gain, gains, rank_correlation


def curves(changes: dict[str, dict[int, list[float]]]) -> pd.DataFrame:
    """Curves whose Full exceeds global by ``changes[metric][step]``, a value per seed."""
    rows = []
    for metric, steps in changes.items():
        for step, values in steps.items():
            for seed, value in enumerate(values):
                point = {"stage": 2, "metric": metric, "step": step, "seed": seed}
                rows += [point | {"variant": "global", "value": 50.0 + seed}]
                rows += [point | {"variant": "full", "value": 50.0 + seed + value}]
    return pd.DataFrame(rows)


def test_differences_are_paired_by_seed_with_students_interval():
    found = gains(curves({"video AUC": {25: [1.0, 2.0, 3.0]}})).iloc[0]
    half = 4.302653 / np.sqrt(3)  # t(.975, 2) times the standard error; deviation 1
    expected = [2.0, 2.0 - half, 2.0 + half]
    assert found[["change", "low", "high"]].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_rule_needs_both_metrics_at_one_step():
    sure, unsure = [2.0, 2.1, 1.9], [2.0, -2.0, 0.1]
    table = curves(
        {
            "video AUC": {25: sure, 50: unsure, 75: sure, 100: sure},
            "frame AUC": {25: unsure, 50: sure, 75: sure, 100: sure},
        }
    )
    assert first_gain(table) == 75
    assert first_gain(table[table["step"] < 75]) is None


def test_rank_correlation_resamples_variants():
    wide = pd.DataFrame(
        {"variant": list("aabbcc"), "x": [1, 2, 3, 4, 5, 6], "y": [6, 5, 4, 3, 2, 1]}
    )
    assert rank_correlation(wide, "x", "y", n_boot=50) == pytest.approx((-1, -1, -1))


def test_texts_say_what_an_interval_allows():
    assert readme.judge(3.0, 1.0, 5.0, 1) == "**3.0 [1.0, 5.0]**"
    assert "not shown; 2.0 or more would have been" in readme.judge(1.0, -1.0, 3.0, 1)
    assert readme.judge(-3.0, -5.0, -1.0, 1).endswith("(a loss)")
