"""BoxDiff: the flags of ``run_sd_boxdiff.py`` and ``run_gligen_boxdiff.py`` as a JSON list of objects.

``prompt``, ``gligen_phrases`` (or ``phrases``), ``bbox`` (xyxy in pixels of 512x512) and ``seeds``. What else there
is (``P``, ``L``, ``token_indices``) stays in ``meta.boxdiff`` and is written again. ``token_indices`` depend on the
tokenizer and are not made up here: BoxDiff asks for them when they are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trueline.formats._build import check_order, extras, make_layout, make_region, pixel_box, refuse_fractions
from trueline.formats._conversion import Options
from trueline.formats._input import field_of, numbers, read_rows
from trueline.formats._output import DEFAULT, json_rows, kept_extras, save_file, whole
from trueline.layout import Layout

FORM = "a JSON list of objects with prompt, bbox and gligen_phrases"
KEYS = ("prompt", "gligen_phrases", "phrases", "bbox", "seeds")


def read(path: Path, options: Options) -> list[Layout]:
    rows = read_rows(path, options.format, FORM, ("prompt", "bbox"))
    found = [_layout(row, f"{path}, row {number}", options) for number, row in enumerate(rows, start=1)]
    return [layout for layout in found if layout is not None]


def _layout(row: dict[str, Any], where: str, options: Options) -> Layout | None:
    size, tally = options.size or DEFAULT, options.tally
    order = f"x0, y0, x1, y1 in pixels of {size[0]}x{size[1]}"
    places = field_of(row, "bbox", list, "a list of boxes", where)
    key = "phrases" if "phrases" in row else "gligen_phrases"
    phrases = field_of(row, key, list, "a list of texts, one a box", where)
    if len(phrases) != len(places):
        raise ValueError(f"{where}: has {len(phrases)} {key} and {len(places)} boxes; give one phrase a box")
    boxes = [numbers(box, 4, order, f"{where}, bbox[{place}]") for place, box in enumerate(places)]
    refuse_fractions(boxes, size, order, f"{where}, bbox")
    regions = []
    for place, (phrase, corners) in enumerate(zip(phrases, boxes, strict=True)):
        check_order(corners, f"{where}, bbox[{place}]", order)
        box = pixel_box(corners, size, f"{where}, bbox[{place}]", tally)
        if box is not None:
            regions.append(make_region(phrase, box, f"{where}, {key}[{place}]", tally))
    seeds = field_of(row, "seeds", list, "a list of whole numbers", where, [])
    for seed in seeds[1:]:
        tally.lose("seeds beyond the first of a layout", f"{where}, seeds ({seed!r:.20})")
    meta = extras(row, KEYS, "boxdiff")
    return make_layout(row["prompt"], regions, where, tally, seed=seeds[0] if seeds else None, meta=meta)


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    size = options.size or DEFAULT
    rows = [
        kept_extras(layout, options.format)
        | {
            "prompt": layout.prompt,
            "gligen_phrases": [region.phrase for region in layout.regions],
            "bbox": [list(whole(region.box, *size)) for region in layout.regions],
        }
        | ({} if layout.seed is None else {"seeds": [layout.seed]})
        for layout in layouts
    ]
    options.tally.note(f"boxes rounded to whole pixels of {size[0]}x{size[1]}")
    save_file(path, json_rows(rows), options)
