"""Scores of every snippet of a video by both branches (VadCLIP, Wu et al. 2024, Inference)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from alertclip.errors import InputError
from detectors.vadclip.model import VadCLIP

Features = np.ndarray | Tensor
"""Snippet features (n, D) of one video, one row per 16 frames."""

CHUNKS = 32  # at once; chunks are independent of one another, this only bounds memory


class SnippetScores(NamedTuple):
    """Scores of n snippets, each in [0, 1]; each snippet stands for its 16 frames.

    prob1 (n,) = sigmoid(logits1), the C-branch; probabilities (n, C) = softmax(logits2), the
    A-branch; prob2 (n,) = 1 - probabilities of the normal class; adapted (n, D) the features after
    the temporal modules, which both branches read.
    """

    prob1: Tensor
    prob2: Tensor
    probabilities: Tensor
    adapted: Tensor


@torch.no_grad()
def score_video(model: VadCLIP, features: Features, text: Tensor | None = None) -> SnippetScores:
    """Score the snippet features (n, D) of one video; puts the model into evaluation mode.

    Each chunk of 256 snippets has a visual prompt of its own (official code). ``text``, from
    ``model.encode_text()``, saves encoding it for each of many videos. Results are on the CPU.
    Raises InputError if features are not finite or of another width than the model's.
    """
    model.eval()
    features = as_features(features, model.linear.in_features)
    text = model.encode_text() if text is None else text
    x, lengths = chunks(features, model.settings.length)
    parts = zip(x.split(CHUNKS), lengths.split(CHUNKS), strict=True)
    outputs = [model(part.to(text.device), n.to(text.device), text) for part, n in parts]
    logits1, logits2, adapted = (
        torch.cat(found).flatten(0, 1)[: len(features)] for found in zip(*outputs, strict=True)
    )
    probabilities = logits2.softmax(dim=-1).cpu()
    prob1, prob2 = logits1.sigmoid().cpu(), 1 - probabilities[:, 0]
    return SnippetScores(prob1, prob2, probabilities, adapted.cpu())


def chunks(features: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(n, D) -> zero-padded chunks (K, length, D), valid lengths (K,); K = floor(n / length) + 1.

    If n is a multiple of ``length``, the last chunk is all padding, with length 0 (256 in the
    official code, without effect: nothing of that chunk is kept).
    """
    n = len(features)
    count = n // length + 1
    lengths = (n - torch.arange(count) * length).clamp(0, length)
    return pad(features, (0, 0, 0, count * length - n)).unflatten(0, (count, length)), lengths


def as_features(features: Features, width: int, where: str = "") -> Tensor:
    """Checked float32 features (n, D); InputError if empty, of another width or not finite."""
    tensor = torch.as_tensor(features, dtype=torch.float32)
    if tensor.ndim != 2 or not len(tensor) or tensor.shape[1] != width:
        shape = f"features of shape {tuple(tensor.shape)}"
        raise InputError(f"{where}{shape}: give snippets x {width}, at least one snippet")
    if not tensor.isfinite().all():
        raise InputError(f"{where}features that are not finite: extract them again")
    return tensor
