"""LabelMe: one object per picture, with ``shapes`` in pixels and ``imageWidth``, ``imageHeight``.

Rectangles are boxes; polygons, circles, turned rectangles and masks are boxes with a mask; points and lines are left
out. LabelMe has no field for a prompt, but keeps keys that it does not know (``_label_file.py``, ``other_data``): so
``prompt``, ``negative_prompt`` and ``seed`` stand besides its own and ``negative`` in a shape, and a layout whose
boxes were moved in LabelMe is still whole. The picture within the file (``imageData``) is not read, only the one that
``imagePath`` names. Points count its pixels as it is seen, turned as EXIF says, for so LabelMe opens it.
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from trueline.errors import FieldError, short
from trueline.formats import _input, _masks
from trueline.formats._build import make_layout, make_region, pixel_box
from trueline.formats._conversion import PICTURE, Options, Tally
from trueline.formats._output import canvas, file_names, json_bytes, picture_of, rounded, save_each, whole
from trueline.layout import Layout, Region
from trueline.pictures import open_picture

FORM = "an object with shapes, imageWidth and imageHeight"
LABEL = "grounding_label"  #: of a shape, Trueline's own: ``label`` is LabelMe's name for what is our phrase
VERSION = "5.5.0"  #: of LabelMe, whose keys these are
POINTS = {"rectangle": (2, 4), "circle": (2,), "mask": (2,), "oriented_rectangle": (4,)}
CORNERS = 64  #: of the polygon that stands for a circle


def read(path: Path, options: Options) -> Iterator[Layout | None]:
    for file in _input.json_files(path, options):
        yield _layout(file, options)


def _layout(path: Path, options: Options) -> Layout | None:
    content, tally = _input.read_json(path, options), options.tally
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise _input.mismatch(path, options, _input.describe(content))
    size = _input.side(content, "imageWidth", str(path)), _input.side(content, "imageHeight", str(path))
    shapes = _input.objects(content["shapes"], f"{path}, shapes")
    regions = [_region(shape, size, f"{path}, shapes[{i}]", tally) for i, shape in enumerate(shapes)]
    about: dict[str, Any] = {"width": size[0], "height": size[1]}
    if isinstance(content.get("imagePath"), str):
        about["file"] = PureWindowsPath(content["imagePath"]).as_posix()
        about |= _input.image_of(about["file"], path.parent, options)
    if content.get("flags"):
        tally.lose("flags of pictures", str(path))
    fields = {"id": path.stem, "seed": content.get("seed"), "meta": {PICTURE: about}}
    fields["negative_prompt"] = _input.field_of(content, "negative_prompt", str, "text", str(path), "")
    return make_layout(content.get("prompt"), regions, str(path), tally, **fields)


def _region(shape: dict[str, Any], size: tuple[int, int], where: str, tally: Tally) -> Region | None:
    kind = _input.field_of(shape, "shape_type", str, "text", where, "polygon")
    points = _input.field_of(shape, "points", list, "a list of [x, y]", where)
    spots = [
        _input.numbers(point, 2, "x, y in pixels", f"{where}, points[{i}]") for i, point in enumerate(points)
    ]
    for key in ("group_id", "flags", "description"):
        if shape.get(key) not in (None, {}, ""):
            tally.lose(f"{key} of shapes", where)
    if kind not in ("rectangle", "polygon", "circle", "mask", "oriented_rectangle"):
        tally.lose(f"shapes of type {kind if kind.isidentifier() else short(kind)}, left out", where)
        return None
    if len(spots) not in POINTS.get(kind, (len(spots),)) or (kind == "polygon" and len(spots) < 3):
        raise ValueError(f"{where}, points: a {kind} has not {len(spots)} of them; draw it again")
    outline = _circle(*spots) if kind == "circle" else spots
    corners = [min(x for x, _ in outline), min(y for _, y in outline)]
    corners += [max(x for x, _ in outline), max(y for _, y in outline)]
    mask = None
    if kind == "mask":
        corners[2:] = [corners[2] + 1, corners[3] + 1]  # its last pixels, not its far edges
        mask = _placed(shape.get("mask"), corners, size, f"{where}, mask")
    elif kind != "rectangle":
        mask = _masks.from_polygons([[value for spot in outline for value in spot]], size, where)
    box = pixel_box(corners, size, where, tally)
    if box is None:
        return None
    if mask is None and kind != "rectangle":
        tally.lose(_masks.EMPTY, where)
    region = make_region(shape.get("label"), box, f"{where}, label", tally, mask)
    try:
        return region and Region(
            region.phrase, region.box, region.mask, shape.get("negative"), shape.get(LABEL)
        )
    except FieldError as error:
        raise ValueError(f"{where}: {error}") from None


def _circle(centre: Sequence[float], edge: Sequence[float]) -> list[list[float]]:
    radius = math.dist(centre, edge)
    turns = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
    return [[centre[0] + radius * math.cos(turn), centre[1] + radius * math.sin(turn)] for turn in turns]


def _placed(text: Any, corners: Sequence[float], size: tuple[int, int], where: str) -> np.ndarray | None:
    """The mask of the whole picture, from the part of it that a PNG in base64 holds."""
    _masks.check_pixels(size, where)
    x0, y0, x1, y1 = (round(corner) for corner in corners)
    try:
        packed = base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: must be a PNG in base64; draw it again") from None
    part = np.array(open_picture(packed, name=where, ground=0).convert("L")) > 0
    full = np.zeros((size[1], size[0]), dtype=bool)
    left, top = max(x0, 0), max(y0, 0)
    piece = part[top - y0 : y1 - y0, left - x0 : x1 - x0]
    target = full[top : top + piece.shape[0], left : left + piece.shape[1]]
    target |= piece[: target.shape[0], : target.shape[1]]
    return _masks.resampled(full, _masks.mask_size(*size)) if full.any() else None


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    contents = []
    for number, (layout, name) in enumerate(zip(layouts, file_names(layouts), strict=True), start=1):
        where = f"layout {number}"
        width, height = canvas(layout, options, where)
        shapes = [_shape(region, (width, height), where, options.tally) for region in layout.regions]
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": picture_of(layout).get("file") or f"{name}.png",
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
            "prompt": layout.prompt,
        }
        more = {"negative_prompt": layout.negative_prompt, "seed": layout.seed}
        content |= {key: value for key, value in more.items() if value not in ("", None)}
        contents.append(json_bytes(content))
    save_each(layouts, contents, path, options)


def _shape(region: Region, size: tuple[int, int], where: str, tally: Tally) -> dict[str, Any]:
    x0, y0, x1, y1 = region.box.xyxy
    mask = _masks.fitted(region, size, where, tally)
    shape: dict[str, Any] = {
        "label": region.phrase,
        "points": [rounded([x0 * size[0], y0 * size[1]]), rounded([x1 * size[0], y1 * size[1]])],
        "group_id": None,
        "description": "",
        "shape_type": "rectangle",
        "flags": {},
        "mask": None,
    }
    if mask is not None:
        shape |= _mask_shape(mask, region, size, where, tally)
    own = {"negative": region.negative, LABEL: region.label}
    return shape | {name: value for name, value in own.items() if value is not None}


def _mask_shape(
    mask: np.ndarray, region: Region, size: tuple[int, int], where: str, tally: Tally
) -> dict[str, Any]:
    """A shape of type mask: the part of it in the box, whose corners are whole pixels, the last ones included."""
    x0, y0, x1, y1 = whole(region.box, *size)
    part = mask[y0:y1, x0:x1]
    if int(part.sum()) < int(mask.sum()):
        tally.lose("parts of masks outside their box", where)
    png = io.BytesIO()
    Image.fromarray(part).save(png, format="PNG")
    points = [[float(x0), float(y0)], [float(x1 - 1), float(y1 - 1)]]
    return {"points": points, "shape_type": "mask", "mask": base64.b64encode(png.getvalue()).decode()}
