"""LayoutGPT's way to write a layout (Feng et al., NeurIPS 2023; weixi-feng/LayoutGPT, MIT): a line of CSS a thing.

    red apple {width: 20px; height: 18px; left: 6px; top: 30px; }

on a canvas of 64 pixels, at which its published figures are best. The format is theirs; this writer and reader, which
takes what language models make of it, are not.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from trueline.boxes import Box

MAX_RULES = 20_000  #: rules of a text that are looked at
_PROPERTY = re.compile(r"(?i)\b(left|top|width|height)\s*:\s*(-?\d{1,9}(?:\.\d{0,9})?)\s*(px|%)?(?![\w.])")
_MARKS = re.compile(r"^[\s\-*.#\d)]*[.#]?(?=[^\W\d])|[,:>\s]+$")


def css(things: Sequence[tuple[str, Box]], width: int, height: int) -> str:
    """Names and boxes as CSS on a canvas of that many pixels."""
    lines = []
    for name, box in things:
        x0, y0, x1, y1 = box.pixels(width, height)
        lines.append(f"{name} {{width: {x1 - x0}px; height: {y1 - y0}px; left: {x0}px; top: {y0}px; }}")
    return "\n".join(lines)


def read_css(text: str, width: int, height: int) -> Iterator[dict[str, Any]]:
    """``{"regions": [{"object", "phrase", "box"}]}`` with boxes x0, y0, x1, y1 in pixels; nothing where the text
    has no rule. A rule that lacks a property has the box []. Order of properties, case, missing semicolons, per cent,
    selectors written as ".red-apple", thoughts and text around the rules do not matter."""
    regions = []
    for block in text.rpartition("</think>")[2].split("}")[:MAX_RULES]:
        head, brace, body = block.rpartition("{")
        if not brace:
            continue
        name = " ".join(re.sub(r"[-_]", " ", _MARKS.sub("", (head.strip().splitlines() or [""])[-1])).split())
        found: dict[str, float] = {}
        for key, number, unit in _PROPERTY.findall(body[:1000]):
            found[key.lower()] = _pixels(key, number, unit, width, height)
        box: list[float] = []
        if len(found) == 4:
            left, top = found["left"], found["top"]
            box = [left, top, left + found["width"], top + found["height"]]
        regions.append({"object": name, "phrase": name, "box": box})
    if regions:
        yield {"regions": regions}


def _pixels(key: str, number: str, unit: str, width: int, height: int) -> float:
    side = width if key.lower() in ("left", "width") else height
    return float(number) * side / 100 if unit == "%" else float(number)
