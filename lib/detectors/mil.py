"""Two baselines without text: Sultani's MIL ranking head and RTFM.

Sultani, Chen and Shah, "Real-world anomaly detection in surveillance videos", CVPR 2018 (official
code: WaqasSultani/AnomalyDetectionCVPR2018). Tian, Pang, Chen, Singh, Verjans and Carneiro,
"Weakly-supervised video anomaly detection with robust temporal feature magnitude learning", ICCV
2021 (official code: tianyu0207/RTFM). Both take features of any width; a bag is a video as S
segments. The authors keep the weights that are best on the test set, we keep the last. Axes: B
bags, the first half abnormal, S segments, T positions.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, dropout, normalize
from torch.optim import Adagrad, Adam
from torch.optim.lr_scheduler import ConstantLR

from detectors import detector_parts as parts
from detectors.training_protocol import RTFMSettings, SultaniSettings
from media.errors import InputError


class Sultani(nn.Module):
    """Three layers on the unit feature of a position; the second has no activation (official)."""

    optimizer = Adagrad

    def __init__(self, width: int, settings: SultaniSettings) -> None:
        super().__init__()
        self.width, self.settings, drop = width, settings, nn.Dropout(settings.dropout)
        first, second, last = nn.Linear(width, 512), nn.Linear(512, 32), nn.Linear(32, 1)
        self.layers = nn.Sequential(first, nn.ReLU(), drop, second, drop, last, nn.Sigmoid())
        self.apply(_initialise)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features x (B, T, D) -> scores (B, T) in [0, 1] and unit features (B, T, D)."""
        x = normalize(x, dim=-1)
        return self.layers(x).squeeze(-1), x

    def losses(self, scores: Tensor, _: Tensor) -> dict[str, Tensor]:
        """Return "total" and its unweighted terms for scores (B, S), eqs. 4 and 7.

        The highest score of each abnormal bag is ranked above that of each normal bag. The official
        sums over pairs and bags are means here, so the loss is divided by the bags per half.
        """
        abnormal, normal = scores.chunk(2)
        top, top_normal = abnormal.amax(dim=1), normal.amax(dim=1)
        terms = {
            "ranking": (1 - top[:, None] + top_normal).relu().mean(),
            "sparsity": abnormal.sum(dim=1).mean(),
            "smoothness": abnormal.diff(dim=1).square().sum(dim=1).mean(),
        }
        return parts.weighted(terms, self.settings)


