"""Score your own videos: ``python -m alertclip.score VIDEO... --out DIR``.

The score of a sampled frame is sigmoid(logit_scale * (S_A - S_N)), the similarity margin
of the paper after the temporal transformer, squashed to 0..1; .5 means no preference. It is held
until the next sampled frame. Scores rank frames; they are not calibrated probabilities.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alertclip.attention_maps import attention_maps
from alertclip.model import AlertCLIP
from alertclip.prompts import Prompts
from alertclip.score.models import FRAMES
from alertclip.score.reading import Part, Sampling, announced, read_ahead
from alertclip.video import read_frames
from companion import figures
from detectors.frame_metrics import hold

Precision = Literal["auto", "fp32", "bf16"]
RATE = 2.0  # sampled frames per second: near the field's 16-frame snippets at 30 fps
BATCH = 64  # frames through the vision tower at once; as many are waited for
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
    [(_, found)] = score_videos(model, [path], prompts, num_frames, rate, stride, precision)
    if isinstance(found, Exception):
        raise found
    return found


def score_videos(
    model: AlertCLIP,
    paths: Sequence[Path | str],
    prompts: PromptEmbeddings,
    num_frames: int = FRAMES,
    rate: float = RATE,
    stride: int | None = None,
    precision: Precision = "auto",
    decoders: int = 1,
) -> Iterator[tuple[Path, ScoreCurve | Exception]]:
    """Score many videos as ``score_video`` does: each path, as it is done, and its curve or error.

    ``decoders`` videos are decoded at a time, ahead of the model; short ones share its batches.
    """
    count = max(1, BATCH // num_frames) * num_frames
    sampling = Sampling(rate, stride, model.image_size, count)
    videos = list(dict.fromkeys(Path(path) for path in paths))
    groups = _groups(announced(read_ahead(videos, sampling, decoders)))
    curves: dict[Path, _Growing] = {}

    def next_done() -> list[tuple[Path, ScoreCurve | Exception]]:
        # Left before anything is handed out: the caller's own products are not ours to round.
        with torch.inference_mode(), model_precision(model, precision):
            done = (_score_group(model, g, prompts, num_frames, curves) for g in groups)
            return next(filter(None, done), [])

    while done := next_done():
        yield from done


def _groups(parts: Iterator[Part]) -> Iterator[list[Part]]:
    """Parts together until they fill a batch; a failed video is handed on at once."""
    group: list[Part] = []
    for part in parts:
        group.append(part)
        frames = sum(len(p.piece.frames) for p in group if p.piece)
        if frames >= BATCH or part.error:
            yield group
            group = []
    if group:
        yield group


@dataclass
class _Growing:
    """A curve under way."""

    stride: int
    scores: list[np.ndarray] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)

    def finished(self, video: Path, facts: dict[str, Any]) -> ScoreCurve:
        frames, aspect = facts["frames"], facts["width"] / facts["height"]
        sampled = np.arange(0, frames, self.stride)
        scores = np.concatenate(self.scores)
        return ScoreCurve(video, frames, facts["fps"], aspect, sampled, scores, self.captions)


def _score_group(
    model: AlertCLIP,
    group: Sequence[Part],
    prompts: PromptEmbeddings,
    num_frames: int,
    curves: dict[Path, _Growing],
) -> list[tuple[Path, ScoreCurve | Exception]]:
    """Score parts of videos in one batch, grow their ``curves``; those that end, or have failed."""
    filled = [part for part in group if part.piece is not None and len(part.piece.frames)]
    found = _score_frames(model, [part.piece.frames for part in filled], prompts, num_frames)
    for part, (scores, nearest) in zip(filled, found, strict=True):
        curve = curves.setdefault(part.video, _Growing(part.stride))
        curve.scores.append(scores)
        curve.captions += [prompts.sentences[i] for i in nearest]
    done: list[tuple[Path, ScoreCurve | Exception]] = []
    for part in (part for part in group if part.last):
        curve = curves.pop(part.video, None)
        done.append((part.video, part.error or curve.finished(part.video, part.piece.facts)))
    return done


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


def _score_frames(
    model: AlertCLIP, pieces: Sequence[np.ndarray], prompts: PromptEmbeddings, num_frames: int
) -> list[tuple[np.ndarray, list[int]]]:
    """Scores (F,) and the nearest caption of every frame, for each piece (F, H, W, 3)."""
    if not pieces:
        return []
    batches = _to_tensor(model, np.concatenate(pieces)).split(BATCH)
    v = torch.cat([model.encode_frames(part[None]).v[0] for part in batches])
    sizes = [len(piece) for piece in pieces]
    windows, masks = _windows(v, sizes, num_frames)
    z = model.pool_frames(windows, masks).z[masks].float()
    z = torch.nn.functional.normalize(z, dim=-1)  # (F, D)
    margin = z @ (prompts.abnormal.mean(dim=0) - prompts.normal.mean(dim=0))
    scores = torch.sigmoid(model.logit_scale.exp() * margin.float()).split(sizes)
    nearest = (z @ prompts.captions.T).argmax(dim=-1).split(sizes)
    return [(s.cpu().numpy(), n.tolist()) for s, n in zip(scores, nearest, strict=True)]


def _windows(v: Tensor, sizes: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """Frames (F, D) of pieces of these sizes -> windows (W, length, D) and their mask; a piece
    begins a window of its own and is padded with zeros."""
    frames, masks = [], []
    for part in v.split(list(sizes)):
        missing = -len(part) % length
        frames.append(torch.cat([part, part.new_zeros(missing, part.shape[1])]))
        masks.append(torch.arange(len(part) + missing, device=v.device) < len(part))
    return torch.cat(frames).unflatten(0, (-1, length)), torch.cat(masks).unflatten(0, (-1, length))


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
