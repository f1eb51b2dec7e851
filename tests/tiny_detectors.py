"""Small detectors of both kinds, on a tiny CLIP with text width 24 and feature width 16."""

import zlib

import open_clip
import tiny_clip
import torch
from torch import Tensor

from alertclip.attention import split_attention
from detectors import mil
from detectors import training_protocol as protocol
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.training_protocol import AnomalyCLIPSettings, VadCLIPSettings
from detectors.vadclip.model import VadCLIP

START, STOP, END = 47, 48, 49
WIDTH, LENGTH = 16, 16
VAD_NAMES = ("normal", "fighting", "car accident")
NAMES = ["abuse", "road_accident", "normal", "riot"]  # normal_id 2
SMALL_VAD = {"length": LENGTH, "window": 4, "prefix": 2, "postfix": 1, "batch_size": 4}
SMALL_MIL = {"batch_size": 4, "segments": 8, "epoch_steps": 20}
SMALL = {
    **{"normal_id": 2, "segments": 4, "segment_frames": 2, "emb_size": 16, "heads": 2},
    **{"context_tokens": 3, "top_k": 2, "bottom_k": 2, "batch_size": 4},
    **{"learning_rate": 3e-3, "epochs": 20, "warmup_epochs": 2},
}


def tokenize(texts: list[str], length: int = 12) -> Tensor:
    """START, a token per word, STOP for a full stop, END and zeros."""
    tokens = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        words = text.replace(".", " .").split()[: length - 2]
        ids = [STOP if w == "." else zlib.crc32(w.encode()) % 46 + 1 for w in words]
        row[: len(ids) + 2] = torch.tensor([START, *ids, END])
    return tokens


def clip(seed: int = 0, embed: int = WIDTH, **text) -> open_clip.CLIP:
    config = tiny_clip.config()
    config["embed_dim"] = embed
    config["text_cfg"] |= {"context_length": 12, "width": 24} | text
    return tiny_clip.random_clip(config, seed)


def vadclip(seed: int = 0, stirred: bool = True, backbone=None, **changes) -> VadCLIP:
    backbone, settings = backbone or clip(), VadCLIPSettings(**SMALL_VAD | changes)
    torch.manual_seed(seed)
    model = VadCLIP(backbone, tokenize, VAD_NAMES, settings)
    if stirred:
        tiny_clip.stir(model, scale=0.1)
    return model.eval()


def own_state(model: VadCLIP) -> dict[str, Tensor]:
    """The weights beside CLIP's text tower, as the authors' files hold them."""
    return {name: t for name, t in model.state_dict().items() if not name.startswith("text.")}


def anomalyclip(seed: int = 0, split: bool = False, backbone=None, **changes) -> AnomalyCLIP:
    backbone, settings = backbone or clip(), AnomalyCLIPSettings(**SMALL | changes)
    if split:
        split_attention(backbone)
    torch.manual_seed(seed)
    return AnomalyCLIP(backbone, tokenize, NAMES, torch.linspace(-1, 1, WIDTH), settings)


def mil_head(name: str, width: int = WIDTH, seed: int = 0, **changes) -> mil.Sultani | mil.RTFM:
    params = protocol.DetectorParams(**{f"{name}_changes": SMALL_MIL | changes})
    torch.manual_seed(seed)
    return mil.HEADS[name](width, protocol.detector_settings(name, params))


def random(*shape: int, seed: int = 0, dtype=torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def training_videos(count: int = 16, seed: int = 0) -> tuple[list[Tensor], list[int], Tensor]:
    """Features around a prototype; in the first half, 4 frames move along their class's direction.

    Returns features (n, WIDTH), kinds (0 normal, 1, 2) and the moved frames of all videos.
    """
    generator = torch.Generator().manual_seed(seed)
    features, kinds, truth = [], [], []
    for i in range(count):
        n, kind = 8 + 5 * i % 22, i % 2 + 1 if i < count // 2 else 0
        x = torch.linspace(-1, 1, WIDTH) + 0.3 * torch.randn(n, WIDTH, generator=generator)
        abnormal = (torch.arange(n) // 4 == 1) & (kind > 0)
        x[abnormal, kind] += 8
        features.append(x)
        kinds.append(kind)
        truth.append(abnormal)
    return features, kinds, torch.cat(truth)
