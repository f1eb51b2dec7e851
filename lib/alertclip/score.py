"""Score your own videos: ``python -m alertclip.score VIDEO_OR_FOLDER... --out DIR``.

Writes a CSV with a score for every frame and a figure per video, and summary.csv, which also says
why a file failed or was skipped and keeps the rows of earlier calls into DIR. With ``--shard i/n``
one of n processes or machines scores its share of the list; together they write one summary.
"""

import argparse
import csv
import math
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from alertclip import anomaly_curve
from alertclip.anomaly_curve import FRAMES, RATE, PromptEmbeddings, ScoreCurve, embed_prompts
from alertclip.attention_maps import attention_maps
from alertclip.backbone import brings_weights, load_backbone
from alertclip.export import META, load_alertclip, require_finite
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from media import files
from media.errors import InputError
from media.video import read_frames

PROMPTS = Path(__file__).resolve().parents[2] / "params" / "prompts.yaml"
HELD = "score held from each sampled frame to the next"
DISPLAY_HEIGHT = 240  # pixels of a key frame in the figure
LOCK = ".summary.lock"
NAME_BYTES = 200  # of an output name: file systems allow 255 with suffix
UTF_8 = {"encoding": "utf-8", "newline": ""}
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 150}

Row = dict[str, Any]
"""A video's row in the summary."""


def load_model(name: str, pretrained: str | None, device: str) -> tuple[AlertCLIP, str]:
    """AlertCLIP for scoring, and a label: which backbone, and whether it is tuned."""
    folder = Path(name.removeprefix("local-dir:"))
    if (folder / META).exists():
        if pretrained:
            raise InputError(f"--model {name}: an export has its own weights; drop --pretrained")
        model, label = load_alertclip(folder), f"tuned Alert-CLIP from {folder.name}"
    elif pretrained or brings_weights(name):
        backbone = load_backbone(name, pretrained)
        model, label = AlertCLIP(backbone), f"{backbone.name}, not tuned for anomalies"
        require_finite(model, f"--model {name}")
    else:
        raise InputError(
            f"--model {name}: no folder with {META} (notebook 04 writes runs/<profile>/export);"
            " for an open_clip model give --pretrained too (such as openai), else it is random"
        )
    return model.to(device).eval(), label


def draw(
    model: AlertCLIP,
    curve: ScoreCurve,
    caption: str,
    spans: Sequence[tuple[float, float]] = (),
    figure: Figure | None = None,
) -> Figure:
    """Draw the anomaly curve, and below it key frames, their attention maps and nearest prompts.

    ``spans`` (s) are annotated events to shade. Draws on ``figure`` (9 x 7.2 inches) if given.
    """
    peaks = curve.peaks()
    numbers = curve.sampled[peaks]
    display = DISPLAY_HEIGHT, round(DISPLAY_HEIGHT * curve.info.width / curve.info.height)
    frames = read_frames(curve.video, numbers, display, curve.info)
    inputs = read_frames(curve.video, numbers, model.image_size, curve.info)
    maps = attention_maps(model, anomaly_curve.to_tensor(model, inputs)).numpy()
    figure = figure or Figure(figsize=(9, 7.2), layout="constrained")
    grid = figure.add_gridspec(3, len(peaks), height_ratios=[1.5, 1, 1])
    axes = figure.add_subplot(grid[0, :])
    _draw_scores(axes, curve.table, spans)
    for i, time in enumerate(curve.info.clock[numbers]):
        letter, place = "ABCDEFGH"[i % 8], axes.get_xaxis_transform()
        axes.axvline(time, color="black", linewidth=0.9, linestyle="--")
        axes.text(time, 1.02, letter, transform=place, ha="center", weight="bold")
        _draw_frame(figure.add_subplot(grid[1, i]), frames[i], f"{letter}  {time:.1f} s")
        map_axes = figure.add_subplot(grid[2, i])
        _draw_frame(map_axes, frames[i], "attention", maps[i])
        prompt = textwrap.fill(curve.captions[peaks[i]], 26)
        map_axes.set_xlabel(prompt, fontsize=9, parse_math=False)
    style = {"x": 0.01, "ha": "left", "parse_math": False}  # a file name may contain $
    figure.suptitle(textwrap.fill(files.printable(curve.video.name), 90), weight="bold", **style)
    figure.supxlabel(textwrap.fill(caption, 117), fontsize=9, **style)
    return figure


