"""Figures that documents quote, such as ``+0.14 [0.10, 0.17]`` and ``96% [93, 98]``, and the rows that they are of.

A document that names results files (``results/NAME.json``, in a code block only as what a command writes) quotes
those and no others; one that names none may quote any. A quotation is found where a row's numbers, rounded to the
digits quoted, are its own. In a table that is not enough: its lines are methods and its columns metrics, or the other
way round, so a cell must be of a row of its line's method (the one that explains most cells of the line) and of its
column's metric. In running text a difference may be told from the other side, "less by".

A line with ``<!-- unrecorded -->`` says that its figures are in no results file.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trueline.evaluation.tables import DIFFERENCES, NUMBERS

MARK = "<!-- unrecorded -->"
_MINUS = "\N{MINUS SIGN}"
_NUMBER = rf"[+\-{_MINUS}]?(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?"
_QUOTATION = re.compile(
    rf"(?<![\w.,])({_NUMBER})(\s?%)?\**\s+\[({_NUMBER})\s?%?,\s+({_NUMBER})\s?%?\](?!\()", re.ASCII
)
_FENCED = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
_SOURCE = re.compile(r"results/([\w-]+)\.json")
_WRITTEN = re.compile(r"--(?:results|out)[ =]results/([\w-]+)\.json")
_CELL = re.compile(r"(?<!\\)\|")

Place = tuple[int, int, int]  #: table, line and column
Numbers = tuple[float, float, float]
Key = tuple[str, str]


@dataclass(frozen=True)
class Recorded:
    """A figure of a results file: of a row its value, its difference, or that from the other side ("negated").
    ``verdicts``: whether it was computed again from verdicts."""

    file: str
    method: str
    metric: str
    category: str
    kind: Literal["value", "difference", "negated"]
    numbers: Numbers
    verdicts: bool = False


@dataclass(frozen=True)
class Quotation:
    """``written``: value, low and high as they are there. ``place``: in a table, None in running text."""

    line: int
    written: tuple[str, str, str]
    percent: bool = False
    place: Place | None = None
    marked: bool = False

    def __str__(self) -> str:
        value, low, high = self.written
        return f"{value}{'%' * self.percent} [{low}, {high}]"


@dataclass(frozen=True)
class Document:
    """``sources``: names of results files, without ".json"."""

    path: Path
    sources: frozenset[str]
    quotations: tuple[Quotation, ...]


@dataclass(frozen=True)
class LookedUp:
    """What was found of a quotation. ``unseen``: of how many quotations that are off by one in a last digit
    (``off``) the same would have been said."""

    quotation: Quotation
    found: tuple[Recorded, ...]
    off: int = 0
    unseen: int = 0


def read_document(path: Path, text: str) -> Document:
    """The quotations of a Markdown document."""
    sources = set(_WRITTEN.findall(text))
    text = _FENCED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    found: list[Quotation] = []
    for table, (start, block) in enumerate(_blocks(text)):
        inside = block.startswith("|")
        for match in _QUOTATION.finditer(block):
            above = block[: match.start()]
            line = above.count("\n")
            column = len(_CELL.findall(above.rpartition("\n")[2]))
            found.append(
                Quotation(
                    start + line,
                    (match[1], match[3], match[4]),
                    match[2] is not None,
                    (table, line, column) if inside else None,
                    MARK in _lines(block, match),
                )
            )
    return Document(path, frozenset(sources.union(_SOURCE.findall(text))), tuple(found))


def _lines(block: str, match: re.Match[str]) -> str:
    """The whole lines that the match touches."""
    end = block.find("\n", match.end())
    return block[block.rfind("\n", 0, match.start()) + 1 : end if end >= 0 else None]


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs and tables with the number of their first line. A table is lines that begin with "|"."""
    block: list[str] = []
    lines = text.split("\n")
    for number, line in enumerate([*lines, ""], start=1):
        if block and (not line.strip() or line.startswith("|") != block[0].startswith("|")):
            yield number - len(block), "\n".join(block)
            block = []
        if line.strip():
            block.append(line)


def of_rows(file: str, rows: Sequence[dict[str, Any]], computed: Sequence[bool]) -> list[Recorded]:
    """All figures of the rows that have intervals. ``computed``: whether a row was computed again from verdicts."""
    found = []
    for row, again in zip(rows, computed, strict=True):
        about = file, row["method"], row["metric"], row["category"]
        value: list[Any] = [row[name] for name in NUMBERS]
        change: list[Any] = [row.get(name) for name in DIFFERENCES]
        if None not in value:
            found.append(Recorded(*about, "value", (value[0], value[1], value[2]), again))
        if None not in change:
            middle, low, high = change
            found.append(Recorded(*about, "difference", (middle, low, high), again))
            found.append(Recorded(*about, "negated", (-middle, -high, -low), again))
    return found


