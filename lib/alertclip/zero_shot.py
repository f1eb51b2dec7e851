"""Zero-shot detection from embeddings and prompts: no training, no threshold (Alert-CLIP paper)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from alertclip.embeddings import ClipEmbeddings
from alertclip.mss import bootstrap_interval, set_similarities, signed_score
from alertclip.prompts import Prompts, PromptSets
from detectors.frame_metrics import Spans, inside, video_metrics, zero_shot_margin
from detectors.resampling import FrameScores

EncodeText = Callable[[list[str]], torch.Tensor]
"""Sentences (C) -> unit vectors (C, D), such as AlertCLIP.encode_text."""


@torch.inference_mode()
def encode_sets(encode_text: EncodeText, sets: PromptSets) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of P_N (C_N, D) and P_A (C_A, D)."""
    normal, abnormal = encode_text(list(sets.normal)), encode_text(list(sets.abnormal))
    return normal.float().cpu().numpy(), abnormal.float().cpu().numpy()


def frame_scores(
    embeddings: ClipEmbeddings,
    normal: np.ndarray,
    abnormal: np.ndarray,
    spans: Mapping[str, Spans],
) -> list[FrameScores]:
    """Margin of every sampled frame after the temporal transformer, with its truth.

    ``spans`` gives the events in seconds by clip key; normal clips need no entry.
    """
    margins = zero_shot_margin(embeddings.z, normal, abnormal)  # (N, T)
    videos = []
    for i, key in enumerate(embeddings.keys):
        real = embeddings.mask[i]
        truth = inside(embeddings.times[i][real], spans.get(key, ()))
        name, abnormal = key.split("#")[0], bool(embeddings.labels[i])
        videos.append(FrameScores(name, margins[i][real], truth, abnormal))
    return videos


def wording_table(
    embeddings: ClipEmbeddings,
    encode_text: EncodeText,
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
        similarities = set_similarities(embeddings.embedding, *encode_sets(encode_text, sets))
        signed = signed_score(similarities, embeddings.labels)
        mss = bootstrap_interval(signed, n_boot=n_boot, seed=seed, groups=groups)
        margin = similarities[:, 1] - similarities[:, 0]
        metrics = video_metrics(margin, embeddings.labels, n_boot, seed, groups)
        first = pd.DataFrame([{"metric": "MSS", **mss._asdict()}])
        rows.append(pd.concat([first, metrics]).assign(wording=wording))
    table = pd.concat(rows, ignore_index=True)
    return table[["wording", "metric", "value", "low", "high", "n"]]
