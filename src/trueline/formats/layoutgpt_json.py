"""LayoutGPT's published plans, ``llm_output/*.json``: a JSON list of ``query_id``, ``iter``, ``prompt`` and
``object_list`` [[name, [x0, y0, x1, y1]]] in 0..1. Read by ``planner.replay``."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from trueline.formats._build import cut_box, make_layout, make_region
from trueline.formats._conversion import Options
from trueline.formats._input import read_rows
from trueline.formats._output import json_rows, rounded, save_file
from trueline.layout import Layout
from trueline.planner.replay import PublishedPlan, replay

FORM = "a JSON list of objects with query_id, iter, prompt and object_list"
KEYS = ("query_id", "iter", "prompt", "object_list")
NAMELESS = "boxes without a name, left out"
_ID = re.compile(r"plan-(\d{1,15})-(\d{1,9})", re.ASCII)


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    read_rows(path, options, KEYS)
    for number, plan in enumerate(replay(path), start=1):
        yield _layout(plan, f"{path}, row {number}", options)


def _layout(plan: PublishedPlan, where: str, options: Options) -> Layout | None:
    """Boxes that stick out at zero are cut: a language model's. One beyond 1 is in pixels."""
    regions = []
    for place, (name, corners) in enumerate(plan.things):
        field = f"{where}, object_list[{place}]"
        if max(corners) > 1:
            cure = "divide pixels by LayoutGPT's canvas of 64 or 256"
            raise ValueError(f"{field}: its box must be in 0..1 (got {max(corners):g}); {cure}")
        if not name or not name.strip():
            options.tally.lose(NAMELESS, field)
            continue
        box = cut_box(corners, field, options.tally)
        regions.append(make_region(name, box, field, options.tally))
    id = f"plan-{plan.query:06d}-{plan.iteration}"
    return make_layout(plan.prompt, regions, where, options.tally, id=id)


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    """Query and iteration are those of the ids that reading gives; otherwise the layouts are numbered."""
    named = [_ID.fullmatch(layout.id or "") for layout in layouts]
    keys = [(int(match[1]), int(match[2])) for match in named if match]
    if len(set(keys)) < len(layouts):
        for number, layout in enumerate(layouts, start=1):
            if layout.id is not None:
                options.tally.lose("ids other than plan-QUERY-ITER", f"layout {number}, {layout.id}")
        keys = [(number, 0) for number in range(1, len(layouts) + 1)]
    rows = [
        {
            "query_id": query,
            "iter": iteration,
            "prompt": layout.prompt,
            "object_list": [[region.phrase, rounded(region.box.xyxy)] for region in layout.regions],
        }
        for (query, iteration), layout in zip(keys, layouts, strict=True)
    ]
    save_file(path, json_rows(rows), options)
