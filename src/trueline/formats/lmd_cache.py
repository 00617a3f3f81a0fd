"""LMD's cache of answers, which its ``generate.py`` draws from: JSON ``{caption: [answer, ...]}``.

An answer is what follows "Objects: " (``lmd``). Each answer of a caption is a layout; layouts of one prompt become
answers of one caption. LMD looks captions up without outer white space and closing full stops.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from trueline.formats import lmd
from trueline.formats._conversion import Options
from trueline.formats._input import describe, mismatch, read_json
from trueline.formats._output import json_bytes, save_file
from trueline.layout import Layout

FORM = "a JSON object of captions with a list of answers each"
TRIMMED = "outer white space and closing full stops of prompts"


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    content = read_json(path, options)
    if not isinstance(content, dict) or not all(isinstance(answers, list) for answers in content.values()):
        raise mismatch(path, options, describe(content))
    for number, (caption, answers) in enumerate(content.items(), start=1):
        for place, answer in enumerate(answers):
            where = f"{path}, caption {number}, answer {place + 1}"
            if not isinstance(answer, str):
                raise ValueError(f"{where}: must be text (got {answer!r:.60})")
            yield lmd.layout_of(_fields(caption, answer), where, options)


def _fields(caption: str, answer: str) -> dict[str, str]:
    """The fields of an answer as LMD cuts it: objects, background, negative, each up to the next one's name."""
    objects = answer.split(f"{lmd.OBJECTS}: ", 1)[-1]
    objects, _, rest = objects.partition(f"{lmd.BACKGROUND}:")
    background, _, negative = rest.partition(f"{lmd.NEGATIVE}:")
    return {
        lmd.CAPTION: caption,
        lmd.OBJECTS: objects,
        lmd.BACKGROUND: background.strip(),
        lmd.NEGATIVE: negative.strip(),
    }


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    cache: dict[str, list[str]] = {}
    for number, layout in enumerate(layouts, start=1):
        where = f"layout {number}"
        if layout.negative_prompt != layout.negative_prompt.strip():
            options.tally.lose("outer white space of negative prompts", where)
        caption = layout.prompt.strip().rstrip(".")
        if not caption.strip():
            raise ValueError(f"{where}, prompt: is nothing but full stops, which LMD drops; write a word")
        if caption != layout.prompt:
            options.tally.lose(TRIMMED, where)
        cache.setdefault(caption, []).append(lmd.answer(layout, number, options))
    save_file(path, json_bytes(cache, indent=4), options)
