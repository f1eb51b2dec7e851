"""Are my features right? Their layout, length, space and, with a video, the rule behind them.

python -m detectors.check UCFClipFeatures
python -m detectors.check UCFClipFeatures --model ViT-B-16-quickgelu --pretrained openai
python -m detectors.check UCFClipFeatures --model ... --video Abuse001_x264.mp4

With ``--model``: the mean cosine with class prompts, which tells another model's features. With
``--video`` too: some of its features are extracted anew under each documented rule (resize, crop,
frame of a snippet), and the table shows which one gives those of the file.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from alertclip.errors import InputError
from alertclip.model import AlertCLIP
from alertclip.score import load_model
from alertclip.survey import VideoInfo
from alertclip.video import probe, read_frames
from detectors.benchmarks import load_benchmark
from detectors.features import CROPS, MARGIN, SnippetRule, embed_crops, read_features, take_crop
from detectors.fitting import class_prompts
from detectors.released_features import (
    anchors,
    check_space,
    cosines,
    feature_index,
    likely_model,
    summarise,
)

ROWS = 6  # features of a video that are extracted anew, evenly spaced
EXACT = 0.999  # mean cosine of a rule that fits: decoders and half precision differ
ALIKE = 2e-4  # rules whose cosines differ by less cannot be told apart


def layout(names: Sequence[str]) -> str:
    """What file names say: how many are whole videos, how many crops of each number."""
    crops = Counter((re.findall(r"__(\d+)$", name) or ["-"])[0] for name in names)
    parts = [f"{n} as NAME{'' if c == '-' else '__' + c}.npy" for c, n in sorted(crops.items())]
    return ", ".join(parts)


def views(
    path: Path, indices: Sequence[int], size: tuple[int, int], info: VideoInfo
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Frames (F, *size, 3) under each rule of resize and crop, named."""
    yield "squashed", "whole frame", read_frames(path, indices, size, info)
    short = min(info.height, info.width)
    for scale in (1, MARGIN):
        large = tuple(round(side * scale) for side in size)
        kept = tuple(
            round(side * scale * whole / short)
            for side, whole in zip(size, (info.height, info.width), strict=True)
        )
        for resize, shape in {"squashed": large, "short side": kept}.items():
            if shape == size or (resize == "short side" and shape == large):
                continue
            frames = read_frames(path, indices, shape, info)
            for crop in range(1 if scale == 1 else max(CROPS)):
                name = f"{crop} of {shape[0]} x {shape[1]}"
                yield resize, f"crop {name}", take_crop(frames, size, crop)


def rule_table(model: AlertCLIP, path: Path, features: np.ndarray) -> pd.DataFrame:
    """Mean cosine of features (n, D) of a video with those extracted anew, best rule first.

    Columns resize, crop, frames, cosine.
    """
    info = probe(path)
    length = max(1, round(info.frames / len(features)))
    last = min(len(features), max(1, info.frames // length)) - 1
    rows = np.unique(np.linspace(0, last, ROWS).round().astype(int))
    numbers = np.minimum(rows[:, None] * length + np.arange(length), info.frames - 1)
    known, found = _unit(features[rows].astype(np.float32)), []
    for resize, crop, frames in views(path, numbers.ravel().tolist(), model.image_size, info):
        single = embed_crops(model, frames, SnippetRule(1, 1, 1))[0]
        v = single.reshape(len(rows), length, -1)
        rules = {"first": v[:, 0], "middle": v[:, length // 2], f"mean of {length}": v.mean(axis=1)}
        for rule, u in rules.items() if length > 1 else [("each", v[:, 0])]:
            found.append((resize, crop, rule, (_unit(u) * known).sum(axis=1).mean()))
    table = pd.DataFrame(found, columns=["resize", "crop", "frames", "cosine"])
    return table.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)


def verdict(table: pd.DataFrame) -> str:
    """The rule that fits, or the nearest one, in a sentence."""
    best = table.iloc[0]
    rule = f"frames: {best.frames}; {best.resize}, {best.crop}"
    if alike := int((table["cosine"] > best.cosine - ALIKE).sum()) - 1:
        return f"{alike + 1} rules give the same here, first {rule}: take a video with more motion"
    if best.cosine >= EXACT:
        return f"fits: {rule} (cosine {best.cosine:.4f})"
    return f"no rule fits; nearest: {rule} (cosine {best.cosine:.4f}, {EXACT} would fit)"


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _video_features(index: dict[str, Path], video: Path) -> list[Path]:
    found = [path for name, path in index.items() if re.sub(r"__\d+$", "", name) == video.stem]
    if not found:
        raise InputError(f"{video.stem}: no feature file of this name; names must be equal")
    return found


def check(args: argparse.Namespace) -> None:
    """Print what the command line asks for; InputError where features do not fit the model."""
    index = feature_index(args.features)
    summary = summarise(list(index.values()))
    low, high = summary.norms.min(), summary.norms.max()
    print(f"layout: {layout(list(index))}; {summary.width} wide")
    print(f"length of a row: {low:.2f} to {high:.2f}{' (unit)' if high < 1.02 else ''}")
    print(f"likely model: {likely_model(summary)}")
    if args.video:
        frames = probe(args.video).frames
        files = _video_features(index, args.video)
        for file in files:
            rows = len(read_features(file))
            print(f"rate: {file.name}: {rows} rows, {frames} frames, 1 per {frames / rows:.2f}")
    if not args.model:
        return
    model, line = load_model(args.model, args.pretrained, args.device)
    print(f"model: {line}")
    benchmark = load_benchmark(args.benchmark)
    known = anchors(model, class_prompts(benchmark, benchmark.classes))
    check_space(summary, known, args.model)
    print("; ".join(f"cosine with {name}: {v:.2f}" for name, v in cosines(summary, known).items()))
    for file in files if args.video else []:
        table = rule_table(model, args.video, read_features(file))
        print(f"\n{file.name}\n{table.head(10).to_string(index=False, float_format='%.4f')}")
        print(verdict(table))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 after an error, which it prints."""
    parser = argparse.ArgumentParser("python -m detectors.check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("features", type=Path, help="folder of .npy files, (n, D) each")
    add("--video", type=Path, help="the video of one of the files, of the same name")
    add("--model", help="open_clip's name or an exported folder, as for alertclip.score")
    add("--pretrained", help="weights of an open_clip model, such as openai")
    add("--benchmark", default="ucf_crime", help="whose class prompts are compared")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    try:
        check(parser.parse_args(arguments))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
