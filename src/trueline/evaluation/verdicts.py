"""Per-picture verdicts: what each picture adds to each metric, so that anyone can compute a table's numbers again.

``NAME.json`` has its verdicts in ``verdicts/NAME.jsonl.xz`` beside it: JSON Lines, compressed, so that Python's
``lzma`` and ``json`` are all a reader needs. Several such files joined by ``cat`` are one. A first line names a run
and its pictures; the lines after it belong to it, one for each method and metric:

    {"benchmark": "world", "model": ..., "command": ..., "commit": ..., "prompts": ["color-0000", ...],
     "seeds": [0, ...], "categories": ["color", ...], "groups": ["", ...]}
    {"method": "plain", "metric": "color_accuracy", "over": [1, ...], "under": [2, null, ...]}

``over`` and ``under`` are numerator and denominator of each picture in seven digits, both null where the metric was
not asked. The figure is the sum of one over the sum of the other, the mean of it over the ``groups`` where there are
several. Figures of whole sets (FID, average precision) are no such sums and have no verdicts.
"""

import json
import lzma
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.figures import Judgements, Pair, TableSettings, ratio_figure
from trueline.evaluation.judgements import RATIO, ratio_names
from trueline.evaluation.tables import Result
from trueline.files import json_lines, parse_json

ABOUT = ("benchmark", "model", "command", "commit")
PICTURES = ("prompts", "seeds", "categories", "groups")
LARGEST = 200_000_000  #: bytes of a file once it is not compressed any more
CLOSE = 2e-6  #: by which figures of verdicts in seven digits may be off, in units of the value or of 1
ENDING = ".jsonl.xz"
CURE = "write it anew with `trueline evaluate`"


@dataclass(frozen=True)
class Verdicts:
    """Of one run. ``pairs``: (method, metric) -> numerator and denominator of each picture, None where not asked."""

    benchmark: str
    model: str
    command: str
    commit: str
    prompts: Sequence[str]
    seeds: Sequence[int]
    categories: Sequence[str]
    groups: Sequence[str]
    pairs: dict[tuple[str, str], Sequence[Pair | None]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pictures: Sequence[Wanted],
        looks: Judgements,
        context: TableSettings,
        labels: Mapping[str, str],
    ) -> "Verdicts":
        """From what judges saw. ``labels``: what a method is called in the table."""
        examples = [picture.example for picture in pictures]
        made = cls(
            *(context.benchmark, context.model, context.command, context.commit),
            [example.id for example in examples],
            [picture.seed for picture in pictures],
            [example.category for example in examples],
            [context.group_of(example) for example in examples],
        )
        for method, seen in looks.items():
            for each in seen.values():
                for metric in ratio_names(each):
                    arrays = [one.get(RATIO + metric) for one in each]
                    made.pairs[labels.get(method, method), metric] = [
                        None if array is None else (float(array[0]), float(array[1])) for array in arrays
                    ]
        return made

    def lines(self) -> Iterator[dict[str, Any]]:
        yield {name: getattr(self, name) for name in (*ABOUT, *PICTURES)}
        for (method, metric), pairs in self.pairs.items():
            over, under = ([None if pair is None else _short(pair[i]) for pair in pairs] for i in (0, 1))
            yield {"method": method, "metric": metric, "over": over, "under": under}

    def holds(self, row: Result) -> bool:
        """Whether they are of the row's run, and of its metric for its method and the one it is compared with."""
        methods = [row["method"], *([row["against"]] if "against" in row else [])]
        return all(row[name] == getattr(self, name) for name in ABOUT) and all(
            (method, row["metric"]) in self.pairs for method in methods
        )

    def wrong(self, row: Result) -> str:
        """What of a row that they hold is not what they give, "" where all is: value, interval, n, difference."""
        mine, other = (self._inside(row, row.get(name)) for name in ("method", "against"))
        places = [p for p, category in enumerate(self.categories) if row["category"] in ("", category)]
        if not any(mine[place] for place in places):
            return f"n is {row['n']}, and 0 of the verdicts"
        own, difference = ratio_figure(
            [mine[place] for place in places],
            [other[place] for place in places] if other else None,
            [self.prompts[place] for place in places],
            [self.groups[place] for place in places],
        )
        found = {"n": own.n, "value": own.value, "low": own.low, "high": own.high}
        if "difference" in row and difference is not None:
            ends = difference.value, difference.low, difference.high
            found |= dict(zip(("difference", "difference_low", "difference_high"), ends, strict=True))
        elif "difference" in row:
            found["difference"] = None
        scale = CLOSE * max(1.0, abs(row["value"] or 0.0))
        for name, number in found.items():
            if not _close(row[name], number, scale):
                return f"{name} is {_said(row[name])}, and {_said(number)} by the verdicts"
        return ""

    def _inside(self, row: Result, method: str | None) -> Sequence[Pair | None]:
        return self.pairs[method, row["metric"]] if method else ()


