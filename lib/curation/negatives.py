"""Write hard negatives with a chat model: ask, check, repair, and publish in VAGTA's format.

``python -m curation.negatives FILE --videos FOLDER --model NAME --base-url URL`` writes them for
the captions in FILE, an annotation or hard-negative file of VAGTA.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alertclip.records import CLOCK, Item, item_key, region_span
from alertclip.vagta import load_surrogate, load_vagta
from curation import PARAMS
from curation.chat_models import Endpoint, NoReply, Results
from curation.contract import MAX_TOKENS, Violation, read_answer
from media.errors import InputError
from media.files import locked, progress, read_json, sha256_json, write_json
from media.survey import uniform_indices
from media.video import DecodeError, probe, read_frames

PROMPTS = PARAMS / "negative_prompts.yaml"
LONGER_SIDE = 448  # pixels of an attached frame
REPAIRS = 2  # further answers asked for after a broken one
SILENT = 5  # consecutive units without a reply after which the endpoint counts as down
Row = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """A caption to rewrite: of a region of an abnormal clip, or of a whole normal clip."""

    video: str
    region_index: int
    caption: str
    abnormal: bool
    timestamps: tuple[float, float] | None = None
    frames_25: tuple[int, int] | None = None  # on the 25 fps clock from 1
    span: tuple[float, float] | None = None  # s; None = the whole video

    @property
    def key(self) -> str:
        """Unique name: clip and region."""
        return f"{item_key(self.video, self.timestamps)} region {self.region_index}"


def units(items: Sequence[Item]) -> list[Unit]:
    """One unit per region, in order; the span of a region without one is its whole segment."""
    regions = []
    for item in items:
        for index, region in enumerate(item.regions):
            span = region_span(region)
            frames = span and tuple(round(second * CLOCK) + 1 for second in span)
            about = item.video, index, region.caption, item.is_abnormal, item.timestamps
            regions.append(Unit(*about, frames, span or item.timestamps))
    return regions


@dataclass(frozen=True)
class NegativePrompts:
    """The prompt file: system prompt, one task per direction, and the request for a repair."""

    system: str
    abnormal_to_normal: str
    normal_to_abnormal: str
    repair: str

    def task(self, unit: Unit, answer: str = "", broken: Sequence[Violation] = ()) -> str:
        """The prompt for a unit, with the last answer and its violations if it was broken."""
        text = self.abnormal_to_normal if unit.abnormal else self.normal_to_abnormal
        # As JSON strings, caption and answer cannot break out of their quotes.
        caption, quoted = (json.dumps(t, ensure_ascii=False) for t in (unit.caption, answer[:1000]))
        details = "; ".join(violation.detail for violation in broken)
        repair = self.repair.format(answer=quoted, violations=details) if broken else ""
        return text.format(caption=caption, tokens=MAX_TOKENS) + repair


def load_negative_prompts(path: Path | str = PROMPTS) -> NegativePrompts:
    """Read a prompt file; raises InputError naming what is missing, unknown or not text."""
    try:
        prompts = NegativePrompts(**yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        for abnormal in (True, False):
            prompts.task(Unit("", 0, "", abnormal), "", [Violation("", None, "")])
    except (OSError, yaml.YAMLError, TypeError, AttributeError, LookupError, ValueError) as error:
        raise InputError(f"{path}: not a prompt file in YAML ({error})") from None
    return prompts


class Writer:
    """Asks a chat model, showing it ``frames`` of abnormal units (0, unlike the paper: none)."""

    def __init__(
        self, model: Endpoint, prompts: NegativePrompts, videos: Path, frames: int = 4
    ) -> None:
        self.model, self.prompts, self.videos, self.frames = model, prompts, videos, frames
        self.name = f"{model.name}, prompts {sha256_json(vars(prompts))[:12]}, {frames} frames"

    def digest(self, unit: Unit) -> str:
        """Key of a unit's result: changes with unit, model, prompts and number of frames."""
        return sha256_json([unit.key, unit.caption, unit.abnormal, self.name])[:24]

    def write(self, unit: Unit) -> Row:
        """A unit's status, attempts, negatives, violations of the last answer, and reason.

        status: ok, broken (contract, after REPAIRS more answers), silent (no reply) or
        unreadable (video); negatives are empty unless ok.
        """
        answer, broken, row = "", [], {"negatives": [], "violations": [], "reason": ""}
        for attempt in range(1, REPAIRS + 2):
            row["attempts"] = attempt
            try:
                answer = self.model.ask(self.prompts.task(unit, answer, broken), self._frames(unit))
            except (NoReply, DecodeError) as error:
                status = "silent" if isinstance(error, NoReply) else "unreadable"
                return row | {"status": status, "reason": str(error)}
            negatives, broken = read_answer(answer, unit.caption)
            if not broken:
                return row | {"status": "ok", "negatives": negatives}
        return row | {"status": "broken", "violations": [v.kind for v in broken]}

    def _frames(self, unit: Unit) -> Sequence[np.ndarray]:
        if not (unit.abnormal and self.frames):
            return ()
        path = self.videos / unit.video
        info = probe(path)
        start, end = unit.span or (0.0, info.duration)
        scale = min(1.0, LONGER_SIDE / max(info.height, info.width))
        size = round(info.height * scale), round(info.width * scale)
        indices = uniform_indices(info, start, end, self.frames)
        return list(read_frames(path, indices, size))


