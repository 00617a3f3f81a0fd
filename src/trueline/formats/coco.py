"""COCO: ``instances_X.json`` (xywh in pixels of each picture) and ``captions_X.json``, in a folder or its
``annotations``.

The first caption of a picture is the prompt; the others, the file's name and the size stay in ``meta.picture`` and
are written again. Crowds are left out, as GLIGEN's and our training does; polygons and run lengths become masks.
"""

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from trueline.formats import _masks
from trueline.formats._build import PIXELS, make_layout, make_region, pixel_box, refuse_fractions
from trueline.formats._conversion import PICTURE, Options, Tally
from trueline.formats._input import describe, field_of, is_number, mismatch, read_json, side
from trueline.formats._names import classes_of
from trueline.formats._output import canvas, json_bytes, picture_of, rounded, save_folder
from trueline.layout import Layout, Region

FORM = "a folder with instances_X.json and captions_X.json, or that instances file"
PARTS = {"instances": ("images", "annotations", "categories"), "captions": ("images", "annotations")}
SPLIT = "layouts"  #: what is written is instances_layouts.json and captions_layouts.json
CROWDS = "crowd annotations, left out"
BROKEN = "annotations of unknown pictures or classes, left out"


def read(path: Path, options: Options) -> list[Layout]:
    instances_file, captions_file = _files(path, options)
    instances = _content(instances_file, "instances", options)
    pictures = _pictures(instances, instances_file)
    captions = _captions(captions_file, pictures, options) if captions_file else {}
    things = _things(instances, pictures, instances_file, options.tally)
    layouts = []
    for id, (where, row) in pictures.items():
        said = captions.get(id, [])
        about = {"file": row["file_name"], "id": id, "width": row["width"], "height": row["height"]}
        if said[1:]:
            about["captions"] = said[1:]
        stem = PurePosixPath(row["file_name"].replace("\\", "/")).stem
        layout = make_layout(
            said[0] if said else None,
            things.get(id, []),
            where,
            options.tally,
            id=stem,
            meta={PICTURE: about},
        )
        layouts += [layout] if layout is not None else []
    return layouts


def _files(path: Path, options: Options) -> tuple[Path, Path | None]:
    """The instances, and the captions that are said or lie beside them."""
    if path.is_dir():
        folder = path / "annotations" if (path / "annotations").is_dir() else path
        choice = sorted(folder.glob("instances_*.json"))
        if len(choice) != 1:
            what = f"{len(choice)} of them in {folder}" if choice else f"no instances_*.json in {folder}"
            raise mismatch(path, options, f"{what}; give the file itself")
        path = choice[0]
    if options.captions is not None:
        return path, options.captions
    beside = path.with_name(path.name.replace("instances", "captions", 1))
    if beside == path or not beside.is_file():
        options.tally.note(f"no captions beside {path.name}; the argument captions names them")
        return path, None
    return path, beside


def _content(path: Path, part: str, options: Options) -> dict[str, Any]:
    content = read_json(path, options)
    for key in PARTS[part]:
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            form = f"{options.format} ({part}) is an object with {', '.join(PARTS[part])}"
            raise ValueError(f"{path}: {form}; found {describe(content)}; name the format that the file has")
    return content


def _pictures(content: dict[str, Any], path: Path) -> dict[int, tuple[str, dict[str, Any]]]:
    """Where each image stands, and its row with checked fields, by id."""
    pictures = {}
    for place, row in enumerate(content["images"]):
        where = f"{path}, images[{place}]"
        id = field_of(row, "id", int, "a whole number", where)
        if id in pictures:
            raise ValueError(f"{where}, id: {id} is there twice; keep one of the images")
        file = field_of(row, "file_name", str, "text", where)
        sides = {"width": side(row, "width", where), "height": side(row, "height", where)}
        pictures[id] = where, {"file_name": file} | sides
    return pictures


def _captions(path: Path, pictures: dict[int, Any], options: Options) -> dict[int, list[str]]:
    captions: dict[int, list[str]] = {}
    for place, row in enumerate(_content(path, "captions", options)["annotations"]):
        where = f"{path}, annotations[{place}]"
        text = field_of(row, "caption", str, "text", where)
        if field_of(row, "image_id", int, "a whole number", where) not in pictures or not text.strip():
            options.tally.lose("captions of unknown pictures, or empty, left out", where)
            continue
        captions.setdefault(row["image_id"], []).append(text)
    return captions