def packed(runs: Iterable[Verdicts]) -> bytes:
    """The compressed lines of the runs; the same for the same verdicts."""
    return lzma.compress(json_lines(line for run in runs for line in run.lines()), preset=9)


def file_of(results: Path) -> Path:
    """Where the verdicts of a results file lie."""
    return results.parent / "verdicts" / f"{results.stem}{ENDING}"


def read_verdicts(path: Path) -> list[Verdicts]:
    """The runs of a file.

    Raises:
        ValueError: it cannot be read, or is not of that form; with the line.
    """
    runs: list[Verdicts] = []
    for number, line in enumerate(_unpacked(path).splitlines(), start=1):
        where = f"{path}, line {number}"
        found = parse_json(line.decode("utf-8", "replace"), where, CURE)
        if not isinstance(found, dict):
            raise ValueError(f"{where}: must be an object; {CURE}")
        if found.keys() == {*ABOUT, *PICTURES}:
            runs.append(_run(found, where))
        elif found.keys() == {"method", "metric", "over", "under"} and runs:
            key = str(found["method"]), str(found["metric"])
            if key in runs[-1].pairs:
                raise ValueError(f"{where}: {key[0]}, {key[1]} is there twice; {CURE}")
            runs[-1].pairs[key] = _pairs(found, len(runs[-1].prompts), where)
        else:
            raise ValueError(f"{where}: neither a run nor verdicts of one; {CURE}")
    return runs


def _unpacked(path: Path) -> bytes:
    try:
        with lzma.open(path) as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {CURE}") from None
    if len(content) > LARGEST:
        raise ValueError(f"{path}: holds more than {LARGEST:,} bytes; {CURE}")
    return content


def _run(found: dict[str, Any], where: str) -> Verdicts:
    kinds = dict.fromkeys(PICTURES, str) | {"seeds": int}
    for name, kind in kinds.items():
        if not isinstance(found[name], list) or not all(type(each) is kind for each in found[name]):
            raise ValueError(f"{where}: {name} must be a list, of {kind.__name__}; {CURE}")
    if len({len(found[name]) for name in PICTURES}) > 1:
        raise ValueError(f"{where}: {', '.join(PICTURES)} must be of one length; {CURE}")
    return Verdicts(**found)


def _pairs(found: dict[str, Any], count: int, where: str) -> list[Pair | None]:
    for name in ("over", "under"):
        if not isinstance(found[name], list) or len(found[name]) != count:
            raise ValueError(f"{where}: {name} must be a list of {count} numbers; {CURE}")
    pairs: list[Pair | None] = []
    for over, under in zip(found["over"], found["under"], strict=True):
        if over is None and under is None:
            pairs.append(None)
        elif _counts(over) and _counts(under) and under >= 0:
            pairs.append((float(over), float(under)))
        else:
            raise ValueError(f"{where}: {over!r} over {under!r} is no verdict; {CURE}")
    return pairs


def _counts(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float) -> float:
    short = float(f"{value:.7g}")
    return int(short) if short.is_integer() else short


def _close(recorded: float | None, found: float | None, scale: float) -> bool:
    if recorded is None or found is None:
        return recorded is found
    return abs(recorded - found) <= scale


def _said(value: float | None) -> str:
    return "nothing" if value is None else json.dumps(round(value, 9))
