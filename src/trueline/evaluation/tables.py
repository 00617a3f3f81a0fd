"""Rows of ``results.json`` as tables, in Markdown.

A *row* is one number: a flat dictionary with ``benchmark, model, method, metric, category`` ("" = all of them),
``value, low, high`` (95% interval, bootstrap clustered by prompt; None where there is none), ``n`` (pictures),
``images_per_prompt, seeds, protocol, command, commit``; rows of every method but one also say ``against`` (that one:
the first, or the one asked for) and ``difference, difference_low, difference_high`` (paired: same prompts, same
seeds). A row may have a ``goal`` (what was aimed at, and whether it holds) and say what ``low``, ``high`` and ``n``
are where they are something else (``reads``). ``answered`` counts the plans behind a number by who made them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from trueline.errors import redacted

Result = Mapping[str, Any]

TEXTS = ("benchmark", "model", "method", "metric", "category", "protocol", "command", "commit")
COUNTS = ("n", "images_per_prompt")
NUMBERS = ("value", "low", "high")
DIFFERENCES = ("difference", "difference_low", "difference_high")
OPTIONAL_TEXTS = ("goal", "reads")
READS = "Intervals are 95%, bootstrap clustered by prompt; n counts pictures."
#: Words of a metric's name: region_fid, counting_mae.
LOWER_IS_BETTER = frozenset(
    {"fid", "kid", "cmmd", "mae", "error", "extra", "unmatched", "cost", "seconds", "memory"}
)
FEWEST = 10  #: pictures of which a difference is called better or worse
MANY = 6  #: methods: of more, each has a row, and the page shows the lines over all categories only
PLANS = "Plans behind each number, by who made them"
NOTHING = "-"  #: stands where there is no number


@dataclass(frozen=True)
class Provenance:
    """How numbers came about; numbers of one run share all of this."""

    command: str
    commit: str
    seeds: tuple[int, ...]
    images_per_prompt: int


@dataclass(frozen=True)
class Line:
    """One metric of one category; ``cells[i]`` is the row of the table's method i, or None."""

    metric: str
    category: str
    cells: tuple[Result | None, ...]

    @property
    def rows(self) -> list[Result]:
        return [cell for cell in self.cells if cell is not None]

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(row["protocol"] for row in self.rows))

    @property
    def decimals(self) -> int:
        return decimals(row[key] for row in self.rows for key in NUMBERS)


@dataclass(frozen=True)
class Table:
    """All numbers of one model on one benchmark. Lines over all categories come first."""

    benchmark: str
    model: str
    methods: tuple[str, ...]
    lines: tuple[Line, ...]
    runs: tuple[Provenance, ...]


def tables(rows: Sequence[Result]) -> list[Table]:
    """One table per benchmark and model; methods, metrics and categories in the order of their first row.

    Raises:
        ValueError: a row lacks a key or holds a number that is none, or two rows claim one cell.
    """
    check_rows(rows)
    return [
        _table(benchmark, model, [r for r in rows if (r["benchmark"], r["model"]) == (benchmark, model)])
        for benchmark, model in dict.fromkeys((r["benchmark"], r["model"]) for r in rows)
    ]


def _table(benchmark: str, model: str, rows: Sequence[Result]) -> Table:
    cells: dict[tuple[str, str, str], Result] = {}
    for row in rows:
        key = row["category"], row["metric"], row["method"]
        if key in cells:
            where = f"{benchmark}, {row['method']}, {row['metric']}, category {row['category'] or 'all'}"
            raise ValueError(f"rows: two values for {where}; keep one of them")
        cells[key] = row
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    heads = dict.fromkeys((category, metric) for category, metric, _ in cells)
    lines = [Line(metric, cat, tuple(cells.get((cat, metric, m)) for m in methods)) for cat, metric in heads]
    return Table(
        benchmark,
        model,
        methods,
        tuple(sorted(lines, key=lambda line: line.category != "")),
        tuple(dict.fromkeys(map(run_of, rows))),
    )


def run_of(row: Result) -> Provenance:
    """Without secrets, whoever wrote the row."""
    return Provenance(redacted(row["command"]), row["commit"], tuple(row["seeds"]), row["images_per_prompt"])


