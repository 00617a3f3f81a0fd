"""How work is cut: batches that are always the same, and fixed parts of a run for machines that share no folder."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

Item = TypeVar("Item")


def batched(items: Sequence[Item], size: int, key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items of one ``key`` together, in their order, at most ``size`` of them.

    A batch is made as a whole or not at all: kernels round differently in batches of other sizes, so this is what
    makes the pictures of a run that was stopped, or was spread over machines, equal to the last bit.
    """
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of ``count``: every ``count``-th batch."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """``2/4``.

        Raises:
            ValueError: it is written otherwise or out of range.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ValueError(f"shard: write it as 1/4, 2/4, ... (got {text!r})")
        return cls(int(index), int(count))

    def takes(self, batch: int) -> bool:
        return batch % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
