"""VA-GPT's temporal classifier: is a frame abnormal? (supplementary 2.3)

A three-layer perceptron on the image embedding of one frame, trained by SGD on labels from timed
captions, then frozen. Its best interval becomes a sentence before the question (temporal effective
tokens). The paper does not say how the interval is chosen.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from media.errors import InputError
from vagpt.qa_protocol import QAParams
from vagpt.questions import words


class FrameClassifier(nn.Module):
    """Three linear layers over a standardised frame embedding: (n, D) -> logits (n,)."""

    def __init__(self, mean: Tensor, std: Tensor, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        first, second = nn.Linear(len(mean), hidden), nn.Linear(hidden, hidden)
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Logits (n,) of an anomaly in frames (n, D)."""
        return self.layers((frames - self.mean) / self.std).squeeze(-1)


def train_classifier(
    features: np.ndarray, labels: np.ndarray, settings: QAParams, seed: int = 42
) -> FrameClassifier:
    """Train a classifier on frames (n, D) with labels (n,) bool, and freeze it.

    Raises InputError if all frames have the same label.
    """
    if labels.all() or not labels.any():
        raise InputError(f"all {len(labels)} frames have the same label: check the timed captions")
    torch.manual_seed(seed)
    x, y = torch.from_numpy(features).float(), torch.from_numpy(labels).float()
    model = FrameClassifier(x.mean(0), x.std(0).clamp_min(1e-6), settings.hidden)
    optimiser = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(x)).split(settings.batch_size):
            optimiser.zero_grad()
            binary_cross_entropy_with_logits(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def frame_logits(classifier: FrameClassifier, v: np.ndarray) -> np.ndarray:
    """Return the classifier's logits (n,) on unit frame embeddings (n, D)."""
    return classifier(torch.from_numpy(v)).numpy()


def best_interval(logits: np.ndarray) -> tuple[int, int]:
    """Return the non-empty interval [start, end) of frames with the largest sum of logits (n,).

    The sum is the log-likelihood ratio of "abnormal only here" to "normal throughout", so no
    threshold is needed.
    """
    if not len(logits):
        raise InputError("no frames to find an interval in")
    sums = np.concatenate([[0.0], np.cumsum(logits, dtype=float)])
    lowest = np.minimum.accumulate(sums[:-1])  # over the starts up to each frame
    last = int((sums[1:] - lowest).argmax())
    return int(sums[: last + 1].argmin()), last + 1


def text_prior(classes: Sequence[str], start: float, end: float) -> str:
    """Return the text before a question: known types, and when one of them occurs (s)."""
    known = ", ".join(words(name) for name in classes)
    return f"Known crime types are: {known}. One of them occurs from {start:.1f} s to {end:.1f} s."
