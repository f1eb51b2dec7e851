"""Score your own videos: ``python -m alertclip.score VIDEO... --out DIR``.

The score of a sampled frame is sigmoid(logit_scale * (S_A - S_N)), the similarity margin
of the paper after the temporal transformer, squashed to 0..1; .5 means no preference. It is held
until the next sampled frame. Scores rank frames; they are not calibrated probabilities.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from alertclip import figures
from alertclip.data.video import probe, read_frames
from alertclip.errors import InputError
from alertclip.evaluation.metrics import hold
from alertclip.explain import attention_maps
from alertclip.files import progress, read_json
from alertclip.model.alertclip import AlertCLIP
from alertclip.model.backbone import brings_weights, load_backbone
from alertclip.model.export import META, load_alertclip
from alertclip.prompts import Prompts

Precision = Literal["auto", "fp32", "bf16"]
FRAMES = 8  # a window where the model does not say
RATE = 2.0  # sampled frames per second: near the field's 16-frame snippets at 30 fps
BATCH = 64  # frames through the vision tower at once
CHUNK = 256  # frames held in memory at once
KEY_FRAMES = 4
DISPLAY_HEIGHT = 240  # pixels of a key frame in the figure
HELD = "score held from each sampled frame to the next"


@dataclass(frozen=True)
class ScoreCurve:
    """Anomaly score of one video: T sampled frames out of ``n_frames`` decodable ones.

    sampled (T,) native frame numbers from 0; scores (T,) in 0..1; captions (T,) the prompt
    nearest to each sampled frame. aspect is width / height.
    """

    video: Path
    n_frames: int
    fps: float
    aspect: float
    sampled: np.ndarray
    scores: np.ndarray
    captions: list[str]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per decodable frame: frame (from 0), time_s, score (held)."""
        frames = np.arange(self.n_frames)
        return pd.DataFrame(
            {
                "frame": frames,
                "time_s": frames / self.fps,
                "score": hold(self.scores, self.sampled, self.n_frames),
            }
        )

    def peaks(self, count: int = KEY_FRAMES) -> np.ndarray:
        """Positions (in ``sampled``) of the highest scores, an eighth of the video apart."""
        apart = len(self.scores) / (2 * count)
        chosen: list[int] = []
        for i in np.argsort(-self.scores, kind="stable"):
            if len(chosen) < count and all(abs(i - j) >= apart for j in chosen):
                chosen.append(int(i))
        return np.sort(chosen)


@dataclass(frozen=True)
class PromptEmbeddings:
    """Text side of the score: unit vectors (C, D) of P_N, P_A and of every caption."""

    normal: torch.Tensor
    abnormal: torch.Tensor
    captions: torch.Tensor
    sentences: list[str]


@torch.inference_mode()
def embed_prompts(model: AlertCLIP, prompts: Prompts) -> PromptEmbeddings:
    """Encode a prompt file once for any number of videos."""
    sets, sentences = prompts.sets, prompts.sentences()
    encode = model.encode_text
    return PromptEmbeddings(
        encode(list(sets.normal)), encode(list(sets.abnormal)), encode(sentences), sentences
    )


