"""Small detectors of both kinds, on a tiny CLIP with text width 24 and feature width 16."""

import zlib

import numpy as np
import open_clip
import tiny_clip
import torch
from torch import Tensor, nn

from alertclip.attention import split_attention
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.anomalyclip.settings import AnomalyCLIPSettings
from detectors.vadclip.model import VadCLIP
from detectors.vadclip.settings import VadCLIPSettings

START, STOP, END = 47, 48, 49
WIDTH, LENGTH = 16, 16
VAD_NAMES = ("normal", "fighting", "car accident")
NAMES = ["abuse", "road_accident", "normal", "riot"]  # normal_id 2
SMALL_VAD = {"length": LENGTH, "window": 4, "prefix": 2, "postfix": 1, "batch_size": 4}
SMALL = {
    **{"normal_id": 2, "segments": 4, "segment_frames": 2, "emb_size": 16, "heads": 2},
    **{"context_tokens": 3, "top_k": 2, "bottom_k": 2, "batch_size": 4},
    **{"learning_rate": 3e-3, "epochs": 20, "warmup_epochs": 2},
}


def word(text: str) -> int:
    return zlib.crc32(text.encode()) % 46 + 1


def tokenize(texts: list[str], length: int = 12) -> Tensor:
    """START, a token per word, STOP for a full stop, END and zeros."""
    tokens = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        words = [*map(word, text.removesuffix(".").split()), *[STOP] * text.endswith(".")]
        found = [START, *words[: length - 2], END]
        row[: len(found)] = torch.tensor(found)
    return tokens


def clip(seed: int = 0, embed: int = WIDTH, **text) -> open_clip.CLIP:
    config = tiny_clip.config()
    config["embed_dim"] = embed
    config["text_cfg"] |= {"context_length": 12, "width": 24} | text
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model


def vadclip(seed: int = 0, stirred: bool = True, **changes) -> VadCLIP:
    torch.manual_seed(seed)
    model = VadCLIP(clip(), tokenize, VAD_NAMES, VadCLIPSettings(**{**SMALL_VAD, **changes}))
    if stirred:
        tiny_clip.stir(model, scale=0.1)
    return model.eval()


def anomalyclip(seed: int = 0, split: bool = False, backbone=None, **changes) -> AnomalyCLIP:
    backbone, settings = backbone or clip(), AnomalyCLIPSettings(**SMALL | changes)
    if split:
        split_attention(backbone)
    torch.manual_seed(seed)
    return AnomalyCLIP(backbone, tokenize, NAMES, torch.linspace(-1, 1, WIDTH), settings)


def random(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def vadclip_videos(count: int = 12) -> tuple[list[np.ndarray], list[list[str]]]:
    """Normal noise; abnormal videos of either class have 4 snippets moved along its direction."""
    rng, videos, labels = np.random.default_rng(0), [], []
    for i in range(count):
        video = rng.normal(size=(int(rng.integers(8, 30)), WIDTH)).astype(np.float32)
        if i % 2:
            video[2:6, i % 4] += 8
        videos.append(video)
        labels.append([VAD_NAMES[(i % 4 + 1) // 2] if i % 2 else "normal"])
    return videos, labels


def anomalyclip_videos(videos: int = 8, seed: int = 0) -> tuple[list[Tensor], list[int], Tensor]:
    """Features around the prototype; abnormal videos leave it for a quarter of their frames."""
    generator = torch.Generator().manual_seed(seed)
    features, labels, truth = [], [], []
    for i in range(2 * videos):
        x = torch.linspace(-1, 1, WIDTH) + 0.3 * torch.randn(16, WIDTH, generator=generator)
        abnormal, label = torch.zeros(16, dtype=torch.bool), (0, 1, 3)[i % 3]
        if i < videos:
            start = int(torch.randint(0, 12, (), generator=generator))
            abnormal[start : start + 4] = True
            x[abnormal, label] += 3
        features.append(x)
        labels.append(label if i < videos else 2)
        truth.append(abnormal)
    return features, labels, torch.cat(truth)
