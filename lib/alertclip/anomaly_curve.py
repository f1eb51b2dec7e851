"""The anomaly curve of a video: a score for every frame, in flat memory, whatever the length.

A sampled frame scores sigmoid(logit_scale * (S_A - S_N)), the paper's margin after the temporal
transformer, and holds it until the next one. Scores rank frames; they are no probabilities.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from alertclip import decoding
from alertclip.model import AlertCLIP
from alertclip.mss import hold
from alertclip.prompts import Prompts
from alertclip.video import DecodeWorker, existing

FRAMES = 8  # a window where the model does not say
RATE = 2.0  # sampled frames per second: near the field's 16-frame snippets at 30 fps
BATCH = 64  # frames through the vision tower at once
KEY_FRAMES = 4
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


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
        held = hold(self.scores, self.sampled, self.n_frames)
        return pd.DataFrame({"frame": frames, "time_s": frames / self.fps, "score": held})

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

    normal: Tensor
    abnormal: Tensor
    captions: Tensor
    sentences: list[str]


@torch.inference_mode()
def embed_prompts(model: AlertCLIP, prompts: Prompts) -> PromptEmbeddings:
    """Encode a prompt file once for any number of videos."""
    sets, sentences = prompts.sets, prompts.sentences()
    normal, abnormal, captions = map(
        model.encode_text, (list(sets.normal), list(sets.abnormal), sentences)
    )
    return PromptEmbeddings(normal, abnormal, captions, sentences)


def score_video(
    model: AlertCLIP,
    path: Path | str,
    prompts: PromptEmbeddings,
    num_frames: int = FRAMES,
    rate: float = RATE,
    stride: int | None = None,
) -> ScoreCurve:
    """Score one video in windows of ``num_frames`` sampled frames.

    ``rate`` is in samples per second; ``stride`` in native frames overrides it. Raises InputError
    naming the file if it cannot be decoded.
    """
    [(_, found)] = score_videos(model, [path], prompts, num_frames, rate, stride)
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
    decoders: int = 1,
) -> Iterator[tuple[Path, ScoreCurve | Exception]]:
    """Score many videos as ``score_video`` does: each path with its curve or error, once done.

    ``decoders`` videos are decoded at a time, ahead of the model.
    """
    videos = list(dict.fromkeys(Path(path) for path in paths))
    count = max(1, BATCH // num_frames) * num_frames
    scored: dict[Path, list[tuple[np.ndarray, list[int]]]] = {video: [] for video in videos}
    sampling = Sampling(model.image_size, rate, stride, count)
    device = model.mean.device.type
    bar = tqdm(total=len(videos), desc="score", bar_format=BAR, mininterval=0.5, delay=2)
    with bar, closing(pieces_ahead(videos, sampling, decoders)) as pieces:

        def next_done() -> Piece | None:
            # Leave autocast before yielding, so that caller code keeps its precision. One block
            # around many batches: the weights are then cast once.
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, has_bf16(device)):
                for piece in pieces:
                    if len(piece.frames):
                        found = _score_frames(model, piece.frames, prompts, num_frames)
                        scored[piece.video].append(found)
                    bar.update(piece.share)
                    if piece.facts or piece.error:
                        return piece
            return None

        while last := next_done():
            parts = scored.pop(last.video)
            yield last.video, last.error or _curve(last, parts, prompts.sentences)


class Sampling(NamedTuple):
    """Size (H, W) of frames, how many per second or else every how many, and how many a piece."""

    size: tuple[int, int]
    rate: float
    stride: int | None
    count: int


class Piece(NamedTuple):
    """Sampled frames (F, H, W, 3), their share of the video; the last has facts or an error."""

    video: Path
    share: float
    frames: np.ndarray = np.empty(0)
    stride: int = 1
    facts: decoding.Facts | None = None
    error: Exception | None = None


def pieces_ahead(videos: Sequence[Path], sampling: Sampling, decoders: int) -> Iterator[Piece]:
    """All pieces of all videos; ``decoders`` videos at a time, each a piece ahead of the caller.

    Pieces of a video come in order, those of others in between.
    """
    count, todo = max(1, min(decoders, len(videos))), iter(videos)
    with ThreadPoolExecutor(count) as pool, ExitStack() as stack:
        waiting = deque()
        for _ in range(count):
            worker = DecodeWorker("NONE" if count > 1 else "AUTO")
            stack.callback(worker.close)
            pieces = chain.from_iterable(map(partial(_pieces, sampling, worker), todo))
            waiting.append((pieces, pool.submit(next, pieces, None)))
        while waiting:
            pieces, future = waiting.popleft()
            if (piece := future.result()) is not None:
                waiting.append((pieces, pool.submit(next, pieces, None)))
                yield piece


def _pieces(sampling: Sampling, worker: DecodeWorker, video: Path) -> Iterator[Piece]:
    left = 1.0
    try:
        promised = worker.run(existing(video), decoding.declared)
        stride = sampling.stride or max(1, round(promised["fps"] / sampling.rate))
        share = min(1.0, stride * sampling.count / max(1, promised["frames"]))
        how = sampling.size, stride, sampling.count, worker.threads
        for frames, facts in worker.stream(video, decoding.pieces, *how):
            yield Piece(video, left if facts else min(share, left), frames, stride, facts)
            left = max(0.0, left - share)
    except Exception as error:  # whatever is wrong with one file must not stop the others
        yield Piece(video, left, error=error)


def _curve(
    last: Piece, parts: Sequence[tuple[np.ndarray, list[int]]], sentences: Sequence[str]
) -> ScoreCurve:
    frames, aspect = last.facts["frames"], last.facts["width"] / last.facts["height"]
    scores = np.concatenate([scores for scores, _ in parts])
    captions = [sentences[i] for _, nearest in parts for i in nearest]
    sampled = np.arange(0, frames, last.stride)
    return ScoreCurve(last.video, frames, last.facts["fps"], aspect, sampled, scores, captions)


def has_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 numbers faster than fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _score_frames(
    model: AlertCLIP, frames: np.ndarray, prompts: PromptEmbeddings, num_frames: int
) -> tuple[np.ndarray, list[int]]:
    """Scores (F,) of frames (F, H, W, 3) and the number of the caption nearest to each."""
    batches = to_tensor(model, frames).split(BATCH)
    v = torch.cat([model.encode_frames(part[None]).v[0] for part in batches])  # (F, D)
    padded = torch.cat([v, v.new_zeros(-len(v) % num_frames, v.shape[1])])
    mask = (torch.arange(len(padded), device=v.device) < len(v)).unflatten(0, (-1, num_frames))
    z = model.pool_frames(padded.unflatten(0, (-1, num_frames)), mask).z[mask].float()
    z = torch.nn.functional.normalize(z, dim=-1)  # (F, D)
    margin = z @ (prompts.abnormal.mean(dim=0) - prompts.normal.mean(dim=0))
    scores = torch.sigmoid(model.logit_scale.exp() * margin.float())
    return scores.cpu().numpy(), (z @ prompts.captions.T).argmax(dim=-1).tolist()


def to_tensor(model: AlertCLIP, frames: np.ndarray) -> Tensor:
    """Frames (F, H, W, 3) as a tensor (F, 3, H, W) on the model's device."""
    device = next(model.parameters()).device
    return torch.as_tensor(frames, device=device).permute(0, 3, 1, 2)
