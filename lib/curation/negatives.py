"""Write hard negatives for a split: ask, check, repair, record, publish in VAGTA's format.

``python -m curation.negatives --profile mini`` writes with the mini world's rules;
``--writer endpoint --base-url URL --model NAME`` asks a vision-language model.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alertclip.errors import InputError
from alertclip.files import locked, progress, sha256_json, write_json
from alertclip.video import DecodeError
from companion.profiles import Params, load_params, parse_overrides
from companion.splits import load_split, prepare_data
from companion.stage_runs import resolve_device
from curation.contract import read_answer
from curation.endpoint import Endpoint, NoReply
from curation.writers import (
    PROMPTS,
    ModelWriter,
    TemplateWriter,
    Unit,
    Writer,
    estimate,
    load_negative_prompts,
    units,
)
from curation.writing_results import Results

SILENT = 5  # units in a row without any reply: the endpoint is down, not the units


def write_unit(writer: Writer, unit: Unit, repairs: int) -> dict[str, Any]:
    """Outcome for one unit after at most ``repairs`` repaired answers.

    status: ok, broken (contract), silent (no reply) or unreadable (video); negatives are empty
    unless ok; violations are those of the last answer.
    """
    answer, broken = "", []
    for attempt in range(1, repairs + 2):
        try:
            answer = writer.write(unit, answer, broken)
        except NoReply as error:
            return _outcome("silent", attempt, reason=str(error))
        except DecodeError as error:
            return _outcome("unreadable", attempt, reason=str(error))
        negatives, broken = read_answer(answer, unit.caption)
        if not broken:
            return _outcome("ok", attempt, negatives)
    return _outcome("broken", repairs + 1, violations=[v.kind for v in broken])


def _outcome(
    status: str,
    attempts: int,
    negatives: Sequence[str] = (),
    violations: Sequence[str] = (),
    reason: str = "",
) -> dict[str, Any]:
    return {
        "status": status,
        "attempts": attempts,
        "negatives": list(negatives),
        "violations": list(violations),
        "reason": reason,
    }


def write_all(
    writer: Writer, chosen: Sequence[Unit], path: Path, repairs: int = 2
) -> dict[str, dict[str, Any]]:
    """Outcome of each unit by digest, written to the results file ``path`` one by one.

    Started again it goes on: units that are ok are not asked for again, all others are. Raises
    InputError if another process writes the file, or ``SILENT`` units in a row get no reply.
    """
    with locked(path.with_name(f".{path.name}.lock"), wait=False):
        results, silent = Results(path), 0
        left = remaining(writer, chosen, results)
        for unit in progress(left, len(left), "writing hard negatives"):
            row = {"digest": digest(writer, unit), "unit": unit.key, "time": int(time.time())}
            row |= write_unit(writer, unit, repairs)
            results.add(row)
            silent = silent + 1 if row["status"] == "silent" else 0
            if silent >= SILENT:
                raise InputError(
                    f"{silent} units in a row got no reply; the last: {row['reason']}."
                    " Look at the endpoint and start again: it goes on from here"
                )
    return results.rows


def digest(writer: Writer, unit: Unit) -> str:
    """What a result belongs to: unit, caption, model and prompts."""
    return sha256_json([unit.key, unit.caption, unit.abnormal, writer.name])[:24]


def remaining(writer: Writer, chosen: Sequence[Unit], results: Results) -> list[Unit]:
    """Units without an ok result."""
    rows = results.rows
    return [u for u in chosen if rows.get(digest(writer, u), {}).get("status") != "ok"]


def published(
    writer: Writer, chosen: Sequence[Unit], rows: dict[str, dict[str, Any]], meta_file: str
) -> dict[str, Any]:
    """The results as VAGTA publishes hard negatives; a unit without has an empty list."""
    found = [rows.get(digest(writer, unit), {}) for unit in chosen]
    items = [
        {
            "video": unit.video,
            "region_index": unit.region_index,
            "frames_25": unit.frames_25 and list(unit.frames_25),
            "region_caption": unit.caption,
            "hard_negative": row.get("negatives", []),
            "timestamps": unit.timestamps and list(unit.timestamps),
        }
        for unit, row in zip(chosen, found, strict=True)
    ]
    made = min((row["time"] for row in found if row), default=0)
    return {"meta_file": meta_file, "model": writer.name, "created_at": made, "items": items}


def write_split(P: Params, split: str, writer: Writer, repairs: int = 2) -> tuple[Path, Counter]:
    """Hard negatives of a split; the published file, and the number of units by status.

    Files: negatives/<split>.jsonl (results) and negatives/<split>.json (published format) of the
    run; the latter serves as parameter hard_negatives_train by its full path.
    """
    prepare_data(P)
    chosen, folder = units(load_split(P, split)[0]), P.run_dir / "negatives"
    rows = write_all(writer, chosen, folder / f"{split}.jsonl", repairs)
    path = folder / f"{split}.json"
    write_json(path, published(writer, chosen, rows, P.flat()[f"annotations_{split}"]))
    return path, Counter(rows[digest(writer, unit)]["status"] for unit in chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; what it prints are counts, paths and token numbers."""
    args = _parser().parse_args(arguments)
    try:
        P = load_params(args.profile, parse_overrides(args.overrides))
        prepare_data(P)
        writer = _writer(P, args)
        if args.dry_run:
            print(_dry_run(P, args, writer))
            return
        path, counts = write_split(P, args.split, writer, args.repairs)
    except InputError as error:
        sys.exit(str(error))
    print(f"{path}: {', '.join(f'{n} {status}' for status, n in counts.items())}; {writer.usage}")


