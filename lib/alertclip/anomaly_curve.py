"""The anomaly curve of a video: a score for every frame, in constant memory for any length.

A sampled frame scores sigmoid(logit_scale * (S_A - S_N)), the paper's margin after the temporal
transformer; the score holds until the next one. Scores rank frames; they are not probabilities.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from alertclip.model import AlertCLIP
from alertclip.mss import hold
from alertclip.prompts import Prompts
from media.cache import decoder_threads, parts_ahead
from media.survey import VideoInfo
from media.video import Walk

FRAMES = 8  # per window, if the model does not specify it
RATE = 2.0  # sampled frames per second: near the field's 16-frame snippets at 30 fps
BATCH = 64  # frames per pass of the vision tower
KEY_FRAMES = 4
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


@dataclass(frozen=True)
class ScoreCurve:
    """Anomaly curve of one video, from T sampled frames.

    sampled (T,) frame numbers from 0; scores (T,) in 0..1; captions (T,) the prompt nearest to each
    sampled frame.
    """

    video: Path
    info: VideoInfo
    sampled: np.ndarray
    scores: np.ndarray
    captions: list[str]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per frame: frame (from 0), time_s of presentation, score of the last sample."""
        frames = np.arange(self.info.frames)
        held = hold(self.scores, self.sampled, self.info.frames)
        return pd.DataFrame({"frame": frames, "time_s": self.info.clock, "score": held})

    def peaks(self, count: int = KEY_FRAMES) -> np.ndarray:
        """Indices into ``sampled`` of high scores, at least 1 / (2 * count) of the video apart."""
        gap = len(self.scores) / (2 * count)
        chosen: list[int] = []
        for i in np.argsort(-self.scores, kind="stable"):
            if len(chosen) < count and all(abs(i - j) >= gap for j in chosen):
                chosen.append(int(i))
        return np.sort(chosen)


@dataclass(frozen=True)
class PromptEmbeddings:
    """Unit text embeddings (C, D) of P_N, P_A and all candidate captions, the ``sentences``."""

    normal: Tensor
    abnormal: Tensor
    captions: Tensor
    sentences: list[str]


@torch.inference_mode()
def embed_prompts(model: AlertCLIP, prompts: Prompts) -> PromptEmbeddings:
    """Embed the prompts once for any number of videos."""
    texts = [list(prompts.sets.normal), list(prompts.sets.abnormal), prompts.sentences()]
    return PromptEmbeddings(*map(model.encode_text, texts), texts[-1])


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
    [(_, result)] = score_videos(model, [path], prompts, num_frames, rate, stride)
    if isinstance(result, Exception):
        raise result
    return result


def score_videos(
    model: AlertCLIP,
    paths: Sequence[Path | str],
    prompts: PromptEmbeddings,
    num_frames: int = FRAMES,
    rate: float = RATE,
    stride: int | None = None,
    decoders: int = 1,
) -> Iterator[tuple[Path, ScoreCurve | Exception]]:
    """Yield each path with its curve, as from ``score_video``, or its error, as videos finish.

    ``decoders`` videos are decoded at a time, ahead of the model.
    """
    videos = list(dict.fromkeys(Path(path) for path in paths))
    count = max(1, BATCH // num_frames) * num_frames  # whole windows per piece
    scored: dict[Path, list[tuple[np.ndarray, list[int]]]] = {video: [] for video in videos}
    threads = decoder_threads(min(decoders, len(videos)))

    def read(video: Path) -> Iterator[Piece]:
        return sampled_pieces(video, model.image_size, rate, stride, count, threads)

    device = model.mean.device.type
    bar = tqdm(total=len(videos), desc="score", bar_format=BAR, mininterval=0.5, delay=2)
    with bar, closing(parts_ahead(read, videos, decoders)) as pieces:

        def next_finished() -> Piece | None:
            # One autocast block around many batches casts the weights once; it ends before each
            # yield, so that the caller's code keeps its precision.
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, has_bf16(device)):
                for piece in pieces:
                    if len(piece.frames):
                        scores = _score_frames(model, piece.frames, prompts, num_frames)
                        scored[piece.video].append(scores)
                    bar.update(piece.share)
                    if piece.info or piece.error:
                        return piece
            return None

        while last := next_finished():
            result = last.error
            if not result:
                scores, nearest = map(np.concatenate, zip(*scored[last.video], strict=True))
                captions = [prompts.sentences[i] for i in nearest]
                result = ScoreCurve(last.video, last.info, last.sampled, scores, captions)
            del scored[last.video]
            yield last.video, result


class Piece(NamedTuple):
    """Sampled frames (F, H, W, 3) of a video and the share of it that they cover.

    The last piece of a video has its ``info`` and all ``sampled`` numbers, or the ``error``.
    """

    video: Path
    share: float
    frames: np.ndarray = np.empty(0)
    info: VideoInfo | None = None
    sampled: np.ndarray = np.empty(0, int)
    error: Exception | None = None


def frame_numbers(info: VideoInfo, rate: float, stride: int | None) -> set[int]:
    """Frames to sample: every ``stride``-th, or the first of each interval of 1 / ``rate`` s."""
    if stride or not info.times:
        return set(range(0, info.frames, stride or max(1, round(info.fps / rate))))
    return set(np.unique(np.floor(info.clock * rate + 1e-6), return_index=True)[1].tolist())


def sampled_pieces(
    path: Path, size: tuple[int, int], rate: float, stride: int | None, count: int, threads: str
) -> Iterator[Piece]:
    """Decode a video once, from its start, and yield pieces of ``count`` sampled frames."""
    frames, sampled, remaining = [], [], 1.0
    try:
        walk = Walk(path, size, threads)
        wanted = frame_numbers(walk.info, rate, stride)
        share = count / max(1, len(wanted))
        for number, frame in walk.frames(wanted):
            if len(frames) == count:
                yield Piece(path, min(share, remaining), np.stack(frames))
                remaining, frames = max(0.0, remaining - share), []
            sampled.append(number)
            frames.append(frame)
        yield Piece(path, remaining, np.stack(frames), walk.info, np.array(sampled))
    except Exception as error:  # one bad file must not stop the others
        yield Piece(path, remaining, error=error)


def has_bf16(device: str) -> bool:
    """Whether the device has native bf16 arithmetic, which is faster than fp32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _score_frames(
    model: AlertCLIP, frames: np.ndarray, prompts: PromptEmbeddings, num_frames: int
) -> tuple[np.ndarray, list[int]]:
    """Scores (F,) of frames (F, H, W, 3) and the index of the caption nearest to each."""
    batches = to_tensor(model, frames).split(BATCH)
    v = torch.cat([model.encode_frames(batch[None]).v[0] for batch in batches])  # (F, D)
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
