"""The audit of a hard-negative file in full: all tables, figures, the sheet and the clean file.

``python -m curation.audit_report FILE`` audits any file in VAGTA's format; without FILE, the
profile's own ``hard_negatives_train``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from alertclip.errors import InputError
from companion import tuned_models
from companion.figures import audit_figures as figures
from companion.figures.style import Figure, committed, save, write_table
from companion.profiles import Params, load_params, parse_overrides
from curation import audit, polarity
from curation.overlay import DROPPED, clean, plant_faults


class Audit(NamedTuple):
    """The tables of one file's audit; ``negatives`` has one row per hard negative."""

    regions: pd.DataFrame
    negatives: pd.DataFrame
    violations: pd.DataFrame
    by_class: pd.DataFrame
    overlap: pd.DataFrame
    richness: pd.DataFrame
    polarity: pd.DataFrame
    shortcut: pd.DataFrame


def audit_file(
    P: Params,
    path: Path,
    wanted: Sequence[tuned_models.Stage] = ("clip",),
    sentence_model: str | None = None,
    judge: str | None = None,
) -> Audit:
    """All tables of a hard-negative file; ``wanted`` stages of the profile judge its polarity.

    sentence_model: folder of a sentence-embedding model, as one more judge. judge: whose sign makes
    the flag "wrong polarity"; none by default, as it takes a judge that is right on the captions
    and on rewrites of them.
    """
    draws = (P.evaluation.bootstrap_samples, P.seed)
    regions = audit.read_regions(path)
    table = audit.negatives_table(regions)
    judges = polarity.encoders(P, wanted) | polarity.load_sentence_model(sentence_model)
    scores = polarity.judged(P, regions, table, judges)
    if judge is not None:
        if judge not in scores:
            raise InputError(f"no judge is called {judge}: there are {', '.join(scores)}")
        table["wrong polarity"] = (scores[judge][1] > 0) == table["abnormal"].to_numpy()
    return Audit(
        regions,
        table,
        audit.violation_table(regions, table, *draws),
        audit.by_class(table, audit.flags(table), *draws),
        audit.overlap_table(table, *draws),
        audit.richness_table(regions, table, seed=P.seed),
        polarity.polarity_table(regions, table, scores, *draws),
        polarity.shortcut_table(regions, table, *draws),
    )


def plant_and_clean(P: Params, folder: Path, share: float = 0.5) -> tuple[pd.DataFrame, Audit]:
    """Plant faults in a share of the profile's training negatives, audit them, drop what is found.

    Writes planted.json and vagta-clean.json into ``folder``. Returns what was planted and the audit
    of the planted file. Texts judge polarity by their words, as no encoder is right on both.
    """
    planted, cleaned = folder / "planted.json", folder / "vagta-clean.json"
    faults = plant_faults(P.data_dir / P.data.hard_negatives_train, planted, share, P.seed)
    found = audit_file(P, planted, [], judge="words of the captions")
    clean(planted, cleaned, found.negatives, [*DROPPED, "fantastical", "wrong polarity"])
    return faults, found


def drawn(found: Audit) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """The figures of an audit with the tables they show, by file name."""
    overlap = found.negatives[["abnormal", "overlap"]]
    return {
        "negatives_violations": (figures.violations_by_kind(found.violations), found.violations),
        "negatives_overlap": (figures.overlap_distribution(overlap), found.overlap),
    }


def save_audit(found: Audit, folder: Path, seed: int) -> None:
    """Write every table as CSV, the sheet for human eyes and the figures into ``folder``."""
    for name, table in found._asdict().items():
        if name not in ("regions", "negatives"):
            write_table(table, folder / f"{name}.csv")
    write_table(audit.sample_sheet(found.negatives, seed=seed), folder / "sheet.csv")
    for name, (figure, table) in drawn(found).items():
        save(figure, name, table, folder)


def published_audit() -> pd.DataFrame:
    """The committed audit of VAGTA's negatives: direction, measure, value, low, high, n."""
    return committed("vagta_audit")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m curation.audit_report")
    add = parser.add_argument
    add("file", nargs="?", type=Path, help="a hard-negative file; default: the profile's")
    add("--profile", default="mini", help="params/<profile>.yaml; its models judge the polarity")
    add("--stages", nargs="+", choices=list(tuned_models.STAGES), default=["clip"])
    add("--sentence-model", help="folder of a sentence-embedding model")
    add("--judge", help="whose sign flags wrong polarity, such as Full")
    add("--out", type=Path, help="folder; default: audit/ of the run")
    add("--drop", nargs="*", default=list(DROPPED), metavar="KIND", help="left out of the copy")
    add("-p", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    args = parser.parse_args(arguments)
    try:
        P = load_params(args.profile, parse_overrides(args.overrides))
        path, folder = args.file or P.data_dir / P.data.hard_negatives_train, args.out
        folder = folder or P.run_dir / "audit"
        found = audit_file(P, path, args.stages, args.sentence_model, args.judge)
        save_audit(found, folder, P.seed)
        done = clean(path, folder / "vagta-clean.json", found.negatives, args.drop)
        write_table(done, folder / "vagta-clean.csv")
    except InputError as error:
        sys.exit(str(error))
    print(found.violations.to_string(index=False))
    print(f"{folder}: vagta-clean.json leaves {len(done)} of {len(found.negatives)} negatives out")


if __name__ == "__main__":
    main()