def _dry_run(P: Params, args: argparse.Namespace, writer: Writer) -> dict[str, Any]:
    results = Results(P.run_dir / "negatives" / f"{args.split}.jsonl")
    left = remaining(writer, units(load_split(P, args.split)[0]), results)
    if args.writer == "template":
        return {"units": len(left), "requests": 0}
    prices = (args.prompt_price, args.completion_price)
    expected = estimate(left, load_negative_prompts(args.prompts), args.frames, prices)
    minutes = round(expected["requests"] / args.requests_per_minute, 1)
    most = {"requests_at_most": len(left) * (1 + args.repairs)}
    return {"units": len(left), **expected, **most, "minutes_at_least": minutes}


def _writer(P: Params, args: argparse.Namespace) -> Writer:
    if args.writer == "template":
        return TemplateWriter(P, args.split)
    prompts = load_negative_prompts(args.prompts)
    if args.writer == "local":
        from curation.local import LocalModel

        asker = LocalModel(args.model, prompts.system, resolve_device(P))
    else:
        asker = Endpoint(
            args.base_url,
            args.model,
            prompts.system,
            args.key_variable,
            requests_per_minute=args.requests_per_minute,
        )
    return ModelWriter(asker, prompts, P.data_dir, args.frames)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m curation.negatives")
    add = parser.add_argument
    add("--profile", default="mini", help="params/<profile>.yaml, joined by +")
    add("--split", choices=("train", "dev", "test"), default="train")
    add("--writer", choices=("template", "endpoint", "local"), default="template")
    add("--base-url", default="", help="such as http://localhost:8000/v1")
    add("--model", default="", help="name at the endpoint; folder or name for --writer local")
    add("--key-variable", default="OPENAI_API_KEY", help="environment variable with the key")
    add("--prompts", default=PROMPTS, help="prompt file")
    add("--frames", type=int, default=4, help="attached per abnormal region; 0 = none")
    add("--repairs", type=int, default=2, help="repaired answers per unit at most")
    add("--requests-per-minute", type=float, default=60.0)
    add("--prompt-price", type=float, default=0.0, help="per million tokens, for --dry-run")
    add("--completion-price", type=float, default=0.0, help="per million tokens, for --dry-run")
    add("--dry-run", action="store_true", help="count and estimate; ask nothing")
    add("-p", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    return parser


if __name__ == "__main__":
    main()
