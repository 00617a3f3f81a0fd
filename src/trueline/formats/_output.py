"""Writing files: whole or not at all, and never over something else unless asked to."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trueline.boxes import MIN_AREA, Box
from trueline.files import Folder
from trueline.formats._conversion import IMAGE, PICTURE, Options
from trueline.formats._input import MAX_SIDE
from trueline.layout import Layout

DEFAULT = (512, 512)  #: pixels of a picture whose size nobody says
DECIMALS = 9  #: of coordinates in files: without the tails of arithmetic, and thin boxes keep their area


def json_bytes(content: Any, indent: int | None = 1) -> bytes:
    return (json.dumps(content, indent=indent, ensure_ascii=False) + "\n").encode()


def json_rows(rows: Sequence[Any]) -> bytes:
    """A JSON list, one row per line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


def save_file(path: Path, content: bytes, options: Options) -> None:
    """One file.

    Raises:
        ValueError: it is there already, cannot be written, or something is lost and must not be.
    """
    refuse_losses(options)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; {options.format} is one file, give its name")
    if path.exists() and not options.replace:
        raise ValueError(f"replace: {path} is there already; choose another name, or allow to write over it")
    _write(path, content)


def save_folder(path: Path, files: Mapping[str, bytes], options: Options) -> None:
    """Files by their names below a folder (``labels/a.txt``), which must be new or empty."""
    refuse_losses(options)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; {options.format} is a folder here, give another name")
    if path.is_dir() and any(path.iterdir()) and not options.replace:
        raise ValueError(f"replace: {path} is not empty; choose another folder, or allow to write over it")
    for name, content in files.items():
        _write(path / name, content)


def save_each(layouts: Sequence[Layout], contents: Sequence[bytes], path: Path, options: Options) -> None:
    """One JSON file per layout: the file ``path`` for one layout, a folder for several (or for a path without
    .json)."""
    if path.suffix.lower() == ".json":
        if len(layouts) > 1:
            problem = f"{options.format} has one file for each of {len(layouts)} layouts"
            raise ValueError(f"{path}: {problem}; give a folder, a name without .json")
        return save_file(path, contents[0], options)
    files = {f"{name}.json": content for name, content in zip(file_names(layouts), contents, strict=True)}
    return save_folder(path, files, options)


def refuse_losses(options: Options) -> None:
    if options.strict and options.tally.lost:
        raise ValueError(f"strict: this would be lost on the way to {options.format}: {options.tally}")


def refuse_marks(text: str, marks: Sequence[str], where: str, owner: str) -> None:
    """Refuse a text with a line break or another mark that ``owner``'s text format cannot hold."""
    if found := [mark for mark in ("\n", "\r", *marks) if mark in text]:
        raise ValueError(f"{where}: holds {found[0]!r}, which {owner} cannot; remove it")


def _write(path: Path, content: bytes) -> None:
    try:
        Folder(path.parent).write(path.name, lambda file: file.write(content))
    except OSError as error:
        raise ValueError(f"{path}: cannot write it ({error.strerror}); choose another name") from None
    except ValueError as error:
        raise ValueError(str(error).partition("out: ")[2]) from None


def file_names(layouts: Sequence[Layout]) -> list[str]:
    """A name without suffix for each: its id, or its number.

    Raises:
        ValueError: two would be one file (also where upper and lower case are one).
    """
    names = [layout.id or f"{number:06d}" for number, layout in enumerate(layouts, start=1)]
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if (other := first.setdefault(name.casefold(), number)) != number:
            raise ValueError(f"layouts {other} and {number}: both would be the file {name}; give other ids")
    return names


def picture_of(layout: Layout) -> dict[str, Any]:
    """What ``meta`` says of the picture that the layout was made for, as far as it is of its kind: ``file``, ``id``,
    ``width`` and ``height`` (both or none), ``captions`` (besides the prompt), ``image`` (the path of the
    one that was found)."""
    about = layout.meta.get(PICTURE)
    if not isinstance(about, dict):
        return {}
    captions = about.get("captions")
    right = {
        "file": isinstance(about.get("file"), str) and bool(about["file"]),
        IMAGE: isinstance(about.get(IMAGE), str) and bool(about[IMAGE]),
        "id": type(about.get("id")) is int,
        "captions": isinstance(captions, list) and all(isinstance(text, str) for text in captions),
    }
    sides = {key: about.get(key) for key in ("width", "height")}
    sized = all(type(side) is int and 0 < side <= MAX_SIDE for side in sides.values())
    return {key: about[key] for key, good in right.items() if good} | (sides if sized else {})


def canvas(layout: Layout, options: Options, where: str) -> tuple[int, int]:
    """Pixels (width, height) that boxes are counted in: as asked for, the layout's own, its picture's, 512 x 512."""
    if options.size is not None:
        return options.size
    if layout.width and layout.height:
        return layout.width, layout.height
    about = picture_of(layout)
    if "width" in about:
        return about["width"], about["height"]
    options.tally.note(f"pictures without a size, taken as {DEFAULT[0]}x{DEFAULT[1]}", where)
    return DEFAULT


def kept_extras(layout: Layout, format: str) -> dict[str, Any]:
    """What reading that format kept in ``meta`` (``_build.extras``)."""
    rest = layout.meta.get(format)
    return rest if isinstance(rest, dict) else {}


def whole(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Corners in whole steps of a grid, at most one step off: rounded, or outward where the box would get too small
    for a box."""
    x0, y0, x1, y1 = box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height
    across, down = (round(x0), round(x1)), (round(y0), round(y1))
    if (across[1] - across[0]) * (down[1] - down[0]) < MIN_AREA * width * height:
        across, down = (math.floor(x0), math.ceil(x1)), (math.floor(y0), math.ceil(y1))
    return across[0], down[0], across[1], down[1]


def rounded(values: Sequence[float]) -> list[float]:
    """As a file shows them (``DECIMALS``)."""
    return [round(value, DECIMALS) for value in values]
