"""Tables made from clip embeddings: scores of frames, prompt wordings, and a UMAP."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from alertclip import mss
from alertclip.embeddings import ClipEmbeddings
from alertclip.errors import InputError
from alertclip.intervals import bootstrap_interval
from alertclip.prompts import Prompts
from detectors.frame_metrics import video_metrics
from detectors.resampling import FrameScores


def frame_scores(
    embeddings: ClipEmbeddings,
    normal: np.ndarray,
    abnormal: np.ndarray,
    spans: Mapping[str, mss.Spans],
) -> list[FrameScores]:
    """Margin of every sampled frame after the temporal transformer, with its truth.

    ``spans`` gives the events in seconds by clip key; normal clips need no entry.
    """
    margins = mss.zero_shot_margin(embeddings.z, normal, abnormal)  # (N, T)
    videos = []
    for i, key in enumerate(embeddings.keys):
        real = embeddings.mask[i]
        truth = mss.inside(embeddings.times[i][real], spans.get(key, ()))
        label = bool(embeddings.labels[i])
        videos.append(FrameScores(key.split("#")[0], margins[i][real], truth, label))
    return videos


def wording_table(
    embeddings: ClipEmbeddings,
    encode_text: mss.EncodeText,
    prompts: Prompts,
    n_boot: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """How far the wording alone moves MSS and video AUC / AP; "fixed" is the main prompt set.

    Columns: wording, metric (MSS, video AUC, video AP), value, low, high, n.
    """
    rows = []
    for wording, sets in {"fixed": prompts.sets, **prompts.alternatives}.items():
        similarities = mss.set_similarities(
            embeddings.embedding, *mss.encode_sets(encode_text, sets)
        )
        signed = mss.signed_score(similarities, embeddings.labels)
        found = bootstrap_interval(signed, n_boot=n_boot, seed=seed, groups=groups)
        margin = similarities[:, 1] - similarities[:, 0]
        metrics = video_metrics(margin, embeddings.labels, n_boot, seed, groups)
        first = pd.DataFrame([{"metric": "MSS", **found._asdict()}])
        rows.append(pd.concat([first, metrics]).assign(wording=wording))
    table = pd.concat(rows, ignore_index=True)
    return table[["wording", "metric", "value", "low", "high", "n"]]


def gap_table(
    similarities: np.ndarray, labels: np.ndarray, classes: Sequence[str], keys: Sequence[str]
) -> pd.DataFrame:
    """Figure 1 as a table: key, class_name, label, normal S_N, abnormal S_A, gap S_A - S_N."""
    columns = {"key": list(keys), "class_name": list(classes), "label": np.asarray(labels, int)}
    normal, abnormal = np.asarray(similarities, float).T
    table = pd.DataFrame(columns | {"normal": normal, "abnormal": abnormal})
    return table.assign(gap=abnormal - normal)


def text_similarity_matrix(text: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Figure 2 as a tidy table: cosine between every two prompts.

    text (C, D) unit length -> columns row, column, cosine; C * C rows in prompt order.
    """
    row, column = np.repeat(names, len(names)), list(names) * len(names)
    return pd.DataFrame({"row": row, "column": column, "cosine": (text @ text.T).ravel()})


def project_2d(embedding: np.ndarray, seed: int = 0, neighbours: int = 15) -> np.ndarray:
    """UMAP of unit vectors by cosine: (M, D) -> (M, 2). Fixed seed, one thread: repeatable."""
    if len(embedding) < 5:
        raise InputError(f"UMAP of {len(embedding)} points: give at least 5")
    from umap import UMAP  # imports numba, which takes seconds

    neighbours = min(neighbours, len(embedding) - 2)
    # The spectral start needs many more points than dimensions; PCA serves any number.
    reducer = UMAP(n_neighbors=neighbours, metric="cosine", init="pca", random_state=seed, n_jobs=1)
    return reducer.fit_transform(np.asarray(embedding, np.float32))
