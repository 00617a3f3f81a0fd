"""LLM-grounded Diffusion (LMD): blocks of text as its prompt shows them to a language model.

    Caption: Two pandas in a forest without flowers
    Objects: [('a panda', [30, 171, 212, 226]), ('a panda', [264, 173, 222, 221])]
    Background prompt: A forest
    Negative prompt: flowers

Boxes are xywh in pixels of 512x512. A background stays in ``meta.lmd``; where there is none, it is the one that LMD's
prompt names for that case. LMD itself looks for these words anywhere in the text, drops a full stop that ends a name
and takes a negative prompt "None" for none: texts that would be read otherwise are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trueline.formats._build import make_layout, make_region, pixel_box, refuse_fractions
from trueline.formats._conversion import Options
from trueline.formats._input import mismatch, read_text
from trueline.formats._output import DEFAULT, kept_extras, save_file, whole
from trueline.formats._pairs import FORM as PAIRS
from trueline.formats._pairs import pairs, spelled
from trueline.layout import Layout

FORM = "text of Caption:, Objects:, Background prompt: and Negative prompt: lines"
CAPTION, OBJECTS, BACKGROUND, NEGATIVE = "Caption", "Objects", "Background prompt", "Negative prompt"
NO_BACKGROUND = "A realistic scene"
FILLED = f"background prompts filled in as {NO_BACKGROUND!r}"
_KEY = re.compile(rf"({CAPTION}|{OBJECTS}|{BACKGROUND}|{NEGATIVE}):[ ]?")
_MARK = re.compile(rf"(?:{OBJECTS}|{BACKGROUND}|{NEGATIVE}):")


def read(path: Path, options: Options) -> list[Layout]:
    text = read_text(path, options.format, FORM)
    blocks = list(_blocks(text, path, options.format))
    if not blocks:
        raise mismatch(path, options.format, FORM, "a file without a Caption: line")
    found = [layout_of(said, where, options) for where, said in blocks]
    return [layout for layout in found if layout is not None]


def _blocks(text: str, path: Path, format: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each begins, and its lines by key. A list of objects may go over several lines."""
    said: dict[str, str] = {}
    where, key = "", ""
    for number, line in enumerate(text.split("\n"), start=1):
        match = _KEY.match(line)
        if match is None:
            if not line.strip():
                continue
            if key != OBJECTS:
                raise mismatch(path, format, FORM, f"{line[:60]!r} (line {number})")
            said[key] += " " + line
            continue
        key = match[1]
        if key == CAPTION:
            if said:
                yield where, said
            said, where = {}, f"{path}, line {number}"
        elif not said:
            raise mismatch(path, format, FORM, f"{key}: before any {CAPTION}: (line {number})")
        if key in said:
            raise ValueError(f"{path}, line {number}: {key} is there twice; begin a layout with {CAPTION}:")
        said[key] = line[match.end() :]
    if said:
        yield where, said


def layout_of(said: dict[str, str], where: str, options: Options) -> Layout | None:
    """A layout of Caption, Objects, and perhaps Background prompt and Negative prompt."""
    if OBJECTS not in said:
        raise ValueError(f"{where}: {OBJECTS} is missing; write {OBJECTS}: {PAIRS}")
    size, tally = options.size or DEFAULT, options.tally
    order = f"x, y, width, height in pixels of {size[0]}x{size[1]}"
    text = said[OBJECTS]
    try:
        things = [] if _says_none(text) else pairs(text)
    except ValueError as error:
        raise ValueError(f"{where}, {OBJECTS}: {error}") from None
    refuse_fractions([box for _, box in things], size, order, f"{where}, {OBJECTS}")
    regions = []
    for place, (name, (x, y, width, height)) in enumerate(things):
        field = f"{where}, {OBJECTS}[{place}]"
        box = pixel_box((x, y, x + width, y + height), size, field, tally)
        if box is not None:
            regions.append(make_region(name, box, field, tally))
    negative = said.get(NEGATIVE, "")
    background = said.get(BACKGROUND, "")
    meta: dict[str, Any] = (
        {"lmd": {"background": background}} if background not in ("", NO_BACKGROUND) else {}
    )
    without = "" if negative.strip() == "None" else negative
    return make_layout(said[CAPTION], regions, where, tally, negative_prompt=without, meta=meta)


def _says_none(text: str) -> bool:
    """Nothing, or the sentence that language models write instead of []."""
    return not text.strip() or ("No objects" in text and not text.lstrip().startswith("["))


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    blocks = []
    for number, layout in enumerate(layouts, start=1):
        refuse(layout.prompt, f"layout {number}, prompt")
        blocks.append(f"{CAPTION}: {layout.prompt}\n{OBJECTS}: {answer(layout, number, options)}\n")
    save_file(path, "\n".join(blocks).encode(), options)


def answer(layout: Layout, number: int, options: Options) -> str:
    """What the language model would have written for a layout, from its list of objects on."""
    size, where = options.size or DEFAULT, f"layout {number}"
    background = kept_extras(layout, "lmd").get("background")
    if not isinstance(background, str) or not background:
        background = NO_BACKGROUND
        options.tally.note(FILLED, where)
    things = []
    for place, region in enumerate(layout.regions):
        refuse(spelled(region.phrase), f"{where}, regions[{place}].phrase")
        x0, y0, x1, y1 = whole(region.box, *size)
        things.append(f"({spelled(region.phrase)}, [{x0}, {y0}, {x1 - x0}, {y1 - y0}])")
    refuse(background, f"{where}, meta.lmd.background")
    refuse(layout.negative_prompt, f"{where}, negative_prompt")
    if layout.negative_prompt.strip() == "None":
        raise ValueError(f'{where}, negative_prompt: LMD takes "None" for none; write something else')
    options.tally.note(f"boxes rounded to whole pixels of {size[0]}x{size[1]}", where)
    lines = f"{BACKGROUND}: {background}\n{NEGATIVE}: {layout.negative_prompt}"
    return f"[{', '.join(things)}]\n{lines}"


def refuse(text: str, where: str) -> None:
    """Text that would end or begin a line or a field of LMD."""
    if "\n" in text or "\r" in text:
        raise ValueError(f"{where}: has a line break, which LMD's text cannot hold; remove it")
    if mark := _MARK.search(text):
        raise ValueError(
            f"{where}: holds {mark[0]!r}, which LMD takes for a field; write it without the colon"
        )
