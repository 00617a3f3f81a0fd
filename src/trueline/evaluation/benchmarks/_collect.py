"""Examples in the making: whatever a layout cannot hold is counted here by its reason, and said once."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from trueline.boxes import MIN_AREA
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.layout import MAX_PROMPT, MAX_REGIONS, Layout, Region

Rows = TypeVar("Rows", list[Any], dict[str, Any])


class Collector:
    """The examples of one benchmark. ``left_out``: what was left out or changed, reason ->
    number."""

    def __init__(self, name: str):
        self.name = name
        self.left_out: Counter[str] = Counter()
        self._examples: dict[str, Example] = {}

    def add(
        self,
        id: str,
        prompt: Any,
        category: str = "",
        truth: Mapping[str, Any] | None = None,
        regions: Sequence[Region] = (),
    ) -> None:
        """One more example, unless its prompt (without outer white space) is empty or longer than a layout's.

        Raises:
            ValueError: the prompt is not text; the id is there already.
        """
        if not isinstance(prompt, str):
            raise ValueError(f"the prompt must be text (got {prompt!r:.60})")
        prompt = prompt.strip()
        if id in self._examples:
            raise ValueError(f"the id {id} is there twice")
        if not prompt:
            self.left_out["empty prompts skipped"] += 1
        elif len(prompt) > MAX_PROMPT:
            self.left_out[f"prompts of more than {MAX_PROMPT} characters skipped"] += 1
        else:
            self._examples[id] = Example(id, Layout(prompt, regions=regions, id=id), category, truth or {})

    def regions(self, things: Iterable[tuple[Any, ...]], side: float = 1.0) -> list[Region]:
        """Regions of (phrase, xyxy box) or (phrase, xyxy box, label), the boxes on a canvas of ``side`` x ``side``
        pixels.

        Boxes are clipped to the canvas; those without four numbers or (clipped) without area, and those after
        the thirtieth, are dropped.
        """
        found = []
        for phrase, corners, *label in things:
            four = isinstance(corners, list | tuple) and len(corners) == 4
            if not four or not all(type(v) in (int, float) and abs(v) < 1e9 for v in corners):
                self.left_out["boxes without four numbers dropped"] += 1
                continue
            given = tuple(value / side for value in corners)
            x0, y0, x1, y1 = box = tuple(min(max(value, 0.0), 1.0) for value in given)
            if x0 >= x1 or y0 >= y1 or (x1 - x0) * (y1 - y0) < MIN_AREA:
                self.left_out["boxes without area dropped"] += 1
                continue
            self.left_out["boxes clipped to the picture"] += box != given
            found.append(Region(phrase, box, label=label[0] if label else None))
        self.left_out[f"boxes after the {MAX_REGIONS}th dropped"] += max(len(found) - MAX_REGIONS, 0)
        return found[:MAX_REGIONS]

    def finish(self) -> tuple[tuple[Example, ...], dict[str, int]]:
        """All examples, in order, and what was left out; one warning says the latter, if there is any."""
        self.left_out = +self.left_out
        if self.left_out:
            said = ", ".join(f"{number} {reason}" for reason, number in self.left_out.items())
            warnings.warn(f"{self.name}: {said}", stacklevel=3)
        return tuple(self._examples.values()), dict(self.left_out)


def some(rows: Rows, path: Path, cure: str) -> Rows:
    """The rows of a file.

    Raises:
        ValueError: there is none.
    """
    if not rows:
        raise ValueError(f"{path}: is empty; {cure}")
    return rows


def corners_of(given: Any, side: float = 1.0) -> list[float]:
    """An xyxy box on a canvas of ``side`` x ``side``, as given.

    Raises:
        ValueError: not four finite numbers, no area, or outside the canvas.
    """
    four = isinstance(given, list | tuple) and len(given) == 4
    if not four or not all(type(value) in (int, float) and math.isfinite(value) for value in given):
        raise ValueError(f"a box has four numbers (got {given!r:.60})")
    x0, y0, x1, y1 = given
    if x0 >= x1 or y0 >= y1 or x1 <= 0 or y1 <= 0 or x0 >= side or y0 >= side:
        raise ValueError(f"a box is x0, y0, x1, y1 in 0..{side:g}, with an area (got {given!r:.60})")
    return list(given)


@contextmanager
def row_of(path: Path, row: int | str, cure: str) -> Iterator[None]:
    """Errors within are about this row: its line number, or its name."""
    where = f"{path}, line {row}" if isinstance(row, int) else f"{path}, {row}"
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{where}: {error} is missing; {cure}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}; {cure}") from None


def chosen(option: str, given: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names given, in the order of ``known``; text is a list with commas.

    Raises:
        ValueError: none, or an unknown one.
    """
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    if not names or (unknown := [name for name in names if name not in known]):
        wrong = repr(unknown[0]) if names else "none"
        raise ValueError(f"{option}: must be of {', '.join(known)} (got {wrong})")
    return tuple(name for name in known if name in names)