def check_rows(rows: Any, where: str = "rows") -> None:
    """Refuse what is no list of rows, with a sentence that names the place."""
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise ValueError(f"{where}: must be a list of rows (got {type(rows).__name__})")
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}[{index}]: must be an object (got {type(row).__name__})")
        if missing := [key for key in (*TEXTS, *NUMBERS, *COUNTS, "seeds") if key not in row]:
            raise ValueError(f"{where}[{index}]: {missing[0]} is missing; evaluate again to write it")
        for key in (*NUMBERS, *DIFFERENCES):
            if row.get(key) is not None and not is_finite(row[key]):
                raise ValueError(
                    f"{where}[{index}].{key}: must be a finite number or null (got {row[key]!r})"
                )
        for key in (*TEXTS, *(key for key in OPTIONAL_TEXTS if key in row)):
            if not isinstance(row[key], str):
                raise ValueError(f"{where}[{index}].{key}: must be text (got {row[key]!r})")
        for key, values in (*((key, [row[key]]) for key in COUNTS), ("seeds", row["seeds"])):
            if not isinstance(values, Sequence) or not all(type(value) is int for value in values):
                raise ValueError(f"{where}[{index}].{key}: must be whole numbers (got {row[key]!r})")
        counts = row.get("answered", {})
        if not isinstance(counts, Mapping) or not all(type(count) is int for count in counts.values()):
            raise ValueError(f"{where}[{index}].answered: must be counts by name (got {counts!r})")


def answerers(table: Table) -> list[str]:
    """For each method who made the plans behind its numbers over all categories: "gpt: 3 by gpt, 1 by nobody"."""
    found: dict[tuple[str, str], list[str]] = {}
    for line in table.lines:
        for row in line.rows:
            if "answered" in row and not line.category:
                counts = ", ".join(f"{count} by {name}" for name, count in row["answered"].items())
                found.setdefault((row["method"], counts), []).append(line.metric)
    methods, told = [method for method, _ in found], []
    for (method, counts), metrics in found.items():
        of = f" ({', '.join(metrics)})" if methods.count(method) > 1 else ""
        told.append(f"{method}: {counts}{of}")
    return told


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def lower_is_better(metric: str) -> bool:
    """Whether less of it is better; ``region_fid[world]`` is judged by the words before the bracket."""
    return not LOWER_IS_BETTER.isdisjoint(metric.split("[")[0].lower().split("_"))


def verdict(row: Result) -> Literal["better", "worse", ""]:
    """What the paired difference shows: "" while its interval holds 0, where there is none, and of fewer pictures
    than ``FEWEST``: a bootstrap of a handful knows nothing of the others."""
    low, high = row.get("difference_low"), row.get("difference_high")
    if low is None or high is None or low <= 0 <= high or row["n"] < FEWEST:
        return ""
    return "better" if (low > 0) != lower_is_better(row["metric"]) else "worse"


