"""Tables for plots of a detector: its scores over time and a t-SNE of its features."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE

from companion.detector_tables import Scored, held_scores
from companion.profiles import Params
from companion.tuned_models import stage_model, text_embeddings
from detectors.event_annotations import frame_truth
from detectors.fitting import class_prompts
from media.errors import InputError

PER_CLASS = 40  # most snippets per class in a t-SNE plot


def curve_table(P: Params, scored: Sequence[Scored], count: int = 3) -> pd.DataFrame:
    """Scores over time of the first abnormal videos of ``count`` classes and the first normal one.

    The choice ignores the scores; first detector seed. Columns video, time_s, model, score, truth,
    and predicted: the likeliest abnormal class where the score is at least .5, else "".
    """
    first_of: dict[tuple, int] = {}
    for i, truth in enumerate(scored[0].truths):
        first_of.setdefault((truth.is_abnormal, *truth.classes), i)
    chosen = [i for key, i in first_of.items() if key[0]][:count]
    chosen += [i for key, i in first_of.items() if not key[0]]
    abnormal = np.array(P.benchmark.abnormal_classes)
    columns = [P.benchmark.classes.index(name) for name in abnormal]
    tables = []
    for i, s in product(chosen, scored):
        truth, scores = s.truths[i], s.seeds[0][i]
        video = held_scores(truth, scores.anomaly, s.length)
        likeliest = abnormal[scores.probabilities[:, columns].argmax(axis=1)].repeat(s.length)
        rows = {
            "video": f"{truth.name} ({', '.join(truth.classes) or 'normal'})",
            "time_s": np.arange(len(video.scores)) / P.benchmark.fps,
            "model": s.model,
            "score": video.scores,
            "truth": video.truth.astype(int),
            "predicted": np.where(video.scores >= 0.5, likeliest, ""),
        }
        tables.append(pd.DataFrame(rows))
    return pd.concat(tables, ignore_index=True)


def tsne_table(P: Params, scored: Scored) -> pd.DataFrame:
    """t-SNE of snippet features and class texts before and after VadCLIP (its Figure 3).

    Texts before: the backbone's embeddings of the class prompts; after: those VadCLIP learned.
    First detector seed; up to ``PER_CLASS`` snippets per class, drawn by seed; of abnormal videos
    only snippets whose middle frame lies in an event. Columns panel, x, y, group, text (1 for a
    text). InputError for fewer than ten snippets.
    """
    benchmark, raw, adapted, labels = P.benchmark, [], [], []
    for truth, x, scores in zip(scored.named, scored.features, scored.seeds[0], strict=True):
        inside = frame_truth(truth, len(x) * scored.length)[scored.length // 2 :: scored.length]
        chosen = inside if truth.is_abnormal else ~inside
        raw.append(x[chosen])
        adapted.append(scores.adapted[chosen])
        label = truth.classes[0] if truth.classes else benchmark.normal_class
        labels += [label] * int(chosen.sum())
    groups, rng = np.array(labels), np.random.default_rng(P.seed)
    sampled = [rng.permutation(np.flatnonzero(groups == g))[:PER_CLASS] for g in np.unique(groups)]
    kept = np.sort(np.concatenate(sampled))
    if len(kept) < 10:
        raise InputError(f"t-SNE of {len(kept)} snippets: give a larger test set")
    prompts, learned = class_prompts(benchmark, benchmark.classes), scored.seeds[0][0].text
    text = text_embeddings(stage_model(P, scored.stage), prompts)
    panels = {f"{scored.model} features": (raw, text), "the same in VadCLIP": (adapted, learned)}
    tables, point_groups = [], [*groups[kept], *benchmark.classes]
    for panel, (snippets, texts) in panels.items():
        x = np.concatenate([np.concatenate(snippets)[kept], texts])
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        perplexity = min(30, (len(x) - 1) / 3)
        xy = TSNE(2, perplexity=perplexity, init="pca", random_state=P.seed).fit_transform(x)
        table = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "group": point_groups})
        table["text"] = (np.arange(len(table)) >= len(kept)).astype(int)
        tables.append(table.sort_values("group", kind="stable").assign(panel=panel))
    return pd.concat(tables, ignore_index=True)
