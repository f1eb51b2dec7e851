"""Equal shares of a list of work, for several processes or machines that never speak.

``--shard 2/8`` is the second of eight shares. An item belongs to exactly one share, whatever the
others do, so shares may run in any order, at once or again; merged, they are the whole list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from alertclip.errors import InputError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Share ``number`` (from 1) of ``count``: every ``count``-th item, so long ones spread."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"shard {self}: write i/n with i from 1 to n, such as 2/8")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this share, in order; shares differ by one item at most."""
        return items[self.number - 1 :: self.count]


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """``"2/8"`` -> Shard(2, 8); InputError on anything else."""
    number, slash, count = text.partition("/")
    if not (slash and number.isascii() and number.isdecimal() and count.isdecimal()):
        raise InputError(f"shard {text}: write i/n with i from 1 to n, such as 2/8")
    return Shard(int(number), int(count))


def merge(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """The whole list from the shares 1 to n in order: the inverse of ``take``."""
    whole: list[Item] = [None] * sum(map(len, shares))
    for i, share in enumerate(shares):
        whole[i :: len(shares)] = share  # a share of a wrong length is a ValueError
    return whole