def _draw_scores(axes: Axes, table: pd.DataFrame, spans: Sequence[tuple[float, float]]) -> None:
    axes.step(table["time_s"], table["score"], "#0072B2", where="post", label="anomaly score")
    for i, span in enumerate(spans):
        label = None if i else "ground truth"
        axes.axvspan(*span, color="#D55E00", alpha=0.2, linewidth=0, label=label)
    axes.set(xlabel="time (s)", ylabel="anomaly score (0 to 1)", ylim=(-0.02, 1.02))
    axes.set_xlim(0, max(float(table["time_s"].max()) * 1.02, 1e-3))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.1), ncols=2, borderaxespad=0)


def _draw_frame(
    axes: Axes, frame: np.ndarray, title: str, attention: np.ndarray | None = None
) -> None:
    extent = (0, frame.shape[1], frame.shape[0], 0)
    axes.imshow(frame, extent=extent)
    if attention is not None:
        heat = {"cmap": "inferno", "alpha": 0.5, "interpolation": "bilinear", "vmin": 0}
        axes.imshow(attention, extent=extent, vmax=max(float(attention.max()), 1e-12), **heat)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, weight="normal")


def output_names(videos: Sequence[Path], known: Mapping[str, str] | None = None) -> dict[Path, str]:
    """A unique output name per video: its stem, with its folder's name or a hash where needed.

    ``known``: names from earlier calls, which are kept. Names are compared without case, as some
    file systems do; "summary" is reserved.
    """
    known = known or {}
    names, taken = {}, {"summary", *(name.casefold() for name in known.values())}
    stems = Counter(video.stem.casefold() for video in dict.fromkeys(videos))
    for video in dict.fromkeys(videos):
        path, stem = files.printable(video), files.printable(video.stem)
        candidates = [stem] if stems[video.stem.casefold()] == 1 else []
        candidates.append(f"{files.printable(video.parent.name)}__{stem}")
        short = [n for n in candidates if len(n.encode()) <= NAME_BYTES]
        free = [n for n in short if n.casefold() not in taken]
        prefix = stem.encode()[: NAME_BYTES - 9].decode(errors="ignore")
        hashed = f"{prefix}-{files.sha256_json(path)[:8]}"
        names[video] = known.get(path, free[0] if free else hashed)
        taken.add(names[video].casefold())
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if any video failed, 2 if the set-up did."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in ("num_frames", "fps", "stride", "decoders"):
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            parser.error(f"--{name.replace('_', '-')} {value}: give a number above 0")
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, label = load_model(options.model, options.pretrained, device)
        prompts = embed_prompts(model, load_prompts(options.prompts))
        meta = Path(options.model.removeprefix("local-dir:")) / META
        trained = files.read_json(meta) if meta.exists() else {}
        options.num_frames = options.num_frames or trained.get("num_frames", FRAMES)
        print(f"Model: {label}. Score: sigmoid(logit scale x margin), 0 to 1; {HELD}.")
        return _score_all(model, prompts, label, options)
    except InputError as error:  # such as a full disk, which stops all videos
        print(f"error: {error}", file=sys.stderr)
        return 2


def _score_all(
    model: AlertCLIP, prompts: PromptEmbeddings, label: str, options: argparse.Namespace
) -> int:
    summary = options.out / "summary.csv"
    videos, others = files.find_files(options.videos, options.out)
    others = [file for file in others if file.name != LOCK]
    order = {files.printable(path): number for number, path in enumerate([*videos, *others])}
    known = {video: row["output"] for video, row in _read_summary(summary).items()}
    names = output_names(videos, {video: name for video, name in known.items() if name})
    skipped = [_row(file, status="skipped", reason="no video suffix") for file in others]
    _add_rows(summary, order, skipped)
    shard, failed = videos[options.shard], 0
    half = torch.get_num_threads() // 2 if torch.cuda.is_available() else 0
    sampling = options.num_frames, options.fps, options.stride
    results = anomaly_curve.score_videos(model, shard, prompts, *sampling, options.decoders or half)
    for video, result in results:
        row = _report(model, video, result, names[video], label, options.out)
        tqdm.write("{video}: {status} {reason}".format(**row).rstrip(), sys.stdout)
        _append(summary, row)
        failed += row["status"] == "failed"
    _add_rows(summary, order, [])  # sort
    note = f", {len(skipped)} skipped (not {', '.join(files.VIDEO_SUFFIXES)})" if skipped else ""
    print(f"{len(shard) - failed} scored, {failed} failed{note}; see {summary}")
    return 1 if failed else 0


