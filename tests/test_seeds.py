"""Means over seeds: hand-computed."""

import pandas as pd
import pytest

from companion.seeds import over_seeds


def test_mean_and_student_interval_over_seeds():
    table = pd.DataFrame(
        {"measure": "AUC", "model": "Full", "value": [80.0, 82.0, 87.0], "seed": [0, 1, 2]}
    )
    row = over_seeds(table).iloc[0]
    # mean 83, sd sqrt(13), t(.975, 2) = 4.3027: half width 4.3027 * sqrt(13 / 3) = 8.9567
    assert row["mean"] == pytest.approx(83)
    assert (row["low"], row["high"]) == (
        pytest.approx(74.043, abs=1e-3),
        pytest.approx(91.957, abs=1e-3),
    )
    assert row["seeds"] == 3
