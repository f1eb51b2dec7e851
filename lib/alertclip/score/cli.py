"""Command line: ``python -m alertclip.score VIDEO... --out DIR``; one bad file stops nothing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from alertclip import figures, score
from alertclip.errors import InputError
from alertclip.model.alertclip import AlertCLIP
from alertclip.params import PROFILES
from alertclip.prompts import load_prompts
from alertclip.score import (
    FRAMES,
    HELD,
    RATE,
    PromptEmbeddings,
    draw,
    embed_prompts,
    load_model,
    score_video,
    trained_frames,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if any video failed, 2 if the set-up did."""
    options = _parser().parse_args(arguments)
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, line = load_model(options.model, options.pretrained, device)
        prompts = embed_prompts(model, load_prompts(options.prompts))
        options.num_frames = options.num_frames or trained_frames(options.model)
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
    parser = argparse.ArgumentParser(prog="python -m alertclip.score", description=score.__doc__)
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
        help=f"frames per window (default: as the model was trained; untuned {FRAMES})",
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
