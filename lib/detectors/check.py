"""Check feature files: layout, norm, feature space and, given a video, the extraction rule.

python -m detectors.check UCFClipFeatures
python -m detectors.check UCFClipFeatures --model ViT-B-16-quickgelu --pretrained openai
python -m detectors.check UCFClipFeatures --model ... --video Abuse001_x264.mp4

``--model`` adds the mean cosine with class prompts, which reveals features of another model.
``--video`` also extracts some of its features again under each documented rule (resize, crop, frame
of a snippet); the table shows which rule reproduces the file.

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

SAMPLE = 24  # files read, evenly spaced
# Eleven real files of OpenAI's ViT-B/16 have a mean cosine with class prompts of .20 to .25. In
# another model's space of D dimensions it is 0 with a deviation of 1 / sqrt(D), .04 for 512.
LEAST_COSINE = 0.1
WIDTHS = {512: "ViT-B/16 or ViT-B/32", 640: "RN101 or RN50x4", 768: "ViT-L/14",
          1024: "RN50, ViT-H/14 or I3D", 2048: "I3D or ResNet-50"}  # fmt: skip
PEAK = 442  # dimension with .5 to .7 of the mean direction in those files, whatever the video
B16 = "OpenAI's ViT-B/16, as VadCLIP's and AnomalyCLIP's are: backbone=ViT-B-16-quickgelu"
ROWS = 6  # features of a video extracted again, evenly spaced
EXACT = 0.999  # least mean cosine of a rule that fits; decoders and half precision differ
ALIKE = 2e-4  # rules whose cosines differ by less cannot be told apart
Rules = dict[tuple[str, str, str], np.ndarray]  # features (n, D) by resize, crop and frames


class FeatureSummary(NamedTuple):
    """A sample of files: the first path, mean row norm of each file, mean unit row (D,)."""

    first: Path
    norms: np.ndarray
    direction: np.ndarray


def feature_index(folder: Path) -> dict[str, Path]:
    """Return the .npy files below ``folder`` by stem; InputError if none, or two share a name."""
    index: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.npy")):
        if path.stem in index:
            raise InputError(f"{path} and {index[path.stem]} share a name; keep one")
        index[path.stem] = path
    if not index:
        raise InputError(f"{folder}: no feature files (.npy) below it; check the path of features")
    return index


def summarise(files: Sequence[Path]) -> FeatureSummary:
    """Summarise up to ``SAMPLE`` files; InputError if widths differ or a row is zero."""
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, SAMPLE).astype(int))]
    norms, means = [], []
    for path in chosen:
        norm = np.linalg.norm(features := read_features(path), axis=1, keepdims=True)
        if not norm.all():
            raise InputError(f"{path}: row {norm.argmin()} is zero; extract it again")
        means.append((features / norm).mean(axis=0))
        norms.append(norm.mean())
        if (width := features.shape[1]) != len(means[0]):
            raise InputError(f"{path}: width {width}, but {chosen[0]} has {len(means[0])}")
    return FeatureSummary(chosen[0], np.array(norms), np.mean(means, axis=0))


@torch.inference_mode()
def anchors(model: AlertCLIP, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Return unit vectors (n, D) that mark a model's space: class prompts, grey and noisy image."""
    generator = torch.Generator().manual_seed(0)  # leaves the global seed alone
    noise = torch.randint(0, 256, (3, *model.image_size), generator=generator)
    images = torch.stack([torch.full_like(noise, 128), noise]).to(torch.uint8)
    v = normalize(model.image_features(images.to(model.mean.device)).float(), dim=-1)
    embeddings = {"class prompts": model.encode_text(list(prompts)).float(), "blank images": v}
    return {name: vectors.cpu().numpy() for name, vectors in embeddings.items()}


def likely_model(summary: FeatureSummary) -> str:
    """Guess which model made features from their width and mean direction."""
    b16 = len(summary.direction) == 512 and np.abs(summary.direction).argmax() == PEAK
    return B16 if b16 else WIDTHS.get(len(summary.direction), "an unknown model")


def check_space(
    summary: FeatureSummary, known: Mapping[str, np.ndarray], backbone: str
) -> dict[str, float]:
    """Return the mean cosine with each anchor; InputError if features are not ``backbone``'s."""
    width, have = next(iter(known.values())).shape[1], len(summary.direction)
    where = f"{summary.first}: features of"
    instead = f"likely of {likely_model(summary)}; set backbone and pretrained to that model"
    if have != width:
        raise InputError(f"{where} width {have}, but {backbone} makes {width}; they are {instead}")
    cosines = {name: float((v @ summary.direction).mean()) for name, v in known.items()}
    if max(cosines.values()) < LEAST_COSINE:
        listed = ", ".join(f"{value:.2f} with {name}" for name, value in cosines.items())
        least = f"their mean cosine is {listed}, where {LEAST_COSINE} is the least"
        raise InputError(f"{where} another model than {backbone}: {least}; they are {instead}")
    unit = np.isclose(summary.norms, 1, atol=0.02)
    if unit.any() and not unit.all():
        count = f"{unit.sum()} of {len(unit)} sampled files hold unit rows"
        raise InputError(f"{where} two kinds: {count} and the others do not; bring all to one form")
    return cosines


