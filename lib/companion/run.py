"""Run a profile's notebooks (``run_all.sh``): check parameters and inputs, then call Snakemake.

Snakemake alone decides what runs again and in which order; its plan is printed first. Every file
and weight that the planned notebooks read is checked before any work starts.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import yaml

from companion.profiles import ROOT, Params, load_params, parse_overrides
from companion.sources import gap_table, settings_gaps
from companion.variants import require_variants
from companion.workflow import NOTEBOOKS, Notebook, runnable
from media.errors import InputError
from media.files import atomic_write, locked


def check_inputs(P: Params, books: Sequence[Notebook], fetch: bool = True) -> str:
    """The pre-flight check: a table of what the notebooks ``books`` lack, "" if nothing.

    InputError with the table if a gap stops one of them. ``fetch``: download missing weights.
    """
    gaps = list(settings_gaps(P))
    packaged = P.model.backbone in ("miniclip", "minisiglip")
    if books and not (packaged and P.data.world == "miniworld"):
        from companion.preflight import find_gaps

        gaps += find_gaps(P, books, fetch)
    table = gap_table(gaps) if gaps else ""
    if any(gap.verdict == "stops" for gap in gaps):
        raise InputError(f"{P.profile} cannot run yet:\n{table}")
    return table


def select(
    only: str = "", start: str = "", books: Sequence[Notebook] = NOTEBOOKS
) -> list[Notebook]:
    """Notebooks selected by ``--only`` or ``--from`` (a number or a name); all without them."""
    wanted = only or start
    wanted = wanted.zfill(2) if wanted.isdigit() else wanted
    chosen = [b for b in books if not wanted or b.name == wanted or b.name[:2] == wanted]
    if not chosen:
        names = ", ".join(b.name for b in books)
        raise InputError(f"{wanted}: no such notebook; there are {names}")
    return list(books[books.index(chosen[0]) :]) if start else chosen


def command(args: argparse.Namespace, chosen: Sequence[Notebook]) -> list[str]:
    """Snakemake's command line for the chosen notebooks and what they need, if outdated."""
    rules = [f"nb_{book.name}" for book in chosen]
    forced = ["--forcerun", *rules] if args.force or args.only or args.start else []
    config = [f"profile={args.profile}", f"overrides={json.dumps(args.parameter)}"]
    return [
        *(sys.executable, "-m", "snakemake", *rules, "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(ROOT), "--cores", str(args.cores), "--nolock", "--rerun-incomplete"),
        *("--keep-going", "--config", *config, *forced),  # a failure stops its dependents only
    ]


def plan(call: Sequence[str]) -> dict[str, str]:
    """Why each notebook would run, by name, from Snakemake's summary; the others are absent."""
    summary = subprocess.run([*call, "--summary"], cwd=ROOT, capture_output=True, text=True)
    if summary.returncode:
        raise InputError(f"snakemake: {summary.stderr.strip() or summary.stdout.strip()}")
    table = summary.stdout[summary.stdout.index("output_file\t") :].splitlines()
    rows = list(csv.DictReader(table, delimiter="\t"))
    status = {r["rule"].removeprefix("nb_"): r["status"] for r in rows if r["plan"] != "no update"}
    return {k: "requested, or follows another" if v == "ok" else v for k, v in status.items()}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="run_all.sh", epilog="after --: options for Snakemake")
    add = parser.add_argument
    add("profile", nargs="?", default="mini", help="smoke, mini (default) or paper")
    add("-n", "--dry-run", action="store_true", help="show the plan, run nothing")
    add("--only", default="", metavar="NN", help="this notebook, and what it needs if outdated")
    add("--from", dest="start", default="", metavar="NN", help="this notebook and all after it")
    add("--force", action="store_true", help="run even what has not changed")
    add("-p", dest="parameter", action="append", default=[], metavar="NAME=VALUE")
    add("--cores", type=int, default=os.cpu_count() or 1, help="default: all")
    args = parser.parse_args(words[:end])
    args.snakemake = words[end + 1 :]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run a profile; exit code 2 for bad input, Snakemake's otherwise."""
    args = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        P = load_params(args.profile, parse_overrides(args.parameter))
        call = command(args, select(args.only, args.start, runnable(P)))
        require_variants(P.ablation.variants)
        if "{" in os.path.relpath(P.data_dir, ROOT):
            problem = "Snakemake reads braces as wildcards; use a link without them"
            raise InputError(f"data_root={P.data_dir}: {problem}")
        reasons = plan(call)
        for book in NOTEBOOKS:
            no_reason = "-" if book in runnable(P) else "needs videos"
            print(f"  {book.name:22} {reasons.get(book.name, no_reason)}", flush=True)
        planned = [book for book in NOTEBOOKS if book.name in reasons]
        if gaps := check_inputs(P, planned, fetch=not args.dry_run):
            print(gaps, flush=True)
        if args.dry_run:
            return 0
        with locked(P.run_dir / ".lock", wait=False) as lock:
            with atomic_write(P.run_dir / "params.yaml") as temporary:  # defaults included
                temporary.write_text(yaml.safe_dump(P.flat(), sort_keys=False))
            code = _run([*call, "--quiet", "all", *args.snakemake], lock) if reasons else 0
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if not code:
        print(f"one page per notebook: {os.path.relpath(P.run_dir)}/*.html; tables in figures/")
    if code not in (0, 130):  # Snakemake runs with --quiet
        logs = max((ROOT / ".snakemake/log").glob("*.log"), default="", key=os.path.getmtime)
        print(f"not finished: Snakemake ended with status {code}; its log: {logs}", file=sys.stderr)
    return code


def _run(call: Sequence[str], lock: int) -> int:
    # The child inherits the lock and keeps it even if this process is killed first.
    child = subprocess.Popen(call, cwd=ROOT, pass_fds=[lock])
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()  # it receives the signal too and cleans up
        print("Stopped. Run the same command to continue.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