def answers(document: Document, recorded: Sequence[Recorded]) -> list[LookedUp]:
    """For each quotation that is not marked the figures that it may be of; none where it is of no row."""
    if document.sources:
        recorded = [one for one in recorded if one.file in document.sources]
    numbers = np.array([one.numbers for one in recorded], float).reshape(len(recorded), 3)

    def of(quotation: Quotation) -> list[Recorded]:
        kinds = {"difference"} if quotation.written[0].startswith("+") else {"value", "difference"}
        kinds |= set() if quotation.place else {"negated"}
        return [recorded[i] for i in _same(quotation, numbers) if recorded[i].kind in kinds]

    asked = [quotation for quotation in document.quotations if not quotation.marked]
    tables: dict[int, dict[Quotation, list[Recorded]]] = {}
    for quotation in asked:
        if quotation.place:
            tables.setdefault(quotation.place[0], {})[quotation] = of(quotation)
    allowed = {quotation: keys for table in tables.values() for quotation, keys in _of_table(table).items()}

    def found(quotation: Quotation, keys: "_Keys | None") -> tuple[Recorded, ...]:
        return tuple(one for one in of(quotation) if keys is None or keys.allow(one))

    made = []
    for quotation in asked:
        keys = allowed.get(quotation)
        mine, others = found(quotation, keys), list(_off_by_one(quotation))
        unseen = sum(bool(found(other, keys)) for other in others) if mine else 0
        made.append(LookedUp(quotation, mine, len(others) if mine else 0, unseen))
    return made


@dataclass(frozen=True)
class _Keys:
    """The methods and the metrics that a cell of a table may be of."""

    methods: frozenset[Key]
    metrics: frozenset[Key]

    def allow(self, one: Recorded) -> bool:
        return _method(one) in self.methods and _metric(one) in self.metrics


def _method(one: Recorded) -> Key:
    return one.file, one.method


def _metric(one: Recorded) -> Key:
    return one.metric, one.category


def _of_table(table: dict[Quotation, list[Recorded]]) -> dict[Quotation, _Keys]:
    """What each cell may be of, with methods in lines or in columns, whichever explains more cells."""
    ways = []
    for line, column in ((1, 2), (2, 1)):
        methods, metrics = _most(table, line, _method), _most(table, column, _metric)
        keys = {q: _Keys(methods[q.place[line]], metrics[q.place[column]]) for q in table if q.place}
        ways.append((sum(any(map(keys[q].allow, some)) for q, some in table.items()), keys))
    return max(ways, key=lambda way: way[0])[1]


def _most(table: dict[Quotation, list[Recorded]], axis: int, key: Any) -> dict[int, frozenset[Key]]:
    """For each line (or column) the keys that explain most of its cells."""
    counts: dict[int, Counter[Key]] = {}
    for quotation, some in table.items():
        if quotation.place:
            counts.setdefault(quotation.place[axis], Counter()).update({key(one) for one in some})
    return {
        place: frozenset(name for name, count in each.items() if count == max(each.values()))
        for place, each in counts.items()
    }


def _same(quotation: Quotation, numbers: np.ndarray) -> np.ndarray:
    """Indices of the rows of ``numbers`` (k, 3) that are the quotation's to its digits."""
    same = np.ones(len(numbers), bool)
    scaled = [numbers, 100 * numbers] if quotation.percent else [numbers]
    fits = []
    for each in scaled:
        same = np.ones(len(numbers), bool)
        for column, written in enumerate(quotation.written):
            half = 0.5 * 10.0 ** -_places(written)
            same &= np.abs(each[:, column] - _read(written)) <= half * (1 + 1e-6)
        fits.append(same)
    return np.flatnonzero(np.any(fits, axis=0))


def _places(written: str) -> int:
    return len(written.partition(".")[2])


def _read(written: str) -> float:
    return float(written.replace(_MINUS, "-").replace(",", ""))


def _off_by_one(quotation: Quotation) -> Iterator[Quotation]:
    """The six quotations with one last digit one up or down."""
    for index, written in enumerate(quotation.written):
        for step in (-1, 1):
            places = _places(written)
            text = f"{_read(written) + step * 10.0**-places:.{places}f}"
            sign = "+" if written.startswith("+") and not text.startswith("-") else ""
            parts = list(quotation.written)
            parts[index] = sign + text
            yield replace(quotation, written=(parts[0], parts[1], parts[2]))
