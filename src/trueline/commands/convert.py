"""``trueline convert``: layouts from one format to another, and what was lost on the way."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trueline.commands._parser import Parser, add_flags
from trueline.formats import FORMATS, format_of, read, write

if TYPE_CHECKING:
    from trueline.formats._conversion import Tally
    from trueline.layout import Layout

#: What the arguments of ``read`` and ``write`` are called here, where the names differ.
READING = {"format": "--from", "size": "--from-size"}
WRITING = {"format": "--to", "replace": "--force"}


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="trueline convert",
        description="Layouts from one format to another. Formats are named, never guessed.",
        epilog=_epilog(),
    )
    top.add_argument("source", metavar="IN", type=Path, help="file or folder, as the format has it")
    top.add_argument("target", metavar="OUT", type=Path, help="file, or folder where there are several files")
    top.add_argument("--from", dest="origin", required=True, metavar="NAME", help="format of IN")
    top.add_argument("--to", dest="goal", required=True, metavar="NAME", help="format of OUT")
    sizes = {
        "--from-size WxH": "pixels that IN's boxes count, where its format does not say",
        "--size WxH": "pixels that OUT's boxes count (default: the layout's, or the format's)",
    }
    files = {
        "--names FILE": "class names: of IN's numbers (yolo), all that OUT may use",
        "--captions FILE": "captions_X.json, where it is not beside IN",
        "--pictures DIR": "the pictures of IN, where they are not beside it",
    }
    add_flags(top, sizes)
    add_flags(top, files, type=Path)
    top.add_argument(
        "--crowd",
        choices=("drop", "keep"),
        help="COCO's crowd annotations (default: drop); some tools mark every mask as one",
    )
    top.add_argument(
        "--strict", action="store_true", help="an error when anything is lost or left out; nothing is written"
    )
    top.add_argument("--force", action="store_true", help="write over what is there")
    return top


def _epilog() -> str:
    lines = ["formats:"]
    for name, kind in FORMATS.items():
        lines.append(f"  {name:18}{kind.contents}")
        if kind.lacks:
            lines.append(f"  {'':18}cannot hold: {', '.join(kind.lacks)}")
    return "\n".join(
        [
            *lines,
            "",
            "examples:",
            "  trueline convert layouts.jsonl boxes.json --from trueline --to gligen",
            "  trueline convert labelled/ data.jsonl --from labelme --to trueline   # for trueline train --data",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    for name, flags in ((options.origin, READING), (options.goal, WRITING)):
        with _named(flags):
            format_of(name)
    sizes = _size(options.from_size, "--from-size"), _size(options.size, "--size")
    named = [name for name in (options.origin, options.goal) if "names" in FORMATS[name].takes]
    if options.names is not None and not named:
        takers = ", ".join(name for name, kind in FORMATS.items() if "names" in kind.takes)
        raise ValueError(f"--names: neither format has classes, only {takers}; leave it out")

    from trueline.formats._conversion import Tally

    tally = Tally()
    with _named(READING):
        layouts = read(
            options.source,
            options.origin,
            size=sizes[0],
            names=options.names if options.origin in named else None,
            captions=options.captions,
            pictures=options.pictures,
            crowd=None if options.crowd is None else options.crowd == "keep",
            tally=tally,
        )
    if options.goal == "trueline" and "pictures" in FORMATS[options.origin].takes:
        _note_missing(layouts, tally)
    with _named(WRITING):
        write(
            layouts,
            options.target,
            options.goal,
            size=sizes[1],
            names=options.names if options.goal in named else None,
            replace=options.force,
            strict=options.strict,
            tally=tally,
        )
    regions = sum(len(layout.regions) for layout in layouts)
    print(f"{_many(len(layouts), 'layout')}, {_many(regions, 'region')}: {options.origin} to {options.goal}")
    for word, counts in (("lost", tally.lost), ("note", tally.notes)):  # the target is not all of the source
        for what, count in counts.items():
            print(f"trueline: {word}: {what}: {count}", file=sys.stderr)
    return 0


def _note_missing(layouts: Sequence[Layout], tally: Tally) -> None:
    """What training will miss."""
    from trueline.formats._output import picture_of

    for number, layout in enumerate(layouts, start=1):
        if "image" not in picture_of(layout):
            what = "lines without image, as no picture was found (--pictures names their folder)"
            tally.note(what, f"layout {number}" + (f" ({layout.id})" if layout.id else ""))


@contextmanager
def _named(flags: dict[str, str]) -> Iterator[None]:
    """An error that begins with an argument of the library begins with its flag."""
    try:
        yield
    except ValueError as error:
        name, colon, problem = str(error).partition(": ")
        raise ValueError(f"{flags.get(name, name)}{colon}{problem}") from None


def _many(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _size(text: str | None, flag: str) -> tuple[int, int] | None:
    if text is None:
        return None
    from trueline.formats._input import MAX_SIDE

    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text, re.ASCII)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(0 < side <= MAX_SIDE for side in size):
        raise ValueError(f"{flag}: write width and height in pixels, such as 512x512 (got {text!r})")
    return size