def write_all(writer: Writer, chosen: Sequence[Unit], path: Path) -> dict[str, Row]:
    """Results by digest, appended to ``path`` (JSONL); units that are ok there are not asked again.

    Raises InputError if another process writes the file, or ``SILENT`` units in a row get no reply.
    """
    with locked(path.with_name(f".{path.name}.lock"), wait=False):
        results, silent = Results(path), 0
        done = {digest for digest, row in results.rows.items() if row.get("status") == "ok"}
        pending = [unit for unit in chosen if writer.digest(unit) not in done]
        for unit in progress(pending, len(pending), "writing hard negatives"):
            row = {"digest": writer.digest(unit), "unit": unit.key, "time": int(time.time())}
            row |= writer.write(unit)
            results.add(row)
            silent = silent + 1 if row["status"] == "silent" else 0
            if silent >= SILENT:
                reason = f"{silent} units in a row got no reply; the last: {row['reason']}"
                raise InputError(f"{reason}. Check the endpoint and rerun: finished units are kept")
    return results.rows


def published(writer: Writer, chosen: Sequence[Unit], rows: dict[str, Row], meta_file: str) -> Row:
    """The results in VAGTA's hard-negative format; a unit without negatives has an empty list."""
    results = [rows.get(writer.digest(unit), {}) for unit in chosen]
    items = [
        {"video": u.video, "region_index": u.region_index, "frames_25": u.frames_25,
         "region_caption": u.caption, "hard_negative": row.get("negatives", []),
         "timestamps": u.timestamps}
        for u, row in zip(chosen, results, strict=True)
    ]  # fmt: skip
    created = min((row["time"] for row in results if row), default=0)
    return {"meta_file": meta_file, "model": writer.name, "created_at": created, "items": items}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; prints the path and the number of units by status."""
    parser = argparse.ArgumentParser(prog="python -m curation.negatives", description=__doc__)
    add = parser.add_argument
    add("file", type=Path, help="annotation or hard-negative file with the captions")
    add("--videos", type=Path, default=Path(), help="root folder of the file's video paths")
    add("--out", type=Path, default=Path("negatives.json"), help="in VAGTA's format; .jsonl beside")
    add("--base-url", required=True, help="such as http://localhost:8000/v1; key: OPENAI_API_KEY")
    add("--model", required=True, help="name of the model at that URL")
    add("--prompts", default=PROMPTS, help="prompt file")
    add("--frames", type=int, default=4, help="frames shown per abnormal region; 0 = none")
    args = parser.parse_args(arguments)
    try:
        prompts = load_negative_prompts(args.prompts)
        captions_only = isinstance(read_json(args.file), dict)
        items, _ = (load_surrogate if captions_only else load_vagta)(args.file)
        chosen = units(items)
        model = Endpoint(args.base_url, args.model, prompts.system)
        writer = Writer(model, prompts, args.videos, args.frames)
        rows = write_all(writer, chosen, args.out.with_suffix(".jsonl"))
        write_json(args.out, published(writer, chosen, rows, args.file.name))
    except InputError as error:
        sys.exit(str(error))
    counts = Counter(rows[writer.digest(unit)]["status"] for unit in chosen)
    print(f"{args.out}: " + ", ".join(f"{number} {status}" for status, number in counts.items()))


if __name__ == "__main__":
    main()
