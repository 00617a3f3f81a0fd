"""LayoutGPT's prompts: CSS rules, as its language models write them.

    Prompt: two cats on a sofa
    Layout:
    cat {height: 20px; width: 16px; top: 30px; left: 8px; }

The pixels are those of a square that the text does not name: 64 for LayoutGPT's GPT-4, 256 for its Llama. LayoutGPT
itself drops digits from names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from trueline.formats._build import make_layout, make_region, pixel_box
from trueline.formats._conversion import Options
from trueline.formats._input import mismatch, read_text
from trueline.formats._output import save_file, whole
from trueline.layout import Layout

FORM = "blocks of a Prompt: line, a Layout: line and CSS rules"
PROMPT, LAYOUT = "Prompt:", "Layout:"
CANVAS = (64, 64)
SIDES = ("height", "width", "top", "left")
DIGITS = "phrases with digits, which LayoutGPT itself drops"
_PIXELS = re.compile(r"[-+]?\d{1,7}(?:\.\d{1,7})?(?:px)?")
Block = tuple[int, str, list[tuple[int, str]]]  #: line number, prompt, numbered rules


def read(path: Path, options: Options) -> list[Layout]:
    layouts = []
    for number, prompt, rules in _blocks(read_text(path, options.format, FORM), path, options.format):
        regions = []
        for line, rule in rules:
            where = f"{path}, line {line}"
            phrase, (x0, y0, x1, y1) = _rule(rule, where)
            box = pixel_box((x0, y0, x1, y1), options.size or CANVAS, where, options.tally)
            if box is not None:
                regions.append(make_region(phrase, box, where, options.tally))
        layouts.append(make_layout(prompt, regions, f"{path}, line {number}", options.tally))
    return [layout for layout in layouts if layout is not None]


def _blocks(text: str, path: Path, format: str) -> Iterator[Block]:
    block: Block | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith(PROMPT):
            if block:
                yield block
            block = number, line.removeprefix(PROMPT).removeprefix(" "), []
        elif block is None and line.strip():
            raise mismatch(path, format, FORM, f"{line[:60]!r} (line {number})")
        elif block and line.strip() and line.strip() != LAYOUT:
            block[2].append((number, line))
    if block is None:
        raise mismatch(path, format, FORM, "an empty file")
    yield block


def _rule(line: str, where: str) -> tuple[str, tuple[float, float, float, float]]:
    """The name of ``cat {height: 20px; ...}`` and its corners in pixels."""
    name, opening, body = line.rpartition("{")
    body, closing, rest = body.rpartition("}")
    form = "name {height: 1px; width: 1px; top: 0px; left: 0px; }"
    if not opening or not closing or rest.strip():
        raise ValueError(f"{where}: must be {form} (got {line[:60]!r})")
    values: dict[str, float] = {}
    for part in filter(str.strip, body.split(";")):
        key, _, value = (text.strip() for text in part.partition(":"))
        if key not in SIDES or key in values or not _PIXELS.fullmatch(value):
            raise ValueError(
                f"{where}: {part.strip()[:40]!r} is none of CSS's four sides in pixels; write {form}"
            )
        values[key] = float(value.removesuffix("px"))
    if missing := [side for side in SIDES if side not in values]:
        raise ValueError(f"{where}: has no {missing[0]}; write {form}")
    left, top = values["left"], values["top"]
    return name.removesuffix(" "), (left, top, left + values["width"], top + values["height"])


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    size = options.size or CANVAS
    blocks = []
    for number, layout in enumerate(layouts, start=1):
        _refuse(layout.prompt, f"layout {number}, prompt")
        lines = [f"{PROMPT} {layout.prompt}", LAYOUT]
        for place, region in enumerate(layout.regions):
            where = f"layout {number}, regions[{place}].phrase"
            _refuse(region.phrase, where, "{}")
            if re.search(r"\d", region.phrase):
                options.tally.lose(DIGITS, where)
            x0, y0, x1, y1 = whole(region.box, *size)
            sides = f"height: {y1 - y0}px; width: {x1 - x0}px; top: {y0}px; left: {x0}px;"
            lines.append(f"{region.phrase} {{{sides} }}")
        blocks.append("\n".join(lines) + "\n")
    options.tally.note(f"boxes rounded to whole pixels of {size[0]}x{size[1]}")
    save_file(path, "\n".join(blocks).encode(), options)


def _refuse(text: str, where: str, marks: str = "") -> None:
    if found := [mark for mark in ("\n", "\r", *marks) if mark in text]:
        raise ValueError(f"{where}: holds {found[0]!r}, which LayoutGPT's CSS cannot; remove it")
    if marks and text.startswith(PROMPT):
        raise ValueError(
            f"{where}: begins with {PROMPT!r}, which begins a layout here; write it without the colon"
        )
