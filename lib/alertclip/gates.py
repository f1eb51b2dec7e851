"""Is the synthetic world fit for the argument? Networks that answer for its three gates.

1. World: a small network trained on clip labels sees the event; frames before it tell nothing.
2. Prior: a probe on MiniCLIP's frozen embeddings sees the event, the fixed prompts do not.
3. Phenomenon: Stage I and II change that (measured in the notebooks and by the seeds overlay).
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from alertclip.files import progress


class EventNetwork(nn.Module):
    """Per-frame convolutions, mean and max over frames, one logit: the event is visible or not."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        channels = [3, width, width * 2, width * 4, width * 4]
        layers: list[nn.Module] = []
        for before, after in zip(channels[:-1], channels[1:], strict=True):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.frame = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels[-1] * 2, 1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """frames: (B, T, 3, H, W) uint8 -> logits (B,)."""
        clips, length = frames.shape[:2]
        x = self.frame(frames.flatten(0, 1).float() / 127.5 - 1)
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1).unflatten(0, (clips, length))
        return self.head(x.amax(1)).squeeze(1)


def shrink(frames: torch.Tensor, size: int = 64) -> torch.Tensor:
    """(B, T, 3, H, W) uint8 -> the same at size x size, still uint8."""
    flat = interpolate(frames.flatten(0, 1).float(), (size, size), mode="area")
    return flat.round().to(torch.uint8).unflatten(0, frames.shape[:2])


def train_event_network(
    frames: torch.Tensor, labels: torch.Tensor, epochs: int = 14, seed: int = 0
) -> EventNetwork:
    """Fit on clips (B, T, 3, h, w) uint8 and labels (B,); flips are the only augmentation."""
    torch.manual_seed(seed)
    network = EventNetwork()
    steps = epochs * (len(frames) // 32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in progress(range(steps), steps, "event network", every_s=20):
        picked = torch.randint(len(frames), (32,))
        x = frames[picked].flip(-1) if torch.rand(()) < 0.5 else frames[picked]
        loss = binary_cross_entropy_with_logits(network(x), labels[picked].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def event_scores(network: EventNetwork, frames: torch.Tensor) -> np.ndarray:
    """Logit of each clip (B,)."""
    return torch.cat([network(part) for part in frames.split(64)]).numpy()


def probe_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Logistic regression on clip descriptors (N, F): decision value of each test clip."""
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, random_state=seed)
    )
    return probe.fit(train, labels).decision_function(test)


def clip_descriptor(frame_embeddings: np.ndarray) -> np.ndarray:
    """Mean, maximum and spread over frames: (N, T, D) -> (N, 3D)."""
    return np.concatenate(
        [frame_embeddings.mean(1), frame_embeddings.max(1), frame_embeddings.std(1)], 1
    )
