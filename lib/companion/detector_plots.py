"""What a detector does, to be drawn: its scores over time, and its features in the plane."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE

from companion.detector_tables import Scored, held_scores
from detectors.event_annotations import frame_truth
from media.errors import InputError

PER_CLASS = 40  # snippets drawn per class in a t-SNE plot


def curve_table(scored: Sequence[Scored], fps: float, count: int = 3) -> pd.DataFrame:
    """Scores over time of the first ``count`` abnormal videos of different classes and one normal.

    Chosen by rule, not by result; first seed. Columns video, time_s, model, score, truth.
    """
    first: dict[tuple, int] = {}
    for i, truth in enumerate(scored[0].truths):
        first.setdefault((truth.is_abnormal, *truth.classes), i)
    numbers = [i for key, i in first.items() if key[0]][:count]
    numbers += [i for key, i in first.items() if not key[0]]
    tables = []
    for i, s in product(numbers, scored):
        truth = s.truths[i]
        video = held_scores(truth, s.seeds[0][i].anomaly, s.length)
        columns = {
            "video": f"{truth.name} ({', '.join(truth.classes) or 'normal'})",
            "time_s": np.arange(len(video.scores)) / fps,
            "model": s.model,
            "score": video.scores,
            "truth": video.truth.astype(int),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def tsne_table(scored: Scored, seed: int = 0) -> pd.DataFrame:
    """t-SNE of snippet features before and after VadCLIP (its Figure 3; first detector seed).

    Up to ``PER_CLASS`` snippets per class, drawn by seed: of abnormal videos those whose middle
    frame lies in an event. Columns panel, x, y, group. InputError if there are too few.
    """
    raw, adapted, classes = [], [], []
    for truth, x, s in zip(scored.named, scored.features, scored.seeds[0], strict=True):
        inside = frame_truth(truth, len(x) * scored.length)[scored.length // 2 :: scored.length]
        chosen = inside if truth.is_abnormal else ~inside
        raw.append(x[chosen])
        adapted.append(s.adapted[chosen])
        classes += [truth.classes[0] if truth.classes else "normal"] * int(chosen.sum())
    groups, rng = np.array(classes), np.random.default_rng(seed)
    places = [rng.permutation(np.flatnonzero(groups == g))[:PER_CLASS] for g in np.unique(groups)]
    kept = np.sort(np.concatenate(places))
    if len(kept) < 10:
        raise InputError(f"t-SNE of {len(kept)} snippets: give a larger test set")
    panels, tables = {f"{scored.model} features": raw, "the same in VadCLIP": adapted}, []
    for panel, parts in panels.items():
        x = np.concatenate(parts)[kept]
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        perplexity = min(30, (len(x) - 1) / 3)
        xy = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)
        table = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "group": groups[kept]})
        tables.append(table.sort_values("group", kind="stable").assign(panel=panel))
    return pd.concat(tables, ignore_index=True)
