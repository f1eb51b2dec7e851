"""Score your own videos: ``python -m alertclip.score VIDEO... --out DIR``.

Each video gets a CSV with a score for every frame and a figure; one bad file stops nothing, and
summary.csv gives the reason. With ``--shard i/n`` one of n processes or machines scores its share
of the same list; the last to finish merges the summaries into the one that a single process writes.
"""

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from alertclip import anomaly_curve
from alertclip.anomaly_curve import (
    FRAMES,
    RATE,
    PromptEmbeddings,
    ScoreCurve,
    embed_prompts,
    score_videos,
)
from alertclip.attention_maps import attention_maps
from alertclip.backbone import brings_weights, load_backbone
from alertclip.errors import InputError
from alertclip.export import META, load_alertclip
from alertclip.files import WHOLE, Shard, atomic_write, locked, parse_shard, read_json, write_json
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from alertclip.video import read_frames

PROMPTS = Path(__file__).resolve().parents[2] / "params" / "prompts.yaml"
HELD = "score held from each sampled frame to the next"
DISPLAY_HEIGHT = 240  # pixels of a key frame in the figure
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 150}

Row = dict[str, object]
"""A video's row of the summary."""


def load_model(name: str, pretrained: str | None, device: str) -> tuple[AlertCLIP, str]:
    """An AlertCLIP for scoring and one line that says which backbone it is and if it is tuned."""
    folder = Path(name.removeprefix("local-dir:"))
    if (folder / META).exists():
        model, line = load_alertclip(folder), f"tuned Alert-CLIP from {folder.name}"
    elif pretrained or brings_weights(name):
        backbone = load_backbone(name, pretrained)
        model, line = AlertCLIP(backbone), f"{backbone.name}, not tuned for anomalies"
    else:
        raise InputError(
            f"--model {name}: no folder with {META} (notebook 04 writes runs/<profile>/export);"
            " for an open_clip model give --pretrained too (such as openai), else it is random"
        )
    return model.to(device).eval(), line


def draw(
    model: AlertCLIP,
    curve: ScoreCurve,
    caption: str,
    spans: Sequence[tuple[float, float]] = (),
    figure: Figure | None = None,
) -> Figure:
    """The curve over its key frames, the attention of the visual tower in them, and top captions.

    ``spans`` (s) are annotated events to shade. Draws on ``figure`` (9 x 7.2 inches) if given.
    """
    peaks = curve.peaks()
    numbers = curve.sampled[peaks]
    display = DISPLAY_HEIGHT, round(DISPLAY_HEIGHT * curve.info.width / curve.info.height)
    shown = read_frames(curve.video, numbers, display, curve.info)
    seen = read_frames(curve.video, numbers, model.image_size, curve.info)
    maps = attention_maps(model, anomaly_curve.to_tensor(model, seen)).numpy()
    figure = figure or Figure(figsize=(9, 7.2), layout="constrained")
    grid = figure.add_gridspec(3, len(peaks), height_ratios=[1.5, 1, 1])
    axes = figure.add_subplot(grid[0, :])
    _draw_scores(axes, curve.table, spans)
    for i, time in enumerate(curve.info.clock[numbers]):
        letter, place = "ABCDEFGH"[i % 8], axes.get_xaxis_transform()
        axes.axvline(time, color="black", linewidth=0.9, linestyle="--")
        axes.text(time, 1.02, letter, transform=place, ha="center", weight="bold")
        _draw_frame(figure.add_subplot(grid[1, i]), shown[i], f"{letter}  {time:.1f} s")
        last = figure.add_subplot(grid[2, i])
        _draw_frame(last, shown[i], "attention", maps[i])
        last.set_xlabel(textwrap.fill(curve.captions[peaks[i]], 26), fontsize=9)
    figure.suptitle(curve.video.name, x=0.01, ha="left", weight="bold")
    figure.supxlabel(textwrap.fill(caption, 117), x=0.01, ha="left", fontsize=9)
    return figure


def _draw_scores(axes: Axes, table: pd.DataFrame, spans: Sequence[tuple[float, float]]) -> None:
    style = {"color": "#0072B2", "drawstyle": "steps-post", "label": "anomaly score"}
    axes.plot(table["time_s"], table["score"], **style)
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


