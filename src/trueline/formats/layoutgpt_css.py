"""LayoutGPT's prompts: CSS rules, as its language models write them.

    Prompt: two cats on a sofa
    Layout:
    cat {height: 20px; width: 16px; top: 30px; left: 8px; }

The pixels are those of a square that the text does not name: 64 for LayoutGPT's GPT-4, 256 for its Llama. LayoutGPT
itself drops digits from names.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from trueline.formats._build import make_layout, make_region, pixel_box
from trueline.formats._conversion import Options
from trueline.formats._input import mismatch, read_text
from trueline.formats._output import refuse_marks, save_file, whole
from trueline.layout import Layout

FORM = "blocks of a Prompt: line, a Layout: line and CSS rules"
PROMPT, LAYOUT = "Prompt:", "Layout:"
CANVAS = (64, 64)
SIDES = ("height", "width", "top", "left")
DIGITS = "phrases with digits, which LayoutGPT itself drops"
_PIXELS = re.compile(r"[-+]?\d{1,7}(?:\.\d{1,7})?(?:px)?")
Block = tuple[int, str, list[tuple[int, str]]]  #: line number, prompt, numbered rules


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    for number, prompt, rules in _blocks(read_text(path, options), path, options):
        regions = []
        for line, rule in rules:
            where = f"{path}, line {line}"
            phrase, (x0, y0, x1, y1) = _rule(rule, where)
            box = pixel_box((x0, y0, x1, y1), options.size or CANVAS, where, options.tally)
            regions.append(make_region(phrase, box, where, options.tally))
        yield make_layout(prompt, regions, f"{path}, line {number}", options.tally)


def _blocks(text: str, path: Path, options: Options) -> Iterator[Block]:
    block: Block | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith(PROMPT):
            if block:
                yield block
            block = number, line.removeprefix(PROMPT).removeprefix(" "), []
        elif block is None and line.strip():
            raise mismatch(path, options, f"{line[:60]!r} (line {number})")
        elif block and line.strip() and line.strip() != LAYOUT:
            block[2].append((number, line))
    if block is None:
        raise mismatch(path, options, "an empty file")
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
            raise ValueError(f"{where}: {part.strip()[:40]!r} is no side in pixels; write {form}")
        values[key] = float(value.removesuffix("px"))
    if missing := [side for side in SIDES if side not in values]:
        raise ValueError(f"{where}: has no {missing[0]}; write {form}")
    left, top = values["left"], values["top"]
    return name.removesuffix(" "), (left, top, left + values["width"], top + values["height"])


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    size = options.size or CANVAS
    blocks = []
    for number, layout in enumerate(layouts, start=1):
        refuse_marks(layout.prompt, (), f"layout {number}, prompt", "LayoutGPT's CSS")
        lines = [f"{PROMPT} {layout.prompt}", LAYOUT]
        for place, region in enumerate(layout.regions):
            where = f"layout {number}, regions[{place}].phrase"
            refuse_marks(region.phrase, "{}", where, "LayoutGPT's CSS")
            if region.phrase.startswith(PROMPT):
                problem = f"begins with {PROMPT!r}, which begins a layout here"
                raise ValueError(f"{where}: {problem}; write it without the colon")
            if re.search(r"\d", region.phrase):
                options.tally.lose(DIGITS, where)
            x0, y0, x1, y1 = whole(region.box, *size)
            sides = f"height: {y1 - y0}px; width: {x1 - x0}px; top: {y0}px; left: {x0}px;"
            lines.append(f"{region.phrase} {{{sides} }}")
        blocks.append("\n".join(lines) + "\n")
    options.tally.note(f"boxes rounded to whole pixels of {size[0]}x{size[1]}")
    save_file(path, "\n".join(blocks).encode(), options)
