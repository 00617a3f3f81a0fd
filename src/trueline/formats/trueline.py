"""Trueline's own JSON Lines: everything that a layout holds."""

import json
from collections.abc import Sequence
from pathlib import Path

from trueline.errors import FieldError
from trueline.formats._conversion import Options
from trueline.formats._input import mismatch
from trueline.formats._output import save_file
from trueline.layout import Layout, read_layouts

FORM = "JSON Lines, one layout per line"


def read(path: Path, options: Options) -> list[Layout]:
    if path.is_dir():
        raise mismatch(path, options, "a folder")
    return read_layouts(path)


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    if options.size is not None:
        layouts = [_sized(layout, options.size) for layout in layouts]
    lines = [json.dumps(layout.to_record(), ensure_ascii=False) + "\n" for layout in layouts]
    save_file(path, "".join(lines).encode(), options)


def _sized(layout: Layout, size: tuple[int, int]) -> Layout:
    try:
        return Layout.from_record(layout.to_record() | {"width": size[0], "height": size[1]})
    except FieldError as error:
        raise ValueError(f"size: {error}") from None
