"""Who answered: what the user named, or a stand-in. Tables, records and exit codes say it by this count."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

NOBODY = "nobody"  #: answers what was refused or is missing; that is no stand-in
MOST = 0.05  #: share of stand-ins; above it a result is not what was asked for


@dataclass(frozen=True)
class Answered:
    """Of the questions to ``asked``, how many were answered ``by`` whom."""

    asked: str
    by: Mapping[str, int]

    @classmethod
    def of(cls, asked: str, answerers: Iterable[str]) -> Self:
        """``answerers``: one for each question; "" is the one that was asked."""
        return cls(asked, dict(Counter(each or asked for each in answerers)))

    @property
    def stand_ins(self) -> dict[str, int]:
        return {name: count for name, count in self.by.items() if name not in (self.asked, NOBODY)}

    @property
    def total(self) -> int:
        return sum(self.by.values())

    @property
    def share(self) -> float:
        """Of the stand-ins, 0..1."""
        return sum(self.stand_ins.values()) / max(self.total, 1)

    @property
    def as_asked(self) -> bool:
        return self.share <= MOST

    @property
    def told(self) -> str:
        """ "3 of 50 by rules"; "" without stand-ins."""
        return ", ".join(f"{count} of {self.total} by {name}" for name, count in self.stand_ins.items())

    @property
    def label(self) -> str:
        """ "llm:x (3 of 50 by rules)": the name under which a result may be shown."""
        return f"{self.asked} ({self.told})" if self.stand_ins else self.asked

    def complaint(self, what: str) -> str:
        """Why this is not what was asked for. ``what``: was answered, in the plural."""
        return f"{what}: {self.told}, not {self.asked}; more than {MOST:.0%}, so this is no result of {self.asked}"
