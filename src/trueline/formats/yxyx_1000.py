"""Ideogram 4's JSON captions, one file per picture: ``high_level_description`` (the prompt), and in
``compositional_deconstruction`` a ``background`` and ``elements`` with ``bbox`` and ``desc`` (the phrase).

A bbox is y_min, x_min, y_max, x_max in whole thousandths of the picture: half of one is a pixel at 1,000 pixels. What
else there is (``style_description``, the background) stays in ``meta["yxyx-1000"]`` and is written again; colours and
wordings of single elements have no place in a layout.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trueline.boxes import Box
from trueline.formats._build import check_order, cut_box, make_layout, make_region
from trueline.formats._conversion import Options, Tally
from trueline.formats._input import describe, json_files, mismatch, numbers, objects, read_json
from trueline.formats._output import kept_extras, save_each, whole
from trueline.layout import Layout, Region

FORM = "an object with high_level_description and compositional_deconstruction (background, elements)"
PROMPT, PARTS, ELEMENTS = "high_level_description", "compositional_deconstruction", "elements"
GRID = 1000
ORDER = "y_min, x_min, y_max, x_max in 0..1000"
NAME = "yxyx-1000"
NO_BACKGROUND = "backgrounds left empty, as no layout has one: describe them"
ROUNDED = "boxes rounded to thousandths of the picture"


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    for file in json_files(path, options):
        yield _layout(file, options, file.stem if path.is_dir() else None)


def _layout(path: Path, options: Options, id: str | None) -> Layout | None:
    content = read_json(path, options)
    parts = content.get(PARTS) if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not isinstance(parts.get(ELEMENTS), list):
        raise mismatch(path, options, describe(content))
    rows = objects(parts[ELEMENTS], f"{path}, elements")
    regions = [_region(row, f"{path}, elements[{place}]", options.tally) for place, row in enumerate(rows)]
    kept = {key: value for key, value in content.items() if key not in (PROMPT, PARTS)}
    if isinstance(parts.get("background"), str) and parts["background"]:
        kept["background"] = parts["background"]
    meta = {NAME: kept} if kept else {}
    return make_layout(content.get(PROMPT), regions, str(path), options.tally, id=id, meta=meta)


def _region(row: dict[str, Any], where: str, tally: Tally) -> Region | None:
    for key in ("text", "color_palette"):
        if row.get(key):
            tally.lose(f"{key} of elements", where)
    if row.get("bbox") is None:
        tally.lose("elements without a box, left out", where)
        return None
    box = grid_box(row["bbox"], f"{where}, bbox", tally)
    return make_region(row.get("desc"), box, f"{where}, desc", tally)


def grid_box(value: Any, where: str, tally: Tally) -> Box | None:
    """The box of y_min, x_min, y_max, x_max in thousandths.

    Raises:
        ValueError: a value beyond 0..1000, none beyond 1 (these are fractions), or a min above its max.
    """
    y0, x0, y1, x1 = numbers(value, 4, ORDER, where)
    for name, corner in (("y_min", y0), ("x_min", x0), ("y_max", y1), ("x_max", x1)):
        if not 0 <= corner <= GRID:
            cure = "divide pixels by the picture's height (y) and width (x), times 1000"
            raise ValueError(f"{where}: {name} must be between 0 and 1000 (got {corner:g}); {cure}")
    if 0 < max(y1, x1) <= 1:
        raise ValueError(f"{where}: must be {ORDER}, not fractions (got {value}); multiply them by 1000")
    check_order((x0, y0, x1, y1), where, ORDER)
    return cut_box((x0 / GRID, y0 / GRID, x1 / GRID, y1 / GRID), where, tally)


def on_grid(box: Box) -> list[int]:
    x0, y0, x1, y1 = whole(box, GRID, GRID)
    return [y0, x0, y1, x1]


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    contents = []
    for number, layout in enumerate(layouts, start=1):
        kept = {k: v for k, v in kept_extras(layout, NAME).items() if k not in (PROMPT, PARTS)}
        background = kept.pop("background", "")
        if not background:
            options.tally.note(NO_BACKGROUND, f"layout {number}")
        rows = [{"type": "obj", "bbox": on_grid(each.box), "desc": each.phrase} for each in layout.regions]
        parts = {"background": background, ELEMENTS: rows}
        content = {PROMPT: layout.prompt} | kept | {PARTS: parts}  # the order in which the model was trained
        contents.append((json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n").encode())
    options.tally.note(ROUNDED)
    save_each(layouts, contents, path, options)
