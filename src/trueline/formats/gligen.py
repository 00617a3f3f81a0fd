"""GLIGEN's inference: ``meta_list`` of ``gligen_inference.py`` as a JSON list.

An entry has ``prompt``, ``phrases``, ``locations`` (xyxy in 0..1) and ``save_folder_name`` (here the id). What else
it has (``ckpt``, ``alpha_type``) stays in ``meta.gligen`` and is written again; an entry written for the first time
lacks ``ckpt``, which the script wants. The negative prompt is a flag of the script, one for all entries.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trueline.formats import _build
from trueline.formats._conversion import Options, Tally
from trueline.formats._input import field_of, mismatch, numbers, read_rows
from trueline.formats._output import file_names, json_rows, kept_extras, rounded, save_file
from trueline.layout import Layout

FORM = "a JSON list of objects with prompt, phrases and locations"
KEYS = ("prompt", "phrases", "locations", "save_folder_name", "images", "text_mask", "image_mask")
SWITCHED_OFF = "phrases that text_mask switches off, left out"


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    rows = read_rows(path, options, ("prompt",))
    if not any("locations" in row for row in rows):
        raise mismatch(path, options, f"objects without locations, as {', '.join(rows[0])}")
    for number, row in enumerate(rows, start=1):
        yield _layout(row, f"{path}, row {number}", options.tally)


def _layout(row: dict[str, Any], where: str, tally: Tally) -> Layout | None:
    if row.get("phrases") is None and row.get("locations"):
        raise ValueError(f"{where}, phrases: is missing; boxes with reference pictures only cannot be read")
    phrases, places = _build.phrases_and_boxes(row, "phrases", "locations", where)
    switches = field_of(row, "text_mask", list, "a list of 0 and 1", where, [1] * len(places))
    for place, image in enumerate(field_of(row, "images", list, "a list of files", where, [])):
        if image is not None:
            tally.lose("reference pictures", f"{where}, images[{place}]")
    regions = []
    for place, (phrase, corners) in enumerate(zip(phrases, places, strict=True)):
        field = f"{where}, locations[{place}]"
        if switches[place : place + 1] == [0]:
            tally.lose(SWITCHED_OFF, field)
            continue
        box = _build.fraction_box(numbers(corners, 4, _build.FRACTIONS, field), field, tally)
        regions.append(_build.make_region(phrase, box, f"{where}, phrases[{place}]", tally))
    meta = _build.extras(row, KEYS, "gligen")
    id = row.get("save_folder_name")
    return _build.make_layout(row.get("prompt"), regions, where, tally, id=id, meta=meta)


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    rows = [
        kept_extras(layout, options.format)
        | {
            "prompt": layout.prompt,
            "phrases": [region.phrase for region in layout.regions],
            "locations": [rounded(region.box.xyxy) for region in layout.regions],
            "save_folder_name": name,
        }
        for layout, name in zip(layouts, file_names(layouts), strict=True)
    ]
    save_file(path, json_rows(rows), options)
