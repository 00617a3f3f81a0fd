"""FLUX.3's prompts with boxes, one per line: the caption, a space, and a JSON table of its elements.

    a red apple <apple_1> on a table [{"id": "apple_1", "bbox": [350, 50, 700, 400], "desc": "a red apple"}]

A bbox is y_min, x_min, y_max, x_max in whole thousandths of the picture, ``desc`` the phrase; the caption cites each
id after the words that name it. (diffusers' argument ``boxes`` has the same rows in fractions.)
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trueline.formats._build import make_layout, make_region
from trueline.formats._conversion import Options
from trueline.formats._input import mismatch, read_text
from trueline.formats._output import refuse_marks, save_file
from trueline.formats.yxyx_1000 import ROUNDED, grid_box, on_grid
from trueline.layout import Layout

FORM = "lines of a caption and a JSON table of id, bbox and desc"
UNCITED = "boxes that no <id> cites, as the prompt does not hold their phrase"
EDITS = "rows that move something of another picture (src_bbox, tgt_bbox), left out"
_WORD = re.compile(r"[A-Za-z]+$")


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    text = read_text(path, options)
    if not text.strip():
        raise mismatch(path, options, "an empty file")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _layout(line, path, number, options)


def _layout(line: str, path: Path, number: int, options: Options) -> Layout | None:
    split = _split(line)
    if split is None:
        raise mismatch(path, options, f"{line[:60]!r} (line {number})")
    caption, rows = split
    regions = []
    for place, row in enumerate(rows):
        where = f"{path}, line {number}, row {place + 1}"
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise ValueError(f"{where}: must be an object with id, bbox and desc (got {row!r:.60})")
        caption = caption.replace(f" <{row['id']}>", "").replace(f"<{row['id']}>", "")
        if "bbox" not in row and ("tgt_bbox" in row or "src_bbox" in row):
            options.tally.lose(EDITS, where)
            continue
        box = grid_box(row.get("bbox"), f"{where}, bbox", options.tally)
        regions.append(make_region(row.get("desc"), box, f"{where}, desc", options.tally))
    return make_layout(caption, regions, f"{path}, line {number}", options.tally)


def _split(line: str) -> tuple[str, list[Any]] | None:
    """The caption, and the JSON list that ends the line."""
    text, decoder = line.rstrip(), json.JSONDecoder()
    start = text.find("[")
    while start >= 0:
        try:
            rows, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = -1
        if end == len(text):
            return text[:start].removesuffix(" "), rows
        start = text.find("[", start + 1)
    return None


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    lines = [_line(layout, f"layout {number}", options) for number, layout in enumerate(layouts, start=1)]
    options.tally.note(ROUNDED)
    save_file(path, "".join(lines).encode(), options)


def _line(layout: Layout, where: str, options: Options) -> str:
    refuse_marks(layout.prompt, (), f"{where}, prompt", "a line of FLUX.3's prompts")
    cited: list[tuple[int, int, str]] = []  # where a phrase begins and ends in the prompt, and its id
    rows: list[dict[str, Any]] = []
    for place, region in enumerate(layout.regions):
        id = _id(region.phrase, [row["id"] for row in rows], layout.prompt)
        rows.append({"id": id, "bbox": on_grid(region.box), "desc": region.phrase})
        for match in re.finditer(rf"(?<!\w){re.escape(region.phrase)}(?!\w)", layout.prompt, re.IGNORECASE):
            if all(match.end() <= begin or end <= match.start() for begin, end, _ in cited):
                cited.append((*match.span(), id))
                break
        else:
            options.tally.note(UNCITED, f"{where}, regions[{place}]")
    caption = layout.prompt
    for _, end, id in sorted(cited, reverse=True):
        caption = f"{caption[:end]} <{id}>{caption[end:]}"
    return f"{caption} {json.dumps(rows, ensure_ascii=False)}\n"


def _id(phrase: str, taken: Sequence[str], prompt: str) -> str:
    """The phrase's last word and a number: letters, digits and _ only, and nothing that the prompt holds already."""
    word = _WORD.search(phrase.strip())
    noun = word[0].lower() if word else "obj"
    number = 1
    while (id := f"{noun}_{number}") in taken or f"<{id}>" in prompt:
        number += 1
    return id