def output_names(videos: Sequence[Path]) -> dict[Path, str]:
    """A distinct output name per video: its base name, with parent folders where two share it.

    Compared without case, as some file systems do; "summary" is taken by the summary.
    """
    names, taken = {}, {"summary"}
    videos = list(dict.fromkeys(video.resolve() for video in videos))
    stems = Counter(video.stem.casefold() for video in videos)
    for video in videos:
        parts = [*video.parts[1:-1], video.stem]
        first = 1 if stems[video.stem.casefold()] == 1 else 2
        candidates = ["__".join(parts[-depth:]) for depth in range(first, len(parts) + 1)]
        candidates.append(candidates[-1] + video.suffix.replace(".", "_"))  # clip.mp4 and clip.avi
        names[video] = next((n for n in candidates if n.casefold() not in taken), candidates[-1])
        taken.add(names[video].casefold())
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if any video failed, 2 if the set-up did."""
    options = _parser().parse_args(arguments)
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, line = load_model(options.model, options.pretrained, device)
        prompts = embed_prompts(model, load_prompts(options.prompts))
        meta = Path(options.model.removeprefix("local-dir:")) / META
        trained = read_json(meta) if meta.exists() else {}
        options.num_frames = options.num_frames or trained.get("num_frames", FRAMES)
        print(f"Model: {line}. Score: sigmoid(logit scale x margin), 0 to 1; {HELD}.")
        return _score_all(model, prompts, line, options)
    except InputError as error:  # such as a full disk, which stops every video
        print(f"error: {error}", file=sys.stderr)
        return 2


def _score_all(
    model: AlertCLIP, prompts: PromptEmbeddings, line: str, options: argparse.Namespace
) -> int:
    names, summary = output_names(options.videos), options.out / "summary.csv"
    mine, rows = options.shard.take(list(names)), {}
    spare = torch.get_num_threads() // 2 if torch.cuda.is_available() else 0
    how = options.num_frames, options.fps, options.stride, options.decoders or spare
    for video, found in score_videos(model, mine, prompts, *how):
        rows[video] = _report(model, video, found, names[video], line, options.out)
        tqdm.write("{video}: {status} {reason}".format(**rows[video]).rstrip(), sys.stdout)
        done = [rows[video] for video in mine if video in rows]
        if options.shard == WHOLE:
            _write_table(pd.DataFrame(done), summary)
    if options.shard != WHOLE:
        _merge_summaries(summary, options.shard, [str(v) for v in names], [rows[v] for v in mine])
    failed = sum(row["status"] == "failed" for row in rows.values())
    print(f"{len(rows) - failed} scored, {failed} failed; see {summary}")
    return 1 if failed else 0


def _merge_summaries(
    summary: Path, shard: Shard, videos: Sequence[str], rows: Sequence[Row]
) -> None:
    """Keep the rows of ``shard``; once all shares of ``videos`` are there, write the summary."""
    folder = summary.parent / "shards"
    files = [folder / f"{number}-of-{shard.count}.json" for number in range(1, shard.count + 1)]
    with locked(folder / ".lock"):  # two may end at once
        write_json(files[shard.number - 1], {"videos": videos, "rows": rows})
        shares = [read_json(file) for file in files if file.exists()]
        fresh = [share["rows"] for share in shares if share["videos"] == videos]
        if len(fresh) == shard.count:
            rows = [fresh[i % shard.count][i // shard.count] for i in range(len(videos))]
            _write_table(pd.DataFrame(rows), summary)
        else:
            print(f"share {shard}: {len(fresh)} of {shard.count} shares are done")


def _report(
    model: AlertCLIP, video: Path, found: ScoreCurve | Exception, name: str, line: str, out: Path
) -> Row:
    """Write table and figure of a curve; the video's row of the summary."""
    row = {"video": str(video), "output": name, "frames": 0, "max": None, "mean": None}
    try:
        if isinstance(found, Exception):
            raise found
        _write_table(found.table, out / f"{name}.csv")
        with matplotlib.rc_context(STYLE), atomic_write(out / f"{name}.png") as temporary:
            draw(model, found, f"{line}; {HELD}.").savefig(temporary)
    except Exception as error:  # whatever is wrong with one file must not stop the others
        reason = " ".join(str(error).split()) or type(error).__name__
        return row | {"status": "failed", "reason": reason, "model": line}
    scores = found.table["score"]
    values = {"frames": len(scores), "max": round(scores.max(), 6), "mean": round(scores.mean(), 6)}
    return row | values | {"status": "scored", "reason": found.info.report, "model": line}


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m alertclip.score", description=anomaly_curve.__doc__)
    add = parser.add_argument
    add("videos", nargs="+", type=Path, metavar="VIDEO")
    add("--out", type=Path, required=True, help="folder for CSV and PNG files")
    name = "exported Alert-CLIP folder, local-dir:PATH, an open_clip name, or miniclip"
    add("--model", default="miniclip", help=f"{name} (default: trained on rendered scenes only)")
    add("--pretrained", help="open_clip tag or safetensors file for --model")
    add("--prompts", type=Path, default=PROMPTS)
    frames = f"frames per window (default: as the model was trained; untuned {FRAMES})"
    add("--num-frames", type=_count, help=frames)
    add("--fps", type=_rate, default=RATE, help="samples per second of video")
    add("--stride", type=_count, help="native frames per sample; overrides fps")
    decoders = "videos decoded at a time (default: 1; with a GPU, half of the cores)"
    add("--decoders", type=_count, help=decoders)
    shard = "score only every n-th video, from the i-th; give each process the same list"
    add("--shard", type=parse_shard, default=WHOLE, metavar="i/n", help=shard)
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
