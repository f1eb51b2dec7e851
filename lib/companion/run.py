"""What ``run_all.sh`` does once the environment stands: check, plan, run, say where to look.

Every parameter, file and weight is checked before any work starts. A notebook runs again when
something that decides its result changed (``workflow.inputs``), compared by content and not by
date, so that a fresh checkout of the same files changes nothing. Snakemake orders and executes.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import yaml

from alertclip.errors import InputError
from alertclip.files import atomic_write, locked
from companion import workflow
from companion.profiles import ROOT, Params, load_params, parse_overrides
from companion.sources import missing_data, missing_lists
from companion.workflow import NOTEBOOKS, Notebook


def check_inputs(params: Params, fetch: bool = True) -> None:
    """Raise one InputError that lists every missing file of the run: what, where from, where to."""
    missing = missing_data(params) or missing_lists(params)
    missing += _missing_weights(params, fetch=fetch and not missing)
    if missing:
        raise InputError("\n".join([f"profile {params.profile} cannot run yet:", *missing]))


def _missing_weights(params: Params, fetch: bool) -> Iterator[str]:
    if params.model.backbone in ("miniclip", "minisiglip"):
        folder = ROOT / "lib/miniworld/weights" / params.model.backbone
        if not list(folder.glob("*.safetensors")):
            yield f"- {folder}: its weights are missing; restore: git checkout {folder}"
    elif params.model.backbone.startswith("local-dir:"):
        folder = ROOT / params.model.backbone.removeprefix("local-dir:")
        if not folder.is_dir():
            yield f"- backbone: {folder} is missing; notebook 04 of a run writes such a folder"
    elif params.model.backbone.startswith("blip:"):
        return  # transformers fetches it, or names what is missing
    elif params.model.pretrained and not (ROOT / params.model.pretrained).is_file():
        yield from _missing_download(params.model.backbone, params.model.pretrained, fetch)


def _missing_download(backbone: str, tag: str, fetch: bool) -> Iterator[str]:
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg  # takes seconds

    config = get_pretrained_cfg(backbone, tag)
    source = config.get("hf_hub", "").rstrip("/") or config.get("url")
    advice = f"they come from {source}; without a network, bring a .safetensors: -p pretrained=FILE"
    if not config:
        yield f"- pretrained: {backbone} has no weights {tag}; see open_clip.list_pretrained()"
    elif fetch:
        try:
            download_pretrained(config)  # returns at once where they are cached
        except Exception as error:  # whatever the network stack raises
            yield f"- weights {backbone}/{tag}: not fetched ({type(error).__name__}); {advice}"
    else:
        yield f"- weights {backbone}/{tag}: fetched on the first run unless cached; {advice}"


def select(only: str = "", start: str = "") -> list[Notebook]:
    """Notebooks asked for by ``--only``/``--from`` (a number or a name), in running order."""
    wanted = only or start
    wanted = wanted.zfill(2) if wanted.isdigit() else wanted
    chosen = [b for b in NOTEBOOKS if not wanted or b.name == wanted or b.name[:2] == wanted]
    if not chosen:
        names = ", ".join(b.name for b in NOTEBOOKS)
        raise InputError(f"{wanted}: no such notebook; there are {names}")
    return list(NOTEBOOKS[NOTEBOOKS.index(chosen[0]) :]) if start else chosen


def pending(params: Params, chosen: Sequence[Notebook], force: bool) -> dict[str, str]:
    """Notebooks to run, in order, each with the reason.

    With ``force`` the chosen ones run whatever their state, and others only where an artefact of
    theirs is missing; without, every chosen notebook whose inputs changed runs, and what needs it.
    """
    needed = {n for b in chosen for n in workflow.upstream(b)} | {b.name for b in chosen}
    plan: dict[str, str] = {}
    for book in (b for b in NOTEBOOKS if b.name in needed):
        reason = _reason(book, params, plan)
        if force and book in chosen:
            plan[book.name] = reason or "asked for"
        elif reason and (book in chosen or reason.startswith("not")):
            plan[book.name] = reason
    return plan


def _reason(book: Notebook, params: Params, plan: dict[str, str]) -> str:
    """Why a notebook must run, or an empty string; a reason starting with "not" is a must."""
    old = workflow.recorded(book, params.run_dir)
    if not old:
        return "not run yet"
    absent = [folder for folder in book.writes if not (params.run_dir / folder).exists()]
    if absent:
        return f"not there any more: {', '.join(absent)}"
    after = [name for name in book.needs if name in plan]
    if after:
        return f"after {', '.join(after)}"
    new = workflow.record_of(book, params)
    before, now = old.get("inputs", {}), new["inputs"]
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    if changed:
        return "changed: " + ", ".join(_change(k, before.get(k), now.get(k)) for k in changed[:4])
    return f"{', '.join(book.needs)} changed" if old.get("needs") != new["needs"] else ""


def _change(name: str, before: str | None, now: str | None) -> str:
    return name if "." in name else f"{name} {before} -> {now}"


def command(plan: dict[str, str], args: argparse.Namespace) -> list[str]:
    """The Snakemake call that executes exactly the planned notebooks."""
    rules = [f"nb_{name}" for name in plan]
    config = [f"profile={args.profile}", f"overrides={json.dumps(args.parameter)}"]
    return [
        *(sys.executable, "-m", "snakemake", *rules, "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(ROOT), "--cores", str(args.cores), "--nolock", "--rerun-incomplete"),
        *("--rerun-triggers", "mtime", "--config", *config),
        *("--allowed-rules", *rules, "--forcerun", *rules, "--quiet", "all", *args.snakemake),
    ]


def write_resolved(params: Params) -> None:
    """Keep every parameter of the run, defaults included, in ``runs/<profile>/params.yaml``."""
    with atomic_write(params.run_dir / "params.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(params.flat(), sort_keys=False))


def summary(params: Params) -> str:
    """Time per notebook, and where reports and figures are."""
    run_dir = params.run_dir
    lines = [f"{params.profile}:"]
    for book in NOTEBOOKS:
        out = run_dir / f"{book.name}.ipynb"
        if workflow.recorded(book, run_dir):
            seconds = workflow.read_json(out)["metadata"]["papermill"]["duration"]
            report = os.path.relpath(out.with_suffix(".html"))
            lines.append(f"  {book.name:20} {seconds:7.0f} s   {report}")
    lines.append(f"  figures and their tables: {os.path.relpath(run_dir / 'figures')}")
    return "\n".join(lines)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    own = list(argv)
    rest = own[own.index("--") + 1 :] if "--" in own else []
    parser = argparse.ArgumentParser(prog="run_all.sh", epilog="after --: options for Snakemake")
    add = parser.add_argument
    add("profile", nargs="?", default="mini", help="smoke, mini (default) or paper")
    add("-n", "--dry-run", action="store_true", help="show the plan, run nothing")
    add("--only", default="", metavar="NN", help="this notebook, and what it needs if missing")
    add("--from", dest="start", default="", metavar="NN", help="this notebook and all after it")
    add("--force", action="store_true", help="run even what has not changed")
    add("-p", dest="parameter", action="append", default=[], metavar="NAME=VALUE")
    add("--cores", type=int, default=os.cpu_count() or 1, help="default: all")
    args = parser.parse_args(own[: len(own) - len(rest) - bool("--" in own)])
    args.snakemake = rest
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run a profile; exit code 2 for bad input, Snakemake's otherwise."""
    args = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        params = load_params(args.profile, parse_overrides(args.parameter))
        chosen = select(args.only, args.start)
        check_inputs(params, fetch=not args.dry_run)
        plan = pending(params, chosen, args.force or bool(args.only or args.start))
        for book in NOTEBOOKS:
            print(f"  {book.name:20} {plan.get(book.name, '-')}")
        if args.dry_run:
            return 0
        with locked(params.run_dir / ".lock", wait=False) as lock:
            code = _run(params, plan, args, lock)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(summary(params))
    return code


def _run(params: Params, plan: dict[str, str], args: argparse.Namespace, lock: int) -> int:
    write_resolved(params)
    if not plan:
        return 0
    # The child inherits the lock, so it holds even if this process is killed first.
    child = subprocess.Popen(command(plan, args), cwd=ROOT, pass_fds=[lock])
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()  # it got the signal too, and tidies up
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
