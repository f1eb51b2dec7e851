"""Are my features right? Their layout, length, space and, with a video, the rule behind them.

python -m detectors.check UCFClipFeatures
python -m detectors.check UCFClipFeatures --model ViT-B-16-quickgelu --pretrained openai
python -m detectors.check UCFClipFeatures --model ... --video Abuse001_x264.mp4

With ``--model``: the mean cosine with class prompts, which tells another model's features. With
``--video`` too: some of its features are extracted anew under each documented rule (resize, crop,
frame of a snippet), and the table shows which one gives those of the file.

VadCLIP's authors release ``<name>__<crop>.npy``, a row per 16 frames; AnomalyCLIP's layout is
``<name>.npy``, a row per frame. Both may lie below one folder, in any subfolders.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from alertclip.model import AlertCLIP
from detectors.benchmarks import load_benchmark
from detectors.event_annotations import VideoTruth
from detectors.features import MARGIN, SnippetRule, embed_crops, read_features, take_crop
from detectors.fitting import class_prompts
from media.errors import InputError
from media.video import probe, read_frames

SAMPLE = 24  # files that a check reads, evenly spaced
# Of eleven real files of OpenAI's ViT-B/16, the mean cosine with class prompts is .20 to .25. In a
# space of D dimensions that is not theirs it is 0 with a deviation of 1 / sqrt(D), .04 for 512.
LEAST_COSINE = 0.1
WIDTHS = {512: "ViT-B/16 or ViT-B/32", 640: "RN101 or RN50x4", 768: "ViT-L/14",
          1024: "RN50, ViT-H/14 or I3D", 2048: "I3D or ResNet-50"}  # fmt: skip
PEAK = 442  # holds .5 to .7 of the mean direction in those files, whatever the video
B16 = "OpenAI's ViT-B/16, as VadCLIP's and AnomalyCLIP's are: backbone=ViT-B-16-quickgelu"
ROWS = 6  # features of a video that are extracted anew, evenly spaced
EXACT = 0.999  # mean cosine of a rule that fits: decoders and half precision differ
ALIKE = 2e-4  # rules whose cosines differ by less cannot be told apart
Rules = dict[tuple[str, str, str], np.ndarray]  # features (n, D) by resize, crop and frames


class FeatureSummary(NamedTuple):
    """A sample of files: the first, mean length of a row per file, mean unit row (D,)."""

    first: Path
    norms: np.ndarray
    direction: np.ndarray


def feature_index(folder: Path) -> dict[str, Path]:
    """Every .npy file below ``folder`` by its stem; InputError if none, or two share a name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.npy")):
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem]} share a name; keep one")
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder}: no feature files (.npy) below it; check the path of features")
    return found


def summarise(files: Sequence[Path]) -> FeatureSummary:
    """Read up to ``SAMPLE`` of the files; InputError names one of another width or without rows."""
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, SAMPLE).astype(int))]
    norms, means = [], []
    for path in chosen:
        length = np.linalg.norm(features := read_features(path), axis=1, keepdims=True)
        if not length.all():
            raise InputError(f"{path}: row {length.argmin()} is zero; extract it again")
        means.append((features / length).mean(axis=0))
        norms.append(length.mean())
        if (width := features.shape[1]) != len(means[0]):
            raise InputError(f"{path}: width {width}, but {chosen[0]} has {len(means[0])}")
    return FeatureSummary(chosen[0], np.array(norms), np.mean(means, axis=0))