@torch.inference_mode()
def score_video(
    model: AlertCLIP,
    path: Path | str,
    prompts: PromptEmbeddings,
    num_frames: int = FRAMES,
    rate: float = RATE,
    stride: int | None = None,
    precision: Precision = "auto",
) -> ScoreCurve:
    """Score one video in windows of ``num_frames`` sampled frames; memory is bounded.

    ``precision``: products in fp32 or bf16; auto = bf16 where the processor has units for it.
    ``rate`` is in samples per second; ``stride`` in native frames overrides it. Raises InputError
    naming the file when it cannot be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    info = probe(path)
    stride = stride or max(1, round(info.fps / rate))
    sampled = np.arange(0, info.frames, stride)
    scores, nearest = [], []
    with model_precision(model, precision):
        for frames in _chunks(path, sampled, num_frames, model.image_size):
            margin, caption = _score_frames(model, frames, prompts, num_frames)
            scores.append(torch.sigmoid(model.logit_scale.exp() * margin).cpu().numpy())
            nearest += [prompts.sentences[i] for i in caption.tolist()]
    return ScoreCurve(
        path,
        info.frames,
        info.fps,
        info.width / info.height,
        sampled,
        np.concatenate(scores),
        nearest,
    )


@contextmanager
def model_precision(model: AlertCLIP, precision: Precision) -> Iterator[None]:
    """Products in bf16 inside the block if asked for or, with auto, if this device has the units.

    One block around many batches: the weights are then turned to bf16 once.
    """
    device = model.mean.device.type
    bf16 = precision == "bf16" or (precision == "auto" and has_bf16(device))
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        yield


def has_bf16(device: str) -> bool:
    """Does the device multiply bf16 numbers faster than fp32?"""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _chunks(
    path: Path, sampled: np.ndarray, num_frames: int, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Whole windows (F, H, W, 3) in order; the next are decoded while these are in use."""
    chunk = max(1, CHUNK // num_frames) * num_frames
    starts = range(0, len(sampled), chunk)
    with ThreadPoolExecutor(1) as pool:  # it waits for the decoder's own process
        read = partial(pool.submit, read_frames, path)
        following = read(sampled[:chunk], size)
        for start in progress(starts, len(starts), path.name):
            frames, rest = following.result(), sampled[start + chunk : start + 2 * chunk]
            following = read(rest, size) if len(rest) else None
            yield frames


def _score_frames(
    model: AlertCLIP, frames: np.ndarray, prompts: PromptEmbeddings, num_frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Margin S_A - S_N and the nearest caption of each frame: both (F,)."""
    pixels = _to_tensor(model, frames)
    v = torch.cat([model.encode_frames(part[None]).v[0] for part in pixels.split(BATCH)])
    missing = -len(v) % num_frames
    mask = torch.ones(len(v), dtype=torch.bool, device=v.device)
    windows, masks = (
        torch.cat([x, x.new_zeros(missing, *x.shape[1:])]).unflatten(0, (-1, num_frames))
        for x in (v, mask)
    )  # (windows, T, D) and (windows, T)
    z = model.pool_frames(windows, masks).z[masks].float()
    z = torch.nn.functional.normalize(z, dim=-1)  # (F, D)
    margin = z @ (prompts.abnormal.mean(dim=0) - prompts.normal.mean(dim=0))
    return margin.float(), (z @ prompts.captions.T).argmax(dim=-1)


def _to_tensor(model: AlertCLIP, frames: np.ndarray) -> torch.Tensor:
    device = next(model.parameters()).device
    return torch.tensor(frames, device=device).permute(0, 3, 1, 2)  # a copy: frames are read-only


def draw(
    model: AlertCLIP,
    curve: ScoreCurve,
    caption: str,
    spans: Sequence[tuple[float, float]] = (),
) -> figures.Figure:
    """The curve with its key frames, where the visual tower looks in them, and top captions.

    ``spans`` (s) are annotated events to shade.
    """
    peaks = curve.peaks()
    frames = curve.sampled[peaks]
    shown = (DISPLAY_HEIGHT, round(DISPLAY_HEIGHT * curve.aspect))
    seen = _to_tensor(model, read_frames(curve.video, frames, model.image_size))
    return figures.anomaly_curve(
        curve.table,
        list(read_frames(curve.video, frames, shown)),
        list(frames / curve.fps),
        list(attention_maps(model, seen).numpy()),
        spans,
        title=curve.video.name,
        caption=caption,
        key_captions=[curve.captions[i] for i in peaks],
    )


def load_model(name: str, pretrained: str | None, device: str) -> tuple[AlertCLIP, str]:
    """An AlertCLIP for scoring and one line that says which backbone it is and if it is tuned."""
    folder = Path(name.removeprefix("local-dir:"))
    if (folder / META).exists():
        model, line = load_alertclip(folder), f"tuned Alert-CLIP from {folder.name}"
    else:
        if not pretrained and not brings_weights(name):
            raise InputError(
                f"--model {name}: no folder with {META} (notebook 04 writes runs/<profile>/export);"
                " for an open_clip model give --pretrained too (such as openai), else it is random"
            )
        backbone = load_backbone(name, pretrained)
        model, line = AlertCLIP(backbone), f"{backbone.name}, not tuned for anomalies"
    return model.to(device).eval(), line


def trained_frames(name: str) -> int:
    """Frames per clip that an exported folder was trained with; 8 for any other model."""
    path = Path(name.removeprefix("local-dir:")) / META
    return read_json(path).get("num_frames", FRAMES) if path.exists() else FRAMES
