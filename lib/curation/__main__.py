"""Screen your own videos: ``python -m curation FOLDER --out screening.csv``.

Each class is a folder of videos; a folder with "Normal" in its name holds normal ones.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from alertclip.prompts import load_prompts
from alertclip.records import Item
from alertclip.score import load_model
from curation import PARAMS
from curation.screening import DROP, screen
from media.errors import InputError
from media.files import VIDEO_SUFFIXES, files_below, is_video, write_table


def find_videos(folder: Path) -> list[Item]:
    """Videos below ``folder``, sorted by name; raises InputError if there are none."""
    files = list(files_below(folder))
    paths = [path for path in files if is_video(path)]
    if not paths:
        raise InputError(f"{folder}: no videos in it ({', '.join(VIDEO_SUFFIXES)})")
    if len(files) > len(paths):
        print(f"{folder}: {len(files) - len(paths)} files skipped, not videos by their suffix")
    return [Item(p.relative_to(folder).as_posix(), "", ()) for p in paths]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 2 on an InputError. A broken video is a row, not an error."""
    parser = argparse.ArgumentParser(prog="python -m curation", description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="VIDEOS_FOLDER")
    add("--out", type=Path, required=True, help="the CSV to write")
    add("--model", default="miniclip", help="as for alertclip.score")
    add("--pretrained", help="open_clip tag or safetensors file for --model")
    add("--prompts", type=Path, default=PARAMS / "prompts.yaml")
    add("--overrides", type=Path, help="CSV: clip, override (keep or drop), reason")
    add("--workers", type=int, default=2)
    args = parser.parse_args(arguments)
    try:
        items, prompts = find_videos(args.folder), load_prompts(args.prompts)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, _ = load_model(args.model, args.pretrained, device)
        store = args.out.parent / f".{args.out.stem}"
        table = screen(args.folder, items, model, prompts, store, args.workers, args.overrides)
        write_table(table, args.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    dropped = int((table["decision"] == DROP).sum())
    print(f"{len(table) - dropped} kept, {dropped} dropped; see {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
