"""What a check is, and its verdicts."""

from collections.abc import Callable
from typing import Any, NamedTuple

HOLDS, CONTRADICTED, DOUBTFUL, NOT_RUN = "holds", "contradicted", "doubtful", "not run"


class Outcome(NamedTuple):
    """What was computed (a number in the unit of what is stated, or text), and what follows."""

    computed: float | str
    verdict: str
    finding: str = ""


class Check(NamedTuple):
    """A claim, where it is stated (a cell of the ledger, or text) and how it is computed.

    ``refutes`` are the cells that are wrong if the claim is contradicted.
    """

    name: str
    document: str
    claim: str
    stated: str
    compute: Callable[[Any], Outcome]
    refutes: tuple[str, ...] = ()


def agree(right: bool) -> str:
    """The verdict of a plain comparison."""
    return HOLDS if right else CONTRADICTED
