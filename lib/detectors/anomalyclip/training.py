"""Selection, losses and training of AnomalyCLIP (section 3.4, Appendices A and B).

Training reads no test data. Like the authors, we keep the last epoch. Axes: B videos, the first
half abnormal, S segments, F frames, C abnormal classes, K selected segments.
"""

import math
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from detectors.anomalyclip.model import AnomalyCLIP
from detectors.detector_parts import halves, paired_batches, train, weighted
from detectors.training_protocol import AnomalyCLIPSettings

Triple = tuple[Tensor, Tensor, Tensor]
MASKED = 1e6  # larger than any score, so that masked segments rank last (official code)


def select_segments(
    logits: Tensor, column: Tensor, mask: Tensor, top_k: int, bottom_k: int
) -> Triple:
    """Rank segments by likelihood (eq. 5), the sum of logits (B, S, F, C) over their frames.

    Abnormal videos, the first half of the batch, are ranked by the logits of their class ``column``
    (B/2,), normal ones by the sum over classes. Returns indices (B/2, K): the most and the least
    abnormal segments of abnormal videos, and the most abnormal ones of normal videos. Segments
    where ``mask`` (B, S) is False are selected only if too few others remain (official code).
    """
    half = len(logits) // 2
    sums = logits.detach().sum(dim=2)  # (B, S, C)
    abnormal = sums[torch.arange(half, device=column.device), :, column]  # (B/2, S)
    normal, masked = sums[half:].sum(dim=2), ~mask
    top = abnormal.masked_fill(masked[:half], -MASKED).topk(top_k)
    bottom = abnormal.masked_fill(masked[:half], MASKED).topk(bottom_k, largest=False)
    normal_top = normal.masked_fill(masked[half:], -MASKED).topk(top_k)
    return top.indices, bottom.indices, normal_top.indices


def likelihood(model: AnomalyCLIP, features: Tensor, logits: Tensor) -> Tensor:
    """Return what ranks frames, (B, S, F, C): logits, or |x| of recentred features (Table 9)."""
    if model.settings.selection == "likelihood":
        return logits
    return (features - model.prototype).norm(dim=-1, keepdim=True).expand_as(logits)


def total_loss(
    output: Triple, column: Tensor, selection: Triple, settings: AnomalyCLIPSettings
) -> dict[str, Tensor]:
    """Return "total", the weighted sum (eq. 14), and its unweighted terms.

    ``output`` is the model's, ``column`` (B/2,) the abnormal videos' classes, ``selection`` that of
    ``select_segments``. L_N^DIR averages all logits (paper) or each frame's highest (official).
    L_smo (eq. 13) is the sum of differences of successive frames, that is last minus first, which
    we average over videos (paper), or the sum of squared differences with all videos joined to one
    sequence (official). ``settings.extra`` adds eq. 15 or 16. Eq. 16 names a class c, which a
    normal video lacks; we take the logits as in L_N^DIR.
    """
    logits, p_anomaly, probabilities = output
    half, column = len(logits) // 2, column[:, None]
    label = column + (column >= settings.normal_id).long()  # index among all C+1 classes
    video = torch.arange(half, device=logits.device)[:, None]
    top, bottom, normal_top = selection
    p_abnormal, p_normal = p_anomaly[:half], p_anomaly[half:]
    paper = settings.variant == "paper"
    normal = logits[half:] if paper else logits[half:].amax(dim=-1)
    terms = {
        "direction_abnormal": -logits[video, top, :, column].mean(),  # eq. 7
        "direction_normal": normal.mean(),  # eq. 10
        "abnormal_top": -probabilities[video, top, :, label].log().mean(),  # eq. 8
        "abnormal_bottom": -(1 - p_abnormal[video, bottom]).log().mean(),  # eq. 9
        "normal_top": -(1 - p_normal[video, normal_top]).log().mean(),  # eq. 11
        "sparsity": p_abnormal.mean(),  # eq. 12
    }
    extra = {
        "direction_bottom": logits[video, bottom, :, column].mean(),  # eq. 15
        "direction_normal_top": normal[video, normal_top].mean(),  # eq. 16
    }
    terms |= {name: extra[name] for name in settings.extra}
    differences = p_abnormal.flatten(int(paper)).diff()  # paper: of each video
    terms["smoothness"] = differences.sum(dim=1).mean() if paper else differences.square().sum()
    return weighted(terms, settings)


def fit(model: AnomalyCLIP, videos: list[Tensor], labels: list[int], seed: int) -> pd.DataFrame:
    """Train in place on videos (N_i, D) with class ids ``labels``; returns as ``train``."""
    s, device, rng = model.settings, model.prototype.device, np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    pools = halves([label != s.normal_id for label in labels], s.batch_size)
    # An epoch is one pass over the longer half; the shorter one is repeated (Lightning).
    count = max(map(len, pools)) // s.batch_size

    def losses(batch: list[int]) -> dict[str, Tensor]:
        x = [training_sample(videos[i], s.segments, s.segment_frames, rng) for i in batch]
        label = torch.tensor([labels[i] for i in batch[: s.batch_size]], device=device)
        column = label - (label > s.normal_id).long()  # index among the abnormal classes
        # True where a segment may be selected (official code)
        mask = torch.rand(len(batch), s.segments, generator=generator) < s.keep_probability
        features = torch.stack(x).to(device, torch.float32)
        output = model(features, model.directions())
        ranks = likelihood(model, features, output[0])
        selection = select_segments(ranks, column, mask.to(device), s.top_k, s.bottom_k)
        return total_loss(output, column, selection, s)

    return train(
        model,
        partial(LambdaLR, lr_lambda=partial(learning_rate_factor, settings=s)),
        partial(paired_batches, pools, s.batch_size, count, rng),
        losses,
        partial(AdamW, betas=s.betas),
    )


def training_sample(
    features: Tensor, segments: int, segment_frames: int, rng: np.random.Generator
) -> Tensor:
    """Draw S segments of F consecutive frames of a video (N, D), looped if short: (S, F, D).

    Segment i starts at i * d plus a random offset of 0 to d - F + 1, where the distance d is
    (max(N, S * F) - F + 1) // S. For N <= S * F offsets are 0, and at the official sizes
    successive segments share one frame.
    """
    distance = (max(len(features), segments * segment_frames) - segment_frames + 1) // segments
    # At other sizes d can be below F - 1; the official code fails there.
    offsets = rng.integers(max(distance - segment_frames + 2, 1), size=segments)
    starts = np.arange(segments) * distance + offsets
    indices = starts[:, None] + np.arange(segment_frames)  # (S, F)
    return features[torch.from_numpy(indices % len(features)).to(features.device)]


def learning_rate_factor(epoch: int, settings: AnomalyCLIPSettings) -> float:
    """Return the learning-rate factor of ``epoch`` (0-based): linear warm-up, then cosine to 0.

    official: the warm-up starts at 0, so the first epoch only updates the Selector's running
    statistics. paper ("warmed up", Appendix B): it starts above 0.
    """
    warmup = settings.warmup_epochs
    if epoch < warmup:
        return (epoch + (settings.variant == "paper")) / warmup
    progress = (epoch - warmup) / (settings.epochs - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))
