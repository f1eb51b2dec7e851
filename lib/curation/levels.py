"""From a measurement to a score of 1 to 5."""

from collections.abc import Sequence

import numpy as np

from alertclip.errors import InputError


def level(value: float, thresholds: Sequence[float]) -> int:
    """Score of ``value``: 1 plus the number of ``thresholds`` it is not worse than.

    Four thresholds between the scores 1|2|3|4|5 in this order. Rising ones: more is better, and a
    value on a threshold has the better score; falling ones: less is better. nan is the worst.
    """
    steps = np.diff(thresholds)
    if len(thresholds) != 4 or not ((steps > 0).all() or (steps < 0).all()):
        raise InputError(f"thresholds {list(thresholds)}: give four, all rising or all falling")
    passed = value >= np.array(thresholds) if steps[0] > 0 else value <= np.array(thresholds)
    return 1 + int(passed.sum())
