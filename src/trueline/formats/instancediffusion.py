"""InstanceDiffusion's ``demos/*.json``: one object per picture (``caption``, ``width``, ``height``, ``annos``).

An annotation has ``bbox`` (xywh in pixels), ``caption`` (the phrase), ``category_name`` (the phrase where there is no
caption) and ``mask`` (pycocotools' run lengths, or []). Points and scribbles have no place in a layout.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trueline.errors import FieldError
from trueline.formats import _input, _masks
from trueline.formats._build import PIXELS, extras, make_layout, make_region, pixel_box, refuse_fractions
from trueline.formats._conversion import PICTURE, Options, Tally
from trueline.formats._output import canvas, json_bytes, kept_extras, rounded, save_each
from trueline.layout import Layout, Region

FORM = "an object with caption, width, height and annos"
KEYS = ("caption", "width", "height", "annos")


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    for file in _input.json_files(path, options):
        yield _layout(file, options, file.stem if path.is_dir() else None)


def _layout(path: Path, options: Options, id: str | None) -> Layout | None:
    content = _input.read_json(path, options)
    if not isinstance(content, dict) or not isinstance(content.get("annos"), list):
        raise _input.mismatch(path, options, _input.describe(content))
    size, tally = (
        (_input.side(content, "width", str(path)), _input.side(content, "height", str(path))),
        options.tally,
    )
    rows = _input.objects(content["annos"], f"{path}, annos")
    corners = [_corners(row, size, f"{path}, annos[{place}]", tally) for place, row in enumerate(rows)]
    refuse_fractions([box for box in corners if box], size, PIXELS, f"{path}, annos, bbox")
    regions = [
        _region(row, box, size, f"{path}, annos[{place}]", tally)
        for place, (row, box) in enumerate(zip(rows, corners, strict=True))
        if box
    ]
    meta = extras(content, KEYS, "instancediffusion")
    fields: dict[str, Any] = {"width": size[0], "height": size[1]}
    try:
        Layout("x", **fields)
    except FieldError:  # a size that no picture of ours can have
        meta, fields = meta | {PICTURE: fields}, {}
    return make_layout(content.get("caption"), regions, str(path), tally, id=id, meta=meta, **fields)


def _corners(row: dict[str, Any], size: tuple[int, int], where: str, tally: Tally) -> list[float] | None:
    """xyxy in pixels of the box, or of the mask where there is no box; None where there is neither."""
    if row.get("bbox"):
        x, y, width, height = _input.numbers(row["bbox"], 4, PIXELS, f"{where}, bbox")
        return [x, y, x + width, y + height]
    mask = _masks.of_segmentation(row.get("mask"), size, f"{where}, mask", tally)
    if mask is None:
        tally.lose(f"{'points' if 'point' in row else 'rows'} without a box, left out", where)
        return None
    x0, y0, x1, y1 = _masks.extent(mask)
    return [x0 * size[0], y0 * size[1], x1 * size[0], y1 * size[1]]


def _region(
    row: dict[str, Any], corners: Sequence[float], size: tuple[int, int], where: str, tally: Tally
) -> Region | None:
    box = pixel_box(corners, size, where, tally)
    if box is None:
        return None
    caption, name = (
        _input.field_of(row, key, str, "text", where, "") for key in ("caption", "category_name")
    )
    if caption and name and name != caption:
        tally.lose("class names besides captions", f"{where}, {name!r:.40}")
    for key in ("point", "scribble"):
        if row.get(key):
            tally.lose(f"{key}s besides boxes", where)
    mask = _masks.of_segmentation(row.get("mask"), size, f"{where}, mask", tally)
    return make_region(caption or name, box, where, tally, mask)


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    contents = []
    for number, layout in enumerate(layouts, start=1):
        where = f"layout {number}"
        width, height = canvas(layout, options, where)
        annos = [_anno(region, (width, height), where, options.tally) for region in layout.regions]
        row = {"caption": layout.prompt, "width": width, "height": height, "annos": annos}
        contents.append(json_bytes(kept_extras(layout, options.format) | row, None))
    save_each(layouts, contents, path, options)


def _anno(region: Region, size: tuple[int, int], where: str, tally: Tally) -> dict[str, Any]:
    box = region.box
    corners = (box.x0 * size[0], box.y0 * size[1], box.width * size[0], box.height * size[1])
    mask = _masks.fitted(region, size, where, tally)
    runs = [] if mask is None else _masks.to_runs(mask)
    return {"bbox": rounded(corners), "mask": runs, "category_name": "", "caption": region.phrase}
