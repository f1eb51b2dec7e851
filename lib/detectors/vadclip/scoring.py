"""Scores of every snippet of a video by both branches (VadCLIP, Wu et al. 2024, Inference)."""

from typing import NamedTuple

import torch
from torch import Tensor

from detectors.vadclip.model import VadCLIP
from detectors.vadclip.windows import Features, as_features, chunks

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
