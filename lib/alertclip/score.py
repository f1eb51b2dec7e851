"""Score your own videos: ``python -m alertclip.score VIDEO... --out DIR``.

The score of a sampled frame is sigmoid(logit_scale * (S_A - S_N)), the similarity margin of
document 001 after the temporal transformer, squashed to 0..1; .5 means no preference. It is held
until the next sampled frame. Scores rank frames; they are not calibrated probabilities.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from alertclip import figures
from alertclip.data.video import probe, read_frames
from alertclip.errors import InputError
from alertclip.evaluation.metrics import hold
from alertclip.explain import attention_maps
from alertclip.files import progress
from alertclip.model.alertclip import AlertCLIP
from alertclip.model.backbone import load_backbone
from alertclip.model.export import load_alertclip
from alertclip.params import PROFILES
from alertclip.prompts import Prompts, load_prompts

RATE = 2.0  # sampled frames per second: near the field's 16-frame snippets at 30 fps
CHUNK = 128  # frames held in memory at once
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
    num_frames: int = 8,
    rate: float = RATE,
    stride: int | None = None,
) -> ScoreCurve:
    """Score one video in windows of ``num_frames`` sampled frames; memory is bounded.

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
    for window in _windows(path, sampled, num_frames, model.image_size):
        margin, caption = _score_window(model, window, prompts)
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


def _windows(
    path: Path, sampled: np.ndarray, num_frames: int, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Windows (T <= num_frames, H, W, 3) in order; several are decoded together."""
    chunk = max(1, CHUNK // num_frames) * num_frames
    starts = range(0, len(sampled), chunk)
    for start in progress(starts, len(starts), path.name):
        frames = read_frames(path, sampled[start : start + chunk], size)
        for first in range(0, len(frames), num_frames):
            yield frames[first : first + num_frames]


def _score_window(
    model: AlertCLIP, window: np.ndarray, prompts: PromptEmbeddings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Margin S_A - S_N and the nearest caption of each frame: both (T,)."""
    frames = _to_tensor(model, window)[None]
    mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
    z = torch.nn.functional.normalize(model.encode_clip(frames, mask).z[0], dim=-1)  # (T, D)
    margin = z @ (prompts.abnormal.mean(dim=0) - prompts.normal.mean(dim=0))
    return margin, (z @ prompts.captions.T).argmax(dim=-1)


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


def output_names(videos: Sequence[Path]) -> dict[Path, str]:
    """A distinct output name per video: its base name, with parent folders where two share it.

    Compared without case, as some file systems do; "summary" is taken by the summary.
    """
    videos = list(dict.fromkeys(video.resolve() for video in videos))
    taken, names = {"summary"}, {}
    stems = [video.stem.casefold() for video in videos]
    for video in videos:
        parts = [*video.parts[1:-1], video.stem]
        depth = 1 if stems.count(video.stem.casefold()) == 1 else 2
        name = "__".join(parts[-depth:])
        while name.casefold() in taken and depth < len(parts):
            depth += 1
            name = "__".join(parts[-depth:])
        if name.casefold() in taken:  # the same folder: clip.mp4 beside clip.avi
            name += video.suffix.replace(".", "_")
        taken.add(name.casefold())
        names[video] = name
    return names


def load_model(name: str, pretrained: str | None, device: str) -> tuple[AlertCLIP, str]:
    """An AlertCLIP for scoring and one line that says which backbone it is and if it is tuned."""
    if (Path(name) / "alert_clip.json").exists():
        model, line = load_alertclip(name), f"tuned Alert-CLIP from {Path(name).name}"
    else:
        if not pretrained and name != "miniclip" and not name.startswith("local-dir:"):
            raise InputError(f"{name}: give --pretrained too (such as openai), else it is random")
        backbone = load_backbone(name, pretrained)
        model, line = AlertCLIP(backbone), f"{backbone.name}, not tuned for anomalies"
    return model.to(device).eval(), line


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if any video failed, 2 if the set-up did."""
    options = _parser().parse_args(arguments)
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, line = load_model(options.model, options.pretrained, device)
        prompts = embed_prompts(model, load_prompts(options.prompts))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Model: {line}. Score: sigmoid(logit scale x margin), 0 to 1; {HELD}.")
    rows = []
    for video, name in output_names(options.videos).items():
        rows.append(_score_one(model, prompts, video, name, line, options))
        print("{video}: {status} {reason}".format(**rows[-1]).rstrip())
        figures.write_table(pd.DataFrame(rows), options.out / "summary.csv")
    failed = sum(row["status"] == "failed" for row in rows)
    print(f"{len(rows) - failed} scored, {failed} failed; see {options.out / 'summary.csv'}")
    return 1 if failed else 0


def _score_one(
    model: AlertCLIP,
    prompts: PromptEmbeddings,
    video: Path,
    name: str,
    line: str,
    options: argparse.Namespace,
) -> dict[str, object]:
    row = {"video": str(video), "output": name, "frames": 0, "max": None, "mean": None}
    try:
        curve = score_video(model, video, prompts, options.num_frames, options.fps, options.stride)
        table = curve.table
        figures.save(draw(model, curve, f"{line}; {HELD}."), name, table, options.out)
    except Exception as error:  # whatever is wrong with one file must not stop the others
        reason = " ".join(str(error).split()) or type(error).__name__
        return row | {"status": "failed", "reason": reason, "model": line}
    top, mean = table["score"].max(), table["score"].mean()
    values = {"frames": len(table), "max": round(top, 6), "mean": round(mean, 6)}
    return row | values | {"status": "scored", "reason": "", "model": line}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alertclip.score", description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--out", type=Path, required=True, help="folder for CSV and PNG files")
    parser.add_argument(
        "--model",
        default="miniclip",
        help="exported Alert-CLIP folder, local-dir:PATH, an open_clip name, or"
        " miniclip (default: small, trained on rendered scenes only)",
    )
    parser.add_argument("--pretrained", help="open_clip tag or safetensors file for --model")
    parser.add_argument("--prompts", type=Path, default=PROFILES / "prompts.yaml")
    parser.add_argument(
        "--num-frames",
        type=_count,
        default=8,
        help="frames per window; best as in training (default 8)",
    )
    parser.add_argument("--fps", type=_rate, default=RATE, help="samples per second of video")
    parser.add_argument("--stride", type=_count, help="native frames per sample; overrides fps")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} must be a whole number above 0")
    return int(text)


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
