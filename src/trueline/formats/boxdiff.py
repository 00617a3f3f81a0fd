"""BoxDiff: the flags of ``run_sd_boxdiff.py`` and ``run_gligen_boxdiff.py`` as a JSON list of objects.

``prompt``, ``gligen_phrases`` (or ``phrases``), ``bbox`` (xyxy in pixels of 512x512) and ``seeds``. What else there
is (``P``, ``L``, ``token_indices``) stays in ``meta.boxdiff`` and is written again. ``token_indices`` depend on the
tokenizer and are not made up here: BoxDiff asks for them when they are missing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trueline.formats import _build
from trueline.formats._conversion import Options
from trueline.formats._input import field_of, numbers, read_rows
from trueline.formats._output import DEFAULT, json_rows, kept_extras, save_file, whole
from trueline.layout import Layout

FORM = "a JSON list of objects with prompt, bbox and gligen_phrases"
KEYS = ("prompt", "gligen_phrases", "phrases", "bbox", "seeds")


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    for number, row in enumerate(read_rows(path, options, ("prompt", "bbox")), start=1):
        yield _layout(row, f"{path}, row {number}", options)


def _layout(row: dict[str, Any], where: str, options: Options) -> Layout | None:
    size, tally = options.size or DEFAULT, options.tally
    order = f"x0, y0, x1, y1 in pixels of {size[0]}x{size[1]}"
    key = "phrases" if "phrases" in row else "gligen_phrases"
    phrases, places = _build.phrases_and_boxes(row, key, "bbox", where)
    boxes = [numbers(box, 4, order, f"{where}, bbox[{place}]") for place, box in enumerate(places)]
    _build.refuse_fractions(boxes, size, order, f"{where}, bbox")
    regions = []
    for place, (phrase, corners) in enumerate(zip(phrases, boxes, strict=True)):
        _build.check_order(corners, f"{where}, bbox[{place}]", order)
        box = _build.pixel_box(corners, size, f"{where}, bbox[{place}]", tally)
        regions.append(_build.make_region(phrase, box, f"{where}, {key}[{place}]", tally))
    seeds = field_of(row, "seeds", list, "a list of whole numbers", where, [])
    for seed in seeds[1:]:
        tally.lose("seeds beyond the first of a layout", f"{where}, seeds ({seed!r:.20})")
    meta = _build.extras(row, KEYS, "boxdiff")
    return _build.make_layout(
        row["prompt"], regions, where, tally, seed=seeds[0] if seeds else None, meta=meta
    )


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    size = options.size or DEFAULT
    rows = []
    for layout in layouts:
        row = kept_extras(layout, options.format) | {
            "prompt": layout.prompt,
            "gligen_phrases": [region.phrase for region in layout.regions],
            "bbox": [list(whole(region.box, *size)) for region in layout.regions],
        }
        rows.append(row if layout.seed is None else row | {"seeds": [layout.seed]})
    options.tally.note(f"boxes rounded to whole pixels of {size[0]}x{size[1]}")
    save_file(path, json_rows(rows), options)