@torch.inference_mode()
def anchors(model: AlertCLIP, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Unit vectors (n, D) that tell a model's space: of class prompts, a grey and a noisy image."""
    own = torch.Generator().manual_seed(0)  # a check must not seed what follows
    noise = torch.randint(0, 256, (3, *model.image_size), generator=own)
    images = torch.stack([torch.full_like(noise, 128), noise]).to(torch.uint8)
    v = normalize(model.image_features(images.to(model.mean.device)).float(), dim=-1)
    found = {"class prompts": model.encode_text(list(prompts)).float(), "blank images": v}
    return {name: vectors.cpu().numpy() for name, vectors in found.items()}


def likely_model(summary: FeatureSummary) -> str:
    """What made features of this width and direction, as far as these tell."""
    b16 = len(summary.direction) == 512 and np.abs(summary.direction).argmax() == PEAK
    return B16 if b16 else WIDTHS.get(len(summary.direction), "a model that is not known here")


def check_space(
    summary: FeatureSummary, known: Mapping[str, np.ndarray], backbone: str
) -> dict[str, float]:
    """Mean cosine by anchor; InputError, naming what made them, if not ``backbone``'s."""
    width, own = next(iter(known.values())).shape[1], len(summary.direction)
    where = f"{summary.first}: features of"
    instead = f"likely of {likely_model(summary)}; set backbone and pretrained to that model"
    if own != width:
        raise InputError(f"{where} width {own}, but {backbone} makes {width}; they are {instead}")
    found = {name: float((v @ summary.direction).mean()) for name, v in known.items()}
    if max(found.values()) < LEAST_COSINE:
        listed = ", ".join(f"{value:.2f} with {name}" for name, value in found.items())
        least = f"their mean cosine is {listed}, where {LEAST_COSINE} is the least"
        raise InputError(f"{where} another model than {backbone}: {least}; they are {instead}")
    unit = np.isclose(summary.norms, 1, atol=0.02)
    if unit.any() and not unit.all():
        count = f"{unit.sum()} of {len(unit)} sampled files hold unit rows"
        raise InputError(f"{where} two kinds: {count} and the others do not; bring all to one form")
    return found


def check_rate(rows: dict[str, int], truths: list[VideoTruth], length: int, where: Path) -> None:
    """Raise InputError if events and features, ``rows`` of ``length`` frames, have two clocks."""
    ends = [t.spans[-1][1] / (length * rows[t.name]) for t in truths if t.spans and t.name in rows]
    share = float(np.median(ends)) if ends else 0.5
    if not 0.07 <= share <= 1.1:
        what = f"at {length} frames per feature, the last event ends at {share:.2f} of a video"
        named = "snippet_length (NAME__CROP.npy) or frame_stride (NAME.npy) to the features' rate"
        raise InputError(f"{where}: {what} (median; .07 to 1.1 is plausible): set {named}")


def extracted_anew(model: AlertCLIP, path: Path, count: int) -> tuple[np.ndarray, Rules]:
    """Some rows of ``count`` features of a video, and their features under every rule."""
    info, size = probe(path), model.image_size
    length = max(1, round(info.frames / count))
    last = min(count, max(1, info.frames // length)) - 1
    rows = np.unique(np.linspace(0, last, ROWS).round().astype(int))
    numbers = np.minimum(rows[:, None] * length + np.arange(length), info.frames - 1)
    kept = np.multiply(size, (info.height, info.width)) / min(info.height, info.width)
    resized = [
        ("squashed", size, 0),  # the whole frame
        ("squashed", np.multiply(size, MARGIN), 10),
        ("short side", kept * MARGIN, 10),
        ("short side, no margin", kept, 1),  # CLIP's own
    ]
    found: Rules = {}
    for resize, shape, crops in resized:
        height, width = np.round(shape).astype(int).tolist()
        frames = torch.from_numpy(read_frames(path, numbers.ravel(), (height, width), info))
        views = {f"crop {c} of {height} x {width}": c for c in range(crops)} or {"whole frame": 0}
        for crop, number in views.items():
            view = take_crop(frames, size, number)
            v = embed_crops(model, view, SnippetRule(1, 1, 1)).reshape(len(rows), length, -1)
            mean = v.mean(axis=1)
            rules = {"first": v[:, 0], "middle": v[:, length // 2], f"mean of {length}": mean}
            for name, u in rules.items() if length > 1 else [("each", mean)]:
                found[resize, crop, name] = normalize(torch.from_numpy(u), dim=-1).numpy()
    return rows, found


def rule_table(features: np.ndarray, rules: Rules) -> pd.DataFrame:
    """Mean cosine of features (n, D) with each rule's, best first: resize, crop, frames, cosine."""
    known = normalize(torch.from_numpy(features).float(), dim=-1).numpy()
    found = [(*rule, (u * known).sum(axis=1).mean()) for rule, u in rules.items()]
    table = pd.DataFrame(found, columns=["resize", "crop", "frames", "cosine"])
    return table.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)


def verdict(table: pd.DataFrame) -> str:
    """The rule that fits, or the nearest one, in a sentence."""
    best = table.iloc[0]
    rule = f"frames: {best.frames}; {best.resize}, {best.crop}"
    alike = int((table["cosine"] > best.cosine - ALIKE).sum())
    if best.cosine < EXACT:
        return f"no rule fits; nearest: {rule} (cosine {best.cosine:.4f}, {EXACT} would fit)"
    if alike > 1:
        return f"{alike} rules give the same here, first {rule}: take another video"
    return f"fits: {rule} (cosine {best.cosine:.4f})"


def check(args: argparse.Namespace) -> None:
    """Print what the command line asks for; InputError where features do not fit the model."""
    if args.video and not args.model:
        raise InputError("--video needs --model, whose features are compared")
    index = feature_index(args.features)
    summary = summarise(list(index.values()))
    low, high = summary.norms.min(), summary.norms.max()
    ends = Counter("".join(re.findall(r"__\d+$", name)) for name in index)
    names = ", ".join(f"{n} as NAME{end}.npy" for end, n in sorted(ends.items()))
    print(f"layout: {names}; {len(summary.direction)} wide")
    print(f"length of a row: {low:.2f} to {high:.2f}{' (unit)' if high < 1.02 else ''}")
    print(f"likely model: {likely_model(summary)}")
    if not args.model:
        return
    from alertclip.score import load_model  # slow to import, and extraction has no use for it

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, line = load_model(args.model, args.pretrained, device)
    benchmark = load_benchmark(args.benchmark)
    known = anchors(model, class_prompts(benchmark, benchmark.classes))
    found = check_space(summary, known, args.model).items()
    print(f"model: {line}; {', '.join(f'cosine with {name} {v:.2f}' for name, v in found)}")
    if args.video:
        check_video(index, args.video, model)


def check_video(index: dict[str, Path], video: Path, model: AlertCLIP) -> None:
    """Print the rate of a video's files and the rule that made each."""
    files = [path for name, path in index.items() if re.sub(r"__\d+$", "", name) == video.stem]
    if not files:
        raise InputError(f"{video.stem}: no feature file of this name")
    features, frames = [read_features(file) for file in files], probe(video).frames
    rows, rules = extracted_anew(model, video, min(map(len, features)))
    for file, x in zip(files, features, strict=True):
        print(f"\n{file.name}: {len(x)} rows, {frames} frames, 1 per {frames / len(x):.2f}")
        table = rule_table(x[rows], rules)
        print(table.head(10).to_string(index=False, float_format="%.4f"))
        print(verdict(table))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser("python -m detectors.check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("features", type=Path, help="folder of .npy files, (n, D) each")
    add("--video", type=Path, help="the video of one of the files, of the same name")
    add("--model", help="open_clip's name or an exported folder, as for alertclip.score")
    add("--pretrained", help="weights of an open_clip model, such as openai")
    add("--benchmark", default="ucf_crime", help="whose class prompts are compared")
    try:
        check(parser.parse_args(arguments))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