def _things(
    content: dict[str, Any], pictures: dict[int, Any], path: Path, tally: Tally
) -> dict[int, list[Region]]:
    names = {row.get("id"): row.get("name") for row in content["categories"] if type(row.get("id")) is int}
    rows = content["annotations"]
    boxes = [row["bbox"] for row in rows if _is_box(row.get("bbox"))]
    smallest = min(
        ((row["width"], row["height"]) for _, row in pictures.values()), key=math.prod, default=(1, 1)
    )
    refuse_fractions(boxes, smallest, PIXELS, f"{path}, annotations, bbox")
    things: dict[int, list[Region]] = {}
    for place, row in enumerate(rows):
        where = f"{path}, annotations[{place}]"
        if row.get("iscrowd"):
            tally.lose(CROWDS, where)
            continue
        image, name = row.get("image_id"), names.get(_whole(row.get("category_id")))
        if _whole(image) not in pictures or not isinstance(name, str):
            tally.lose(BROKEN, where)
            continue
        region = _region(row, name, pictures[image][1], where, tally)
        if region is not None:
            things.setdefault(image, []).append(region)
    return things


def _whole(value: Any) -> Any:
    return value if type(value) is int else None


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _region(
    row: dict[str, Any], name: str, picture: dict[str, Any], where: str, tally: Tally
) -> Region | None:
    if not _is_box(row.get("bbox")):
        raise ValueError(f"{where}, bbox: must be {PIXELS} (got {row.get('bbox')!r:.60})")
    x, y, width, height = row["bbox"]
    size = picture["width"], picture["height"]
    box = pixel_box((x, y, x + width, y + height), size, where, tally)
    if box is None:
        return None
    mask = _masks.of_segmentation(row.get("segmentation"), size, f"{where}, segmentation", tally)
    return make_region(name, box, where, tally, mask)


def write(layouts: Sequence[Layout], path: Path, options: Options) -> None:
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    things: list[dict[str, Any]] = []
    names, classes = classes_of(layouts, options.names, options.tally)
    for number, (id, layout) in enumerate(zip(_ids(layouts), layouts, strict=True), start=1):
        width, height = canvas(layout, options, f"layout {number}")
        about = picture_of(layout)
        file = about.get("file") or f"{layout.id or f'{id:012d}'}.png"
        images.append({"id": id, "file_name": file, "width": width, "height": height})
        for text in [layout.prompt, *about.get("captions", [])]:
            captions.append({"id": len(captions) + 1, "image_id": id, "caption": text})
        for region, category in zip(layout.regions, classes[number - 1], strict=True):
            if category is not None:
                row = {"id": len(things) + 1, "image_id": id, "category_id": category + 1}
                things.append(row | _annotation(region, (width, height), f"layout {number}", options.tally))
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": things, "categories": categories}
    files = {"instances": content, "captions": {"images": images, "annotations": captions}}
    save_folder(
        path,
        {f"annotations/{part}_{SPLIT}.json": json_bytes(rows, None) for part, rows in files.items()},
        options,
    )


def _ids(layouts: Sequence[Layout]) -> list[int]:
    """Those of the pictures, or numbers."""
    ids = [about["id"] for about in map(picture_of, layouts) if "id" in about]
    return ids if len(set(ids)) == len(layouts) else list(range(1, len(layouts) + 1))


def _annotation(region: Region, size: tuple[int, int], where: str, tally: Tally) -> dict[str, Any]:
    corner, sides = region.box.xyxy[:2], (region.box.width, region.box.height)
    box = rounded([value * side for value, side in zip((*corner, *sides), (*size, *size), strict=True)])
    row = {"bbox": box, "iscrowd": 0, "segmentation": [], "area": rounded([box[2] * box[3]])[0]}
    mask = _masks.fitted(region, size, where, tally)
    if mask is not None:
        row |= {"segmentation": _masks.to_runs(mask), "area": int(mask.sum())}
    return row