def _read_summary(path: Path) -> dict[str, Row]:
    """Rows of the summary by video, as text; InputError if the file is not a summary."""
    if not path.exists():
        return {}
    try:
        with path.open(**UTF_8) as file:
            return {row["video"]: row for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(f"{path}: not a summary ({error}); give another --out") from None


def _add_rows(summary: Path, order: Mapping[str, int], rows: Sequence[Row]) -> None:
    """Add rows and sort: earlier calls' first, then this call's. Shards may write at once."""
    with files.locked(summary.with_name(LOCK)):
        if not (table := _read_summary(summary) | {row["video"]: row for row in rows}):
            return
        ranked = sorted(table.values(), key=lambda row: order.get(row["video"], -1))
        columns = dict.fromkeys(name for row in ranked for name in row)  # and a user's own
        with files.atomic_write(summary) as temporary, temporary.open("w", **UTF_8) as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(ranked)


def _append(summary: Path, row: Row) -> None:
    """Append a row; the last row of a video counts."""
    with (
        files.locked(summary.with_name(LOCK)),
        files.writing(summary),
        summary.open("a+", **UTF_8) as file,
    ):
        file.seek(0)
        columns = next(csv.reader(file), None)  # perhaps with a user's own
        writer = csv.DictWriter(file, columns or row, "", "ignore", lineterminator="\n")
        if not columns:
            writer.writeheader()
        writer.writerow(row)


def _row(video: Path, **values: object) -> Row:
    row = {"video": files.printable(video), "output": "", "frames": 0, "max": "", "mean": ""}
    return row | {"status": "", "reason": "", "model": ""} | values


def _report(
    model: AlertCLIP, video: Path, result: ScoreCurve | Exception, name: str, label: str, out: Path
) -> Row:
    """Write table and figure of a curve, and return the video's row for the summary."""
    row = _row(video, output=name, model=label)
    try:
        if isinstance(result, Exception):
            raise result
        with files.atomic_write(out / f"{name}.csv") as temporary:
            result.table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        with matplotlib.rc_context(STYLE), files.atomic_write(out / f"{name}.png") as temporary:
            draw(model, result, f"{label}; {HELD}.").savefig(temporary)
    except Exception as error:  # one bad file must not stop the others
        reason = " ".join(files.printable(str(error)).split()) or type(error).__name__
        return row | {"status": "failed", "reason": reason}
    scores = result.table["score"]
    values = {name: f"{round(getattr(scores, name)(), 6):.6g}" for name in ("max", "mean")}
    return row | values | {"frames": len(scores), "status": "scored", "reason": result.info.report}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m alertclip.score", description=anomaly_curve.__doc__)
    add = parser.add_argument
    add("videos", nargs="+", type=Path, metavar="VIDEO_OR_FOLDER")
    add("--out", type=Path, required=True, help="folder for CSV and PNG files")
    name = "exported Alert-CLIP folder, local-dir:PATH, an open_clip name, or miniclip"
    add("--model", default="miniclip", help=f"{name} (default: trained on rendered scenes only)")
    add("--pretrained", help="open_clip tag or safetensors file for an open_clip --model")
    add("--prompts", type=Path, default=PROMPTS)
    frames = f"frames per window (default: as the model was trained; untuned {FRAMES})"
    add("--num-frames", type=int, help=frames)
    add("--fps", type=float, default=RATE, help="samples per second of video")
    add("--stride", type=int, help="native frames per sample; overrides fps")
    decoders = "videos decoded at a time (default: 1; with a GPU, half of the cores)"
    add("--decoders", type=int, help=decoders)
    shard = "score only every n-th video, from the i-th; give each process the same list"
    add("--shard", type=files.parse_shard, default=files.WHOLE, metavar="i/n", help=shard)
    return parser


if __name__ == "__main__":
    sys.exit(main())