class MultiScale(nn.Module):
    """RTFM's multi-scale temporal network (MTN): dilated convolutions beside attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 8:
            raise InputError(f"MTN: features or emb_size must be divisible by 8, not {width}")
        quarter = width // 4
        dilated = (nn.Conv1d(width, quarter, 3, dilation=d, padding=d) for d in (1, 2, 4))
        branches = (nn.Sequential(c, nn.ReLU(), nn.BatchNorm1d(quarter)) for c in dilated)
        self.pyramid = nn.ModuleList(branches)
        self.reduce = nn.Sequential(nn.Conv1d(width, quarter, 1, bias=False), nn.ReLU())
        self.non_local = NonLocal(quarter)
        fuse = nn.Conv1d(4 * quarter, width, 3, padding=1, bias=False)
        self.fuse = nn.Sequential(fuse, nn.ReLU(), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        x = x.mT
        scales = [*(branch(x) for branch in self.pyramid), self.non_local(self.reduce(x))]
        return (self.fuse(torch.cat(scales, dim=1)) + x).mT


class RTFM(nn.Module):
    """RTFM: the multi-scale temporal network and a classifier on its features."""

    optimizer = Adam

    def __init__(self, width: int, settings: RTFMSettings) -> None:
        super().__init__()
        self.width, self.settings = width, settings
        self.scales, self.drop = MultiScale(width), nn.Dropout(settings.dropout)
        first, second, last = nn.Linear(width, 512), nn.Linear(512, 128), nn.Linear(128, 1)
        layers = first, nn.ReLU(), self.drop, second, nn.ReLU(), self.drop, last, nn.Sigmoid()
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features x (B, T, D) -> scores (B, T) in [0, 1] and temporal features (B, T, D)."""
        features = self.drop(self.scales(x))
        return self.layers(features).squeeze(-1), features

    def losses(self, scores: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Return ``magnitude_losses``; dropout also hides segments from selection (official)."""
        shown = dropout(torch.ones_like(scores), self.settings.dropout, self.training)
        return magnitude_losses(scores, features, shown, self.settings)


class NonLocal(nn.Module):
    """Attention over all positions without softmax, x + W (theta phi^T / T) g, on (B, E, T)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.theta, self.phi, self.g = (nn.Conv1d(width, half, 1) for _ in range(3))
        self.out, self.norm = nn.Conv1d(half, width, 1), nn.BatchNorm1d(width)
        nn.init.zeros_(self.norm.weight)  # so that training starts at the identity

    def forward(self, x: Tensor) -> Tensor:
        """x (B, E, T) -> (B, E, T)."""
        pairs = self.theta(x).mT @ self.phi(x) / x.shape[-1]  # (B, T, T)
        return x + self.norm(self.out((pairs @ self.g(x).mT).mT))


def magnitude_losses(
    scores: Tensor, features: Tensor, shown: Tensor, settings: RTFMSettings
) -> dict[str, Tensor]:
    """Return "total" and its unweighted terms from the segments of largest magnitude (RTFM).

    scores (B, S), features (B, S, D); ``shown`` (B, S) scales magnitudes in selection, 0 hides a
    segment. As in the official code, not the text: a bag's magnitude is that of its mean selected
    feature, the loss of paired bags is (|m - abnormal| + normal)^2, sparsity is the L2 norm of all
    abnormal scores, and smoothness joins them to one sequence.
    """
    top = (features.norm(dim=-1) * shown).topk(settings.top_k, dim=1).indices  # (B, K)
    selected = features[torch.arange(len(top), device=top.device)[:, None], top]  # (B, K, D)
    labels = torch.ones(len(scores), device=scores.device)
    labels[len(scores) // 2 :] = 0
    abnormal, normal = selected.mean(dim=1).norm(dim=-1).chunk(2)
    sequence = scores[: len(scores) // 2].flatten()
    terms = {
        "binary": binary_cross_entropy(scores.gather(1, top).mean(dim=1), labels),
        "magnitude": ((settings.margin - abnormal).abs() + normal).square().mean(),
        "sparsity": sequence.norm(),
        "smoothness": sequence.diff().square().sum(),
    }
    return parts.weighted(terms, settings)


def segment_means(features: Tensor, segments: int) -> Tensor:
    """Return means (S, D) of S equal parts of a video (n, D); an empty part takes its first row."""
    edges = (torch.arange(segments + 1) * len(features) // segments).tolist()
    spans = zip(edges[:-1], edges[1:], strict=True)
    return torch.stack([features[start : max(end, start + 1)].mean(dim=0) for start, end in spans])


HEADS = {"sultani": Sultani, "rtfm": RTFM}


def fit(
    model: Sultani | RTFM, videos: Sequence[parts.Features], abnormal: Sequence[bool], seed: int
) -> pd.DataFrame:
    """Train in place on videos (n_i, D); returns as ``train``, InputError as in ``halves``."""
    settings, rng = model.settings, np.random.default_rng(seed)
    device = next(model.parameters()).device
    pools = parts.halves(abnormal, settings.batch_size)
    bags = [
        segment_means(parts.as_features(video, model.width, f"video {i}: "), settings.segments)
        for i, video in enumerate(videos)
    ]
    return parts.train(
        model,
        partial(ConstantLR, factor=1),  # neither paper lowers the rate
        partial(parts.paired_batches, pools, settings.batch_size, settings.epoch_steps, rng),
        lambda batch: model.losses(*model(torch.stack([bags[i] for i in batch]).to(device))),
        model.optimizer,
    )


@torch.no_grad()
def score_video(model: Sultani | RTFM, features: parts.Features) -> parts.VideoScores:
    """Score all features of a video (n, D), one bag; Sultani's authors score 32 segments."""
    x = parts.as_features(features, model.width)[None].to(next(model.parameters()).device)
    scores = model.eval()(x)[0][0].cpu()
    return parts.VideoScores(scores.numpy(), torch.stack([1 - scores, scores], dim=1).numpy())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
