"""LLM-grounded Diffusion (LMD): blocks of text as its prompt shows them to a language model.

    Caption: Two pandas in a forest without flowers
    Objects: [('a panda', [30, 171, 212, 226]), ('a panda', [264, 173, 222, 221])]
    Background prompt: A forest
    Negative prompt: flowers

Boxes are xywh in pixels of 512x512. A background stays in ``meta.lmd``; where there is none, it is the one that LMD's
prompt names for that case. LMD itself looks for these words anywhere in the text, drops a full stop that ends a name
and takes a negative prompt "None" for none: texts that would be read otherwise are refused.
"""

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from trueline.formats._build import make_layout, make_region, pixel_box, refuse_fractions
from trueline.formats._conversion import Options
from trueline.formats._input import mismatch, numbers, read_text
from trueline.formats._output import DEFAULT, kept_extras, refuse_marks, save_file, whole
from trueline.layout import Layout

FORM = "text of Caption:, Objects:, Background prompt: and Negative prompt: lines"
PAIRS = "[('name', [x, y, width, height]), ...]"
CAPTION, OBJECTS, BACKGROUND, NEGATIVE = "Caption", "Objects", "Background prompt", "Negative prompt"
KEYS = (CAPTION, OBJECTS, BACKGROUND, NEGATIVE)
NO_BACKGROUND = "A realistic scene"
FILLED = f"background prompts filled in as {NO_BACKGROUND!r}"
MAX_LENGTH = 100_000  #: characters of a list of objects; a language model wrote it


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    empty = True
    for where, fields in _blocks(read_text(path, options), path, options):
        empty = False
        yield layout_of(fields, where, options)
    if empty:
        raise mismatch(path, options, "a file without a Caption: line")


def _blocks(text: str, path: Path, options: Options) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each begins, and its lines by key. A list of objects may go over several lines."""
    fields: dict[str, str] = {}
    where, key = "", ""
    for number, line in enumerate(text.split("\n"), start=1):
        named = next((name for name in KEYS if line.startswith(f"{name}:")), None)
        if named is None:
            if not line.strip():
                continue
            if key != OBJECTS:
                raise mismatch(path, options, f"{line[:60]!r} (line {number})")
            fields[key] += " " + line
            continue
        key = named
        if key == CAPTION:
            if fields:
                yield where, fields
            fields, where = {}, f"{path}, line {number}"
        elif not fields:
            raise mismatch(path, options, f"{key}: before any {CAPTION}: (line {number})")
        if key in fields:
            raise ValueError(f"{path}, line {number}: {key} is there twice; begin a layout with {CAPTION}:")
        fields[key] = line.removeprefix(f"{key}:").removeprefix(" ")
    if fields:
        yield where, fields


def layout_of(fields: dict[str, str], where: str, options: Options) -> Layout | None:
    """A layout of Caption, Objects, and perhaps Background prompt and Negative prompt."""
    if OBJECTS not in fields:
        raise ValueError(f"{where}: {OBJECTS} is missing; write {OBJECTS}: {PAIRS}")
    size, tally = options.size or DEFAULT, options.tally
    text = fields[OBJECTS]
    # Nothing, or the sentence that language models write instead of [].
    none = not text.strip() or ("No objects" in text and not text.lstrip().startswith("["))
    things = [] if none else pairs(text, f"{where}, {OBJECTS}")
    order = f"x, y, width, height in pixels of {size[0]}x{size[1]}"
    refuse_fractions([box for _, box in things], size, order, f"{where}, {OBJECTS}")
    regions = []
    for place, (name, (x, y, width, height)) in enumerate(things):
        field = f"{where}, {OBJECTS}[{place}]"
        box = pixel_box((x, y, x + width, y + height), size, field, tally)
        regions.append(make_region(name, box, field, tally))
    negative, background = fields.get(NEGATIVE, ""), fields.get(BACKGROUND, "")
    usual = background in ("", NO_BACKGROUND)
    meta: dict[str, Any] = {} if usual else {"lmd": {"background": background}}
    without = "" if negative.strip() == "None" else negative
    return make_layout(fields[CAPTION], regions, where, tally, negative_prompt=without, meta=meta)


def pairs(text: str, where: str) -> list[tuple[str, list[float]]]:
    """The names and the four numbers of each, as Python spells them: ``PAIRS``. Nothing of the text is run.

    Raises:
        ValueError: the text is not of that form.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"{where}: has more than {MAX_LENGTH} characters; write {PAIRS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown escape such as \q
            rows = ast.literal_eval(text.strip())
        tokens = list(tokenize.generate_tokens(io.StringIO(text.strip()).readline))
    except (SyntaxError, ValueError, TypeError, tokenize.TokenError, MemoryError, RecursionError):
        raise ValueError(f"{where}: cannot be read; write {PAIRS}") from None
    # Python joins strings that stand side by side: a comma is missing, or a name.
    joined = any(one.type == two.type == tokenize.STRING for one, two in pairwise(tokens))
    if joined or not isinstance(rows, list):
        raise ValueError(f"{where}: must be a list of pairs; write {PAIRS}")
    for place, row in enumerate(rows):
        if not isinstance(row, tuple) or [type(part) for part in row] != [str, list]:
            raise ValueError(f"{where}[{place}]: must be a name and a list of numbers; write {PAIRS}")
    order = "four numbers: x, y, width, height"
    return [
        (name, numbers(box, 4, order, f"{where}[{place}], {name!r:.40}"))
        for place, (name, box) in enumerate(rows)
    ]


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
        name = repr(region.phrase)
        refuse(name, f"{where}, regions[{place}].phrase")
        x0, y0, x1, y1 = whole(region.box, *size)
        things.append(f"({name}, [{x0}, {y0}, {x1 - x0}, {y1 - y0}])")
    refuse(background, f"{where}, meta.lmd.background")
    refuse(layout.negative_prompt, f"{where}, negative_prompt")
    if layout.negative_prompt.strip() == "None":
        raise ValueError(f'{where}, negative_prompt: LMD takes "None" for none; write something else')
    options.tally.note(f"boxes rounded to whole pixels of {size[0]}x{size[1]}", where)
    lines = f"{BACKGROUND}: {background}\n{NEGATIVE}: {layout.negative_prompt}"
    return f"[{', '.join(things)}]\n{lines}"


def refuse(text: str, where: str) -> None:
    """Refuse text that would end or begin a line or a field of LMD."""
    refuse_marks(text, [f"{key}:" for key in KEYS[1:]], where, "LMD's text")
