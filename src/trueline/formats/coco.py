"""COCO: ``instances_X.json`` (xywh in pixels of each picture) and ``captions_X.json``, in a folder or its
``annotations``.

The first caption of a picture is the prompt; the others, the file's name and the size stay in ``meta.picture`` and
are written again. Crowds are left out, as GLIGEN's and our training does, unless they are asked for; polygons and run
lengths become masks. Boxes count the pixels of a picture as it is seen, turned as its EXIF says: where a tool counted
others, width and height tell, and training leaves the picture out.
"""

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from trueline.formats import _masks
from trueline.formats._build import PIXELS, make_layout, make_region, pixel_box, refuse_fractions
from trueline.formats._conversion import PICTURE, Options, Tally
from trueline.formats._input import image_of, mismatch
from trueline.formats._names import classes_of
from trueline.formats._output import canvas, json_bytes, picture_of, rounded, save_folder
from trueline.formats.coco_files import (
    Annotation,
    CocoFile,
    CocoPicture,
    Pictures,
    Problem,
    annotation_folder,
    pictures_folder,
)
from trueline.layout import Layout, Region

FORM = "a folder with instances_X.json and captions_X.json, or that instances file"
SPLIT = "layouts"  #: what is written is instances_layouts.json and captions_layouts.json
CROWDS = "crowd annotations, left out (the argument crowd keeps them)"
#: Rows about what is not there, by ``Problem.row``.
STRAY = {
    "caption": "captions of unknown pictures, or empty, left out",
    "box": "annotations of unknown pictures or classes, left out",
}


def read(path: Path, options: Options) -> list[Layout]:
    tally = options.tally

    def report(problem: Problem) -> None:
        if not problem.stray:
            raise ValueError(str(problem))
        tally.lose(STRAY[problem.row], problem.where)

    instances_file, captions_file = _files(path, options)
    instances = CocoFile.of_instances(instances_file, options.cure, report)
    pictures = instances.pictures()
    instances.add_annotations(pictures)
    if captions_file:
        CocoFile.of_captions(captions_file, options.cure, report).add_captions(pictures)
    boxes = [annotation.box.bbox for picture in pictures.values() for annotation in picture.annotations]
    sizes = ((picture.width, picture.height) for picture in pictures.values())
    smallest = min(sizes, key=math.prod, default=(1, 1))
    refuse_fractions(boxes, smallest, PIXELS, f"{instances_file}, annotations, bbox")
    folder = _pictures_folder(instances_file, pictures)
    layouts = (_layout(id, picture, folder, options) for id, picture in pictures.items())
    return [layout for layout in layouts if layout is not None]


def _files(path: Path, options: Options) -> tuple[Path, Path | None]:
    """The instances, and the captions that are named or lie beside them."""
    if path.is_dir():
        folder = annotation_folder(path)
        choice = sorted(folder.glob("instances_*.json"))
        if len(choice) != 1:
            what = f"{len(choice)} of them in {folder}" if choice else f"no instances_*.json in {folder}"
            raise mismatch(path, options, f"{what}; give the file itself")
        path = choice[0]
    if options.captions is not None:
        return path, options.captions
    captions = path.with_name(path.name.replace("instances", "captions", 1))
    if captions == path or not captions.is_file():
        options.tally.note(f"no captions beside {path.name}; the argument captions names them")
        return path, None
    return path, captions


def _pictures_folder(instances: Path, pictures: Pictures) -> Path:
    """Where the pictures lie beside ``instances_X.json``, or beside ``annotations`` with it."""
    root = instances.parent.parent if instances.parent.name == "annotations" else instances.parent
    split = instances.stem.removeprefix("instances_")
    return pictures_folder(root, split, [picture.file for picture in pictures.values()])


def _layout(id: int, picture: CocoPicture, folder: Path, options: Options) -> Layout | None:
    captions, tally = [], options.tally
    for text, where in picture.captions:
        if text.strip():
            captions.append(text)
        else:
            tally.lose(STRAY["caption"], where)
    regions = [_region(annotation, picture, options) for annotation in picture.annotations]
    about: dict[str, Any] = {"file": picture.file, "id": id}
    about |= {"width": picture.width, "height": picture.height} | image_of(picture.file, folder, options)
    if captions[1:]:
        about["captions"] = captions[1:]
    return make_layout(
        captions[0] if captions else None,
        [region for region in regions if region is not None],
        picture.where,
        tally,
        id=PurePosixPath(picture.file.replace("\\", "/")).stem,
        meta={PICTURE: about},
    )


def _region(annotation: Annotation, picture: CocoPicture, options: Options) -> Region | None:
    where, tally = annotation.where, options.tally
    if annotation.box.crowd and not options.crowd:
        tally.lose(CROWDS, where)
        return None
    x, y, width, height = annotation.box.bbox
    size = picture.width, picture.height
    box = pixel_box((x, y, x + width, y + height), size, where, tally)
    if box is None:
        return None
    mask = _masks.of_segmentation(annotation.segmentation, size, f"{where}, segmentation", tally)
    return make_region(annotation.box.name, box, where, tally, mask)


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
    parts = {f"annotations/{part}_{SPLIT}.json": json_bytes(rows, None) for part, rows in files.items()}
    save_folder(path, parts, options)


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
