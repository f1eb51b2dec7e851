"""Command line: ``python -m alertclip.score VIDEO... --out DIR``; one bad file stops nothing.

With ``--shard i/n`` one of n processes or machines scores its share of the same list of videos; the
last to finish merges the summaries into the one that a single process would have written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from alertclip import score
from alertclip.errors import InputError
from alertclip.files import locked, read_json, write_json
from alertclip.model import AlertCLIP
from alertclip.prompts import load_prompts
from alertclip.score import (
    FRAMES,
    HELD,
    RATE,
    Precision,
    PromptEmbeddings,
    ScoreCurve,
    draw,
    embed_prompts,
    score_videos,
)
from alertclip.score.models import load_model, trained_frames
from alertclip.shards import WHOLE, Shard, merge, parse_shard
from companion import figures
from companion.profiles import PROFILES


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
    try:
        return _score_all(model, prompts, line, options)
    except InputError as error:  # a full disk stops every video
        print(f"error: {error}", file=sys.stderr)
        return 2


def _score_all(
    model: AlertCLIP, prompts: PromptEmbeddings, line: str, options: argparse.Namespace
) -> int:
    names = output_names(options.videos)
    mine = options.shard.take(list(names))
    rows: dict[Path, dict[str, object]] = {}
    for video, found in score_videos(model, mine, prompts, *_sampling(options)):
        rows[video] = _report(model, video, found, names[video], line, options)
        print("{video}: {status} {reason}".format(**rows[video]).rstrip(), flush=True)
        if options.shard == WHOLE:
            figures.write_table(pd.DataFrame(_in_order(rows, mine)), options.out / "summary.csv")
    if options.shard != WHOLE:
        texts = [str(video) for video in names]
        merge_summaries(options.out, options.shard, texts, _in_order(rows, mine))
    failed = sum(row["status"] == "failed" for row in rows.values())
    print(f"{len(rows) - failed} scored, {failed} failed; see {options.out / 'summary.csv'}")
    return 1 if failed else 0


def _sampling(options: argparse.Namespace) -> tuple[int, float, int | None, Precision, int]:
    spare = torch.get_num_threads() // 2 if torch.cuda.is_available() else 0
    decoders = options.decoders or max(1, spare)
    return options.num_frames, options.fps, options.stride, "auto", decoders


def _in_order(
    rows: dict[Path, dict[str, object]], videos: Sequence[Path]
) -> list[dict[str, object]]:
    return [rows[video] for video in videos if video in rows]


def merge_summaries(
    out: Path, shard: Shard, videos: Sequence[str], rows: Sequence[dict[str, object]]
) -> None:
    """Keep the rows of ``shard``; once all shares of ``videos`` are there, write summary.csv."""
    folder = out / "shards"
    files = [folder / f"{number}-of-{shard.count}.json" for number in range(1, shard.count + 1)]
    with locked(folder / ".lock"):  # two may end at once
        write_json(files[shard.number - 1], {"videos": videos, "rows": rows})
        shares = [read_json(file) for file in files if file.exists()]
        fresh = [share["rows"] for share in shares if share["videos"] == videos]
        if len(fresh) == shard.count:
            figures.write_table(pd.DataFrame(merge(fresh)), out / "summary.csv")
        else:
            print(f"share {shard}: {len(fresh)} of {shard.count} shares are done")


def _report(
    model: AlertCLIP,
    video: Path,
    found: ScoreCurve | Exception,
    name: str,
    line: str,
    options: argparse.Namespace,
) -> dict[str, object]:
    """Write table and figure of a curve; the video's row of the summary."""
    row = {"video": str(video), "output": name, "frames": 0, "max": None, "mean": None}
    try:
        if isinstance(found, Exception):
            raise found
        table = found.table
        figures.save(draw(model, found, f"{line}; {HELD}."), name, table, options.out)
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
    parser.add_argument(
        "--decoders",
        type=_count,
        help="videos decoded at a time (default: 1; with a GPU, half of the cores)",
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default=WHOLE,
        metavar="i/n",
        help="score only every n-th video, from the i-th; give each process the same list",
    )
    return parser


def _shard(text: str) -> Shard:
    try:
        return parse_shard(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} must be a whole number above 0")
    return int(text)


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value
