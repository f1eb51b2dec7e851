"""Features before and after a detector's training, in the plane (VadCLIP, Wu et al., Fig. 3)."""

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE

from alertclip.errors import InputError
from detectors.backbone_tables import Scored
from detectors.event_annotations import frame_truth

PER_CLASS = 40  # snippets drawn per class: more cover each other


def feature_space_table(scored: Scored, seed: int = 0) -> pd.DataFrame:
    """t-SNE of snippet features, given to VadCLIP and adapted by it (first detector seed).

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
    kept = _per_class(np.array(classes), np.random.default_rng(seed))
    if len(kept) < 10:
        raise InputError(f"t-SNE of {len(kept)} snippets: give a larger test set")
    panels = {f"{scored.model} features": raw, "the same in VadCLIP": adapted}
    return pd.concat(
        [_panel(np.concatenate(x)[kept], np.array(classes)[kept], seed).assign(panel=name)
         for name, x in panels.items()],
        ignore_index=True,
    )  # fmt: skip


def _per_class(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places of up to ``PER_CLASS`` items of each class, in order."""
    places = [
        rng.permutation(np.flatnonzero(classes == name))[:PER_CLASS] for name in np.unique(classes)
    ]
    return np.sort(np.concatenate(places))


def _panel(x: np.ndarray, groups: np.ndarray, seed: int) -> pd.DataFrame:
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    perplexity = min(30, (len(x) - 1) / 3)
    xy = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)
    table = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "group": groups})
    return table.sort_values("group", kind="stable")
