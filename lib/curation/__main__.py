"""Screen one's own videos: ``python -m curation FOLDER --out screening.csv``.

Each class is a folder of videos; a folder with "Normal" in its name holds normal ones.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from alertclip.errors import InputError
from alertclip.prompts import load_prompts
from alertclip.records import Item
from alertclip.score import load_model
from companion.figures import write_table
from companion.profiles import PROFILES
from curation.screening import DROP, Settings, screen

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v")


def find_videos(folder: Path, classes: Sequence[str] = ()) -> list[Item]:
    """Videos below ``folder`` by name, of the given classes only, if any are given.

    Raises InputError if there is no video, or a class without one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEOS and p.is_file())
    items = [Item(p.relative_to(folder).as_posix(), "", ()) for p in paths]
    if missing := set(classes) - {item.class_name for item in items}:
        raise InputError(f"{folder}: no videos in a folder named {', '.join(sorted(missing))}")
    kept = [item for item in items if not classes or item.class_name in classes]
    if not kept:
        raise InputError(f"{folder}: no videos ({', '.join(VIDEOS)})")
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 2 if the set-up fails. A broken video is a row, not an error."""
    parser = argparse.ArgumentParser(prog="python -m curation", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="VIDEOS_FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write")
    parser.add_argument("--classes", nargs="+", default=[], help="default: all folders' names")
    parser.add_argument("--model", default="miniclip", help="as for alertclip.score")
    parser.add_argument("--pretrained", help="open_clip tag or safetensors file for --model")
    parser.add_argument("--prompts", type=Path, default=PROFILES / "prompts.yaml")
    parser.add_argument("--overrides", type=Path, help="CSV: clip, override, value, reason")
    parser.add_argument("--no-veto", action="store_true", help="the published rule alone")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    try:
        table = _screen(options)
        write_table(table, options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    dropped = int((table["decision"] == DROP).sum())
    print(f"{len(table) - dropped} kept, {dropped} dropped; see {options.out}")
    return 0


def _screen(options: argparse.Namespace) -> pd.DataFrame:
    items = find_videos(options.folder, options.classes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, _ = load_model(options.model, options.pretrained, device)
    settings = Settings(veto=not options.no_veto, overrides=options.overrides)
    store = options.out.parent / f".{options.out.stem}"
    prompts = load_prompts(options.prompts)
    return screen(options.folder, items, model, prompts, store, options.workers, settings)


if __name__ == "__main__":
    sys.exit(main())
