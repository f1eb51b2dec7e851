"""Where the papers contradict themselves, their files or arithmetic: each point as a computation.

A check computes what a paper states from first principles, from the paper's other numbers or from
VAGTA's published files, and says whether the two agree. Nothing here is an opinion in prose.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from companion.inconsistencies import arithmetic, table_checks, vagta_counts
from companion.inconsistencies.check import CONTRADICTED, NOT_RUN, Check, Outcome
from companion.ledger.paper_results import PaperResults
from companion.profiles import Params

__all__ = ["check_table", "refuted"]

CHECKS: tuple[Check, ...] = (*arithmetic.CHECKS, *table_checks.CHECKS)


def check_table(results: PaperResults, P: Params) -> pd.DataFrame:
    """All checks: columns check, document, claim, stated, computed, verdict, finding, refutes.

    Those of VAGTA's files run where the profile reads them (``world: vagta``) and they are there.
    """
    rows = [_row(check, results, check.compute(results)) for check in CHECKS]
    files = vagta_counts.read_files(P)
    missing = Outcome("", NOT_RUN, "needs VAGTA's files and a profile that reads them")
    for check in vagta_counts.CHECKS:
        rows.append(_row(check, results, check.compute(files) if files else missing))
    return pd.DataFrame(rows)


def refuted(table: pd.DataFrame) -> set[str]:
    """Cells whose printed number a check has shown to be wrong."""
    return {key for row in table.to_dict("records") for key in _keys(row)}


def _keys(row: dict[str, Any]) -> Iterator[str]:
    if row["verdict"] == CONTRADICTED and row["refutes"]:
        yield from row["refutes"].split("; ")


def _row(check: Check, results: PaperResults, outcome: Outcome) -> dict[str, Any]:
    return {
        "check": check.name,
        "document": check.document,
        "claim": check.claim,
        "stated": results.printed(check.stated) if " | " in check.stated else check.stated,
        "computed": outcome.computed,
        "verdict": outcome.verdict,
        "finding": outcome.finding,
        "refutes": "; ".join(check.refutes),
    }
