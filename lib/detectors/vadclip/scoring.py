"""Scores of every snippet of a video by both branches (VadCLIP, Wu et al. 2024, Inference)."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from detectors.vadclip.model import VadCLIP
from detectors.video_scores import Features, VideoScores, as_features

CHUNKS = 32  # scored at once: bounds memory and changes no score


@torch.no_grad()
def score_video(
    model: VadCLIP, features: Features, aligned: bool = False, text: Tensor | None = None
) -> VideoScores:
    """Score the snippet features (n, D) of one video; puts the model into evaluation mode.

    probabilities = softmax(logits2). The anomaly score is sigmoid(logits1) of the C-branch, or, if
    ``aligned``, 1 - probability of the normal class in the A-branch. Every chunk of 256 snippets
    has its own visual prompt (official code). ``text`` is ``model.encode_text()``, if at hand.
    """
    model.eval()
    features = as_features(features, model.linear.in_features)
    text = model.encode_text() if text is None else text
    x, lengths = chunks(features, model.settings.length)
    parts = zip(x.split(CHUNKS), lengths.split(CHUNKS), strict=True)
    outputs = [model(part.to(text.device), n.to(text.device), text) for part, n in parts]
    logits1, logits2, adapted = (
        torch.cat(found).flatten(0, 1)[: len(features)].cpu()
        for found in zip(*outputs, strict=True)
    )
    probabilities = logits2.softmax(dim=-1)
    anomaly = 1 - probabilities[:, 0] if aligned else logits1.sigmoid()
    return VideoScores(anomaly.numpy(), probabilities.numpy(), adapted.numpy())


def chunks(features: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(n, D) -> zero-padded chunks (K, length, D), valid lengths (K,); K = floor(n / length) + 1.

    If ``length`` divides n, the last chunk is all padding, and all of its scores are dropped.
    """
    n = len(features)
    count = n // length + 1
    lengths = (n - torch.arange(count) * length).clamp(0, length)
    return pad(features, (0, 0, 0, count * length - n)).unflatten(0, (count, length)), lengths
