"""The history of a detector's training: its steps, averaged per epoch."""

from collections.abc import Iterable

import pandas as pd

from alertclip.files import progress


def epoch_means(
    steps: Iterable[dict[str, float]], total: int, label: str
) -> list[dict[str, float]]:
    """Run training ``steps`` and return, per epoch, the mean of each number that they yield.

    Each step yields its ``epoch`` among the numbers; ``total`` and ``label`` are for the progress.
    """
    history = pd.DataFrame(progress(steps, total, label))
    return history.groupby("epoch", as_index=False).mean().to_dict("records")