def decimals(values: Iterable[float | None]) -> int:
    """Places after the point that suit these numbers together: 0.123, 1.000, 31.46, 143.2, 0.0042."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    if largest == 0:
        return 3
    power = math.floor(math.log10(largest))
    return max(0, 3 - power) if power > 0 else min(6, max(3, 2 - power))


def number(value: float | None, places: int, sign: bool = False) -> str:
    """The number as text; ``sign`` also writes the plus of a difference."""
    if value is None:
        return NOTHING
    text = f"{value:{'+' if sign else ''},.{places}f}"
    return text if any(digit in text for digit in "123456789") else text.lstrip("+-")  # no "-0.000"


def interval(low: float | None, high: float | None, places: int, sign: bool = False) -> str:
    """ "[0.604, 0.854]", or nothing."""
    if low is None or high is None:
        return ""
    return f"[{number(low, places, sign)}, {number(high, places, sign)}]"


def ranges(seeds: Sequence[int]) -> str:
    """ "0..15, 20" for 0, 1, ..., 15, 20."""
    ordered = sorted(set(seeds))
    if not ordered:
        return NOTHING
    breaks = [i for i, (one, two) in enumerate(pairwise(ordered), start=1) if two != one + 1]
    spans = [ordered[a:b] for a, b in pairwise([0, *breaks, len(ordered)])]
    return ", ".join(f"{span[0]}..{span[-1]}" if len(span) > 1 else f"{span[0]}" for span in spans)


def markdown(rows: Sequence[Result]) -> str:
    """For each benchmark and model: values with intervals, paired differences, and how they were made."""
    return "\n".join(section(table, 3) for table in tables(rows))


def section(table: Table, level: int) -> str:
    """A table as Markdown under a heading of that level."""
    whole_only = 0
    if len(table.methods) > MANY and (whole := [line for line in table.lines if not line.category]):
        whole_only = len(table.lines) - len(whole)
        table = replace(table, lines=tuple(whole))
    values = [[_value(cell, line.decimals, table.runs) for cell in line.cells] for line in table.lines]
    parts = [
        f"{'#' * level} {plain(table.benchmark)}, model {code(table.model)}",
        "",
        *_laid_out(table, table.methods, values),
    ]
    later = [i for i, _ in enumerate(table.methods) if any(_compared(line.cells[i]) for line in table.lines)]
    if later:
        changes = [[_change(line.cells[i], line.decimals) for i in later] for line in table.lines]
        firsts = dict.fromkeys(code(r["against"]) for line in table.lines for r in line.rows if _compared(r))
        against = f"Difference to {', '.join(firsts)}, paired (same prompts, same seeds)"
        parts += ["", f"{against}; bold: its interval excludes 0 (of {FEWEST} pictures at least)."]
        parts += ["", *_laid_out(table, [table.methods[i] for i in later], changes)]
    rows = [row for line in table.lines for row in line.rows]
    parts += ["", *dict.fromkeys(plain(row.get("reads", READS)) for row in rows)]
    if whole_only:
        parts += [
            "",
            f"Over all categories; the numbers of {whole_only} more lines, by category, are in the file.",
        ]
    if goals := [row for row in rows if "goal" in row]:
        parts += ["", "Goals:", ""]
        parts += [f"- {plain(r['method'])}, {code(r['metric'])} {plain(r['goal'])}" for r in goals]
    if plans := answerers(table):
        parts += ["", f"{PLANS}:", "", *(f"- {plain(line)}" for line in plans)]
    protocols = dict.fromkeys(protocol for line in table.lines for protocol in line.protocols if protocol)
    metrics = {
        p: dict.fromkeys(code(li.metric) for li in table.lines if p in li.protocols) for p in protocols
    }
    parts += ["", *(f"- {', '.join(names)}: {plain(protocol)}" for protocol, names in metrics.items())]
    parts += ["", *(f"{i}. {_made(run)}" for i, run in enumerate(table.runs, start=1))]
    return "\n".join([*parts, ""])


def _laid_out(table: Table, methods: Sequence[str], cells: list[list[str]]) -> list[str]:
    """``cells[line][method]`` with metrics in rows, or methods in rows where there are more methods than lines or
    than ``MANY``."""
    names = [plain(method) for method in methods]
    grouped = any(line.category for line in table.lines)
    heads = [
        [plain(line.metric) + " ↓" * lower_is_better(line.metric), *[plain(line.category or "all")] * grouped]
        for line in table.lines
    ]
    counts = list(map(_count, table.lines))
    if len(table.methods) > min(MANY, len(table.lines)):
        columns = [f"{', '.join(head)} (n = {n})" for head, n in zip(heads, counts, strict=True)]
        rows = [[name, *column] for name, column in zip(names, zip(*cells, strict=True), strict=True)]
        return padded(["method", *columns], rows, left=1)
    rows = [[*head, n, *row] for head, n, row in zip(heads, counts, cells, strict=True)]
    return padded(["metric", *["category"] * grouped, "n", *names], rows, left=1 + grouped)


def _count(line: Line) -> str:
    """How many pictures: once where it is the same for all methods, else in their order."""
    counts = [NOTHING if cell is None else str(cell["n"]) for cell in line.cells]
    same = {count for count in counts if count != NOTHING}
    return same.pop() if len(same) == 1 else " / ".join(counts)


def padded(header: list[str], body: list[list[str]], left: int) -> list[str]:
    """A Markdown table whose columns also line up in a terminal; all but the first ``left`` to the right."""
    widths = [max(3, *map(len, column)) for column in zip(header, *body, strict=True)]
    rule = [("-" * w if i < left else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    lines = [
        [
            text.ljust(w) if i < left else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        ]
        for line in (header, rule, *body)
    ]
    return [f"| {' | '.join(line)} |" for line in lines]


def _value(row: Result | None, places: int, runs: Sequence[Provenance]) -> str:
    """ "0.729 [0.604, 0.854]", and the number of its run where there are several."""
    if row is None:
        return NOTHING
    run = f"({runs.index(run_of(row)) + 1})" if len(runs) > 1 else ""
    return " ".join(
        filter(None, (number(row["value"], places), interval(row["low"], row["high"], places), run))
    )


def _compared(row: Result | None) -> bool:
    return row is not None and row.get("difference") is not None


def _change(row: Result | None, places: int) -> str:
    if row is None or row.get("difference") is None:
        return NOTHING
    shown, said = number(row["difference"], places, sign=True), verdict(row)
    spread = interval(row.get("difference_low"), row.get("difference_high"), places, sign=True)
    return f"**{shown}** {spread} {said}" if said else f"{shown} {spread}".rstrip()


def _made(run: Provenance) -> str:
    pictures = f"{run.images_per_prompt} picture{'s' * (run.images_per_prompt != 1)} a prompt"
    return f"{code(run.command)}, commit {code(run.commit)}, seeds {ranges(run.seeds)}, {pictures}"


def plain(text: str) -> str:
    """Harmless in a Markdown table: one line, no column, no tag."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    text = " ".join(str(text).split())
    if not text:
        return "(not recorded)"
    fence = "``" if "`" in text else "`"
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"
