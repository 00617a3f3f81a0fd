"""Plans that somebody has published, read as they are: LayoutGPT's ``llm_output/*.json``.

``trueline evaluate nsr-1k-layout --planner replay:FILE`` scores such a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.benchmarks._files import Source, read_json_list
from trueline.layout import MAX_REGIONS, MIN_AREA, Layout, Region
from trueline.perception import Corners

SOURCE = Source("weixi-feng/LayoutGPT", "fc3195496255", "MIT")


@dataclass(frozen=True)
class Plan:
    """One published plan. ``query``: id of the benchmark's row; ``iteration``: which of the plans for it, from 0.

    ``things``: (name, xyxy box in 0..1) as published: a name may be None, a box may be inverted, stick out, or be
    all zeros where the language model's answer could not be read.
    """

    query: int
    iteration: int
    prompt: str
    things: tuple[tuple[str | None, Corners], ...]

    @property
    def names(self) -> tuple[str | None, ...]:
        return tuple(name for name, _ in self.things)

    def layout(self) -> Layout:
        """What can be drawn of the plan: boxes cut to the picture, without those that have no name or (nearly) no
        area, at most as many as a layout holds. ``len(plan.things) - len(layout.regions)`` says how many are gone.
        """
        regions = []
        for name, corners in self.things:
            x0, y0, x1, y1 = (min(max(corner, 0.0), 1.0) for corner in corners)
            if name and name.strip() and x0 < x1 and y0 < y1 and (x1 - x0) * (y1 - y0) >= MIN_AREA:
                regions.append(Region(name, (x0, y0, x1, y1)))
        return Layout(
            self.prompt, regions=regions[:MAX_REGIONS], id=f"plan-{self.query:06d}-{self.iteration}"
        )


def replay(path: str | Path) -> list[Plan]:
    """The plans of a file, in its order: a JSON list of objects with ``query_id``, ``iter``, ``prompt`` and
    ``object_list`` [[name, [x0, y0, x1, y1]]].

    Raises:
        ValueError: naming the file and the row; also for two plans of one query and iteration.
    """
    path = Path(path)
    plans: dict[tuple[int, int], Plan] = {}
    for number, row in enumerate(read_json_list(path, SOURCE), start=1):
        try:
            plan = _plan(row)
            if (key := (plan.query, plan.iteration)) in plans:
                raise ValueError(
                    f"query_id {plan.query}, iter {plan.iteration} is there twice; keep one of them"
                )
        except KeyError as error:
            raise ValueError(f"{path}, row {number}: {error} is missing; give LayoutGPT's format") from None
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        plans[key] = plan
    return list(plans.values())


def _plan(row: dict[str, Any]) -> Plan:
    things = row["object_list"]
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise ValueError(f"prompt: must be text (got {row['prompt']!r})")
    if not isinstance(things, list):
        raise ValueError(f"object_list: must be a list of [name, box] (got {type(things).__name__})")
    placed = tuple(_thing(thing, place) for place, thing in enumerate(things))
    return Plan(_whole(row["query_id"], "query_id"), _whole(row["iter"], "iter"), row["prompt"], placed)


def _thing(thing: Any, place: int) -> tuple[str | None, Corners]:
    field = f"object_list[{place}]"
    if not isinstance(thing, list) or len(thing) != 2:
        raise ValueError(f"{field}: must be [name, [x0, y0, x1, y1]] (got {thing!r})")
    name, box = thing
    if name is not None and not isinstance(name, str):
        raise ValueError(f"{field}: its name must be text or null (got {name!r})")
    numbers = isinstance(box, list) and all(
        isinstance(corner, int | float) and not isinstance(corner, bool) and math.isfinite(corner)
        for corner in box
    )
    if not numbers or len(box) != 4:
        raise ValueError(f"{field}: its box must be four numbers x0, y0, x1, y1 (got {box!r})")
    x0, y0, x1, y1 = (float(corner) for corner in box)
    return name, (x0, y0, x1, y1)


def _whole(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{field}: must be a whole number, 0 or more (got {value!r})")
    return value