def check_rate(rows: dict[str, int], truths: list[VideoTruth], length: int, where: Path) -> None:
    """Raise InputError if ``rows`` of ``length`` frames per video do not fit the events' times."""
    ends = [t.spans[-1][1] / (length * rows[t.name]) for t in truths if t.spans and t.name in rows]
    share = float(np.median(ends)) if ends else 0.5
    if not 0.07 <= share <= 1.1:
        what = f"at {length} frames per feature, the last event ends at {share:.2f} of a video"
        advice = "snippet_length (NAME__CROP.npy) or frame_stride (NAME.npy) to the features' rate"
        raise InputError(f"{where}: {what} (median; .07 to 1.1 is plausible): set {advice}")


def extracted_anew(model: AlertCLIP, path: Path, count: int) -> tuple[np.ndarray, Rules]:
    """Pick some rows of a video's ``count`` features and extract them again under every rule."""
    info, size = probe(path), model.image_size
    length = max(1, round(info.frames / count))
    last = min(count, max(1, info.frames // length)) - 1
    rows = np.unique(np.linspace(0, last, ROWS).round().astype(int))
    numbers = np.minimum(rows[:, None] * length + np.arange(length), info.frames - 1)
    scaled = np.multiply(size, (info.height, info.width)) / min(info.height, info.width)
    resized = [
        ("squashed", size, 0),  # the whole frame
        ("squashed", np.multiply(size, MARGIN), 10),
        ("short side", scaled * MARGIN, 10),
        ("short side, no margin", scaled, 1),  # CLIP's own
    ]
    features: Rules = {}
    for resize, shape, crops in resized:
        height, width = np.round(shape).astype(int).tolist()
        frames = torch.from_numpy(read_frames(path, numbers.ravel(), (height, width), info))
        views = {f"crop {c} of {height} x {width}": c for c in range(crops)} or {"whole frame": 0}
        for crop, number in views.items():
            view = take_crop(frames, size, number)
            v = embed_crops(model, view, SnippetRule(1, 1, 1)).reshape(len(rows), length, -1)
            mean = v.mean(axis=1)
            choices = {"first": v[:, 0], "middle": v[:, length // 2], f"mean of {length}": mean}
            for name, u in choices.items() if length > 1 else [("each", mean)]:
                features[resize, crop, name] = normalize(torch.from_numpy(u), dim=-1).numpy()
    return rows, features


def rule_table(features: np.ndarray, rules: Rules) -> pd.DataFrame:
    """Rank rules by mean cosine with features (n, D): columns resize, crop, frames, cosine."""
    unit = normalize(torch.from_numpy(features).float(), dim=-1).numpy()
    rows = [(*rule, (u * unit).sum(axis=1).mean()) for rule, u in rules.items()]
    table = pd.DataFrame(rows, columns=["resize", "crop", "frames", "cosine"])
    return table.sort_values("cosine", ascending=False, kind="stable", ignore_index=True)


def verdict(table: pd.DataFrame) -> str:
    """Return a sentence on which rule fits, or the nearest one."""
    best = table.iloc[0]
    rule = f"frames: {best.frames}; {best.resize}, {best.crop}"
    alike = int((table["cosine"] > best.cosine - ALIKE).sum())
    if best.cosine < EXACT:
        return f"no rule fits; nearest: {rule} (cosine {best.cosine:.4f}, {EXACT} would fit)"
    if alike > 1:
        return f"{alike} rules give the same here, first {rule}: take another video"
    return f"fits: {rule} (cosine {best.cosine:.4f})"


def check(args: argparse.Namespace) -> None:
    """Run and print the checks of the command line; InputError if features do not fit the model."""
    if args.video and not args.model:
        raise InputError("--video needs --model, whose features are compared")
    index = feature_index(args.features)
    summary = summarise(list(index.values()))
    low, high = summary.norms.min(), summary.norms.max()
    suffixes = Counter("".join(re.findall(r"__\d+$", name)) for name in index)
    names = ", ".join(f"{n} as NAME{end}.npy" for end, n in sorted(suffixes.items()))
    print(f"layout: {names}; {len(summary.direction)} wide")
    print(f"length of a row: {low:.2f} to {high:.2f}{' (unit)' if high < 1.02 else ''}")
    print(f"likely model: {likely_model(summary)}")
    if not args.model:
        return
    from alertclip.score import load_model  # slow to import; extraction does not need it

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, line = load_model(args.model, args.pretrained, device)
    benchmark = load_benchmark(args.benchmark)
    references = anchors(model, class_prompts(benchmark, benchmark.classes))
    cosines = check_space(summary, references, args.model).items()
    print(f"model: {line}; {', '.join(f'cosine with {name} {v:.2f}' for name, v in cosines)}")
    if args.video:
        check_video(index, args.video, model)


def check_video(index: dict[str, Path], video: Path, model: AlertCLIP) -> None:
    """Print the frames per feature of a video's files and the rule that made each."""
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
