"""Trueline's own JSON Lines: everything that a layout holds, and "image", the path of its picture relative to the
file, which training reads."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trueline.errors import FieldError
from trueline.formats._conversion import IMAGE, PICTURE, Options
from trueline.formats._input import mismatch
from trueline.formats._output import picture_of, save_file
from trueline.layout import Layout, lines_of, parse_record, read_layouts

FORM = "JSON Lines, one layout per line"


def read(path: Path, options: Options) -> list[Layout]:
    if path.is_dir():
        raise mismatch(path, options, "a folder")
    layouts = read_layouts(path)
    images = [parse_record(line).get("image") for _, line in lines_of(path) if line.strip()]
    return [_with_image(*each, path.parent) for each in zip(layouts, images, strict=True)]


def _with_image(layout: Layout, image: Any, folder: Path) -> Layout:
    if not isinstance(image, str) or not image:
        return layout
    about = layout.meta.get(PICTURE)
    found = (about if isinstance(about, dict) else {}) | {IMAGE: str(folder / image)}
    return layout.model_copy(update={"meta": layout.meta | {PICTURE: found}})


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    if options.size is not None:
        layouts = [_sized(layout, options.size) for layout in layouts]
    lines = [json.dumps(_record(layout, path.parent), ensure_ascii=False) + "\n" for layout in layouts]
    save_file(path, "".join(lines).encode(), options)


def _record(layout: Layout, folder: Path) -> dict[str, Any]:
    record = layout.to_record()
    image = picture_of(layout).get(IMAGE)
    if image is None:
        return record
    about = {key: value for key, value in record["meta"].pop(PICTURE).items() if key != IMAGE}
    meta = record.pop("meta") | ({PICTURE: about} if about else {})
    return (
        record | ({"meta": meta} if meta else {}) | {IMAGE: Path(os.path.relpath(image, folder)).as_posix()}
    )


def _sized(layout: Layout, size: tuple[int, int]) -> Layout:
    try:
        return Layout.from_record(layout.to_record() | {"width": size[0], "height": size[1]})
    except FieldError as error:
        raise ValueError(f"size: {error}") from None
