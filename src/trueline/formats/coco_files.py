"""Files in COCO's format, read once for formats, training and evaluation: pictures, their captions and boxes.

A file that is not of the format is an error: one sentence that ends with the caller's ``cure``. A row that cannot be
used is left out and goes to the caller's ``report``, which counts it or raises.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from trueline.boxes import MIN_AREA
from trueline.errors import FieldError, Frozen, short
from trueline.files import read_json_object
from trueline.formats._build import PIXELS
from trueline.formats._input import field_of, numbers, side
from trueline.layout import MAX_REGIONS, Region

MAX_BYTES = 4 << 30  #: of one file; COCO's largest has half a gigabyte
TRAIN_SHARE = 0.8
Crop = tuple[int, int, int, int]  #: xyxy pixels


# Rows of the files


class Problem(NamedTuple):
    """Why a row is left out. ``row``: "image", "category", "caption" or "box"; ``stray``: it is about a picture or a
    category that is not there, and else as it should be."""

    row: str
    where: str
    why: str
    stray: bool = False

    def __str__(self) -> str:
        return f"{self.where}, {self.why}"


Report = Callable[[Problem], None]


class PixelBox(NamedTuple):
    """A box of a picture. ``bbox``: x, y, width, height in pixels."""

    name: str
    bbox: Sequence[float]
    crowd: bool = False
    label: str | None = None


class Annotation(NamedTuple):
    """A row of the instances."""

    box: PixelBox
    segmentation: Any
    where: str


@dataclass
class CocoPicture:
    """A row of the images, with what the annotations say of it. ``captions``: (text as it stands, where)."""

    file: str
    width: int
    height: int
    where: str
    captions: list[tuple[str, str]] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)


Pictures = dict[int, CocoPicture]  #: by id, in the file's order


class CocoFile:
    """``captions_X.json`` or ``instances_X.json``.

    Raises:
        ValueError: it cannot be read, or lacks one of the lists ``keys``.
    """

    def __init__(self, path: Path, cure: str, report: Report, *keys: str):
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: has more than {MAX_BYTES >> 30} GiB; split it")
        self.path, self.report, self.content = path, report, read_json_object(path, cure)
        if not all(isinstance(self.content.get(key), list) for key in keys):
            raise ValueError(f"{path}: must be an object with lists of {', '.join(keys)}; {cure}")

    @classmethod
    def of_captions(cls, path: Path, cure: str, report: Report) -> "CocoFile":
        return cls(path, cure, report, "images", "annotations")

    @classmethod
    def of_instances(cls, path: Path, cure: str, report: Report) -> "CocoFile":
        return cls(path, cure, report, "images", "annotations", "categories")

    def pictures(self) -> Pictures:
        pictures: Pictures = {}
        for where, row in self._rows("images", "image"):
            try:
                id = field_of(row, "id", int, "a whole number", where)
                if id in pictures:
                    raise ValueError(f"{where}, id: {id} is there twice; keep one of the images")
                file = field_of(row, "file_name", str, "text", where)
                pictures[id] = CocoPicture(file, side(row, "width", where), side(row, "height", where), where)
            except ValueError as error:
                self._report("image", where, error)
        return pictures

    def add_captions(self, pictures: Pictures) -> None:
        """The captions of these pictures; some may be empty."""
        for where, row in self._rows("annotations", "caption"):
            try:
                text = field_of(row, "caption", str, "text", where)
                id = field_of(row, "image_id", int, "a whole number", where)
            except ValueError as error:
                self._report("caption", where, error)
                continue
            if id in pictures:
                pictures[id].captions.append((text, where))
            else:
                self.report(Problem("caption", where, f"image_id: no image has the id {id}", stray=True))

    def add_annotations(self, pictures: Pictures) -> None:
        """The boxes of these pictures, the crowds among them."""
        names = {}
        for where, row in self._rows("categories", "category"):
            try:
                names[field_of(row, "id", int, "a whole number", where)] = field_of(
                    row, "name", str, "text", where
                )
            except ValueError as error:
                self._report("category", where, error)
        for where, row in self._rows("annotations", "box"):
            image, category = row.get("image_id"), row.get("category_id")
            if type(image) is not int or image not in pictures:
                why = f"image_id: no image has the id {short(image)}"
                self.report(Problem("box", where, why, stray=True))
            elif type(category) is not int or category not in names:
                why = f"category_id: no category has the id {short(category)}"
                self.report(Problem("box", where, why, stray=True))
            else:
                try:
                    bbox = numbers(row.get("bbox"), 4, PIXELS, f"{where}, bbox")
                except ValueError as error:
                    self._report("box", where, error)
                    continue
                box = PixelBox(names[category], bbox, bool(row.get("iscrowd")))
                pictures[image].annotations.append(Annotation(box, row.get("segmentation"), where))

    def _rows(self, key: str, row: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for place, content in enumerate(self.content[key]):
            where = f"{self.path}, {key}[{place}]"
            if isinstance(content, dict):
                yield where, content
            else:
                self.report(Problem(row, where, f"must be an object (got {short(content)})"))

    def _report(self, row: str, where: str, error: ValueError) -> None:
        self.report(Problem(row, where, str(error).removeprefix(f"{where}, ")))


def annotation_folder(folder: Path) -> Path:
    """Where the annotations lie: in ``annotations``, or in the folder itself."""
    return folder / "annotations" if (folder / "annotations").is_dir() else folder


def pictures_folder(root: Path, split: str, files: Sequence[str]) -> Path:
    """Where the pictures' files are: the first candidate that holds one of the first few."""
    candidates = (root / split, root / "images" / split, root / "images", root)
    for folder in candidates:
        if any((folder / file).is_file() for file in files[:20]):
            return folder
    return next((folder for folder in candidates if folder.is_dir()), root)


# Which pictures, which of their boxes


def split_of(ids: Iterable[int], split: str, seed: int) -> list[int]:
    """The ids of a split: all for "test", else 80 % ("train", rounded down) or the rest ("validation")."""
    ranked = ranked_by_hash(ids, "split", seed)
    cut = int(len(ranked) * TRAIN_SHARE)
    return {"test": ranked, "train": ranked[:cut], "validation": ranked[cut:]}[split]


def ranked_by_hash(ids: Iterable[int], salt: str, seed: int) -> list[int]:
    """In random order, the same whatever order they come in: a smaller draw begins a larger one of the same seed."""
    return sorted(ids, key=lambda id: (hashed_id(salt, seed, id), id))


def hashed_id(salt: str, seed: int, id: int) -> int:
    """A number in 0..2^64 that depends on nothing but its arguments, in every version of every library."""
    return int.from_bytes(hashlib.blake2b(f"{salt} {seed} {id}".encode(), digest_size=8).digest())


class BoxFilter(Frozen):
    """Which boxes of a picture to keep. ``min_area``: of the (cropped) picture, after clipping; ``max_boxes``: the
    largest are kept; ``min_boxes``: pictures with fewer kept boxes are left out; ``crowd``: keep regions that COCO
    marks as crowds."""

    min_area: Annotated[float, Field(ge=0, lt=1)] = 0.01
    max_boxes: Annotated[int, Field(ge=0, le=MAX_REGIONS)] = 8
    min_boxes: Annotated[int, Field(ge=0)] = 0
    crowd: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "BoxFilter":
        if self.min_boxes > self.max_boxes:
            raise FieldError(
                "min_boxes", f"must be at most max_boxes, {self.max_boxes} (got {self.min_boxes})"
            )
        return self


def centre_crop(width: int, height: int, size: tuple[int, int] = (1, 1)) -> Crop:
    """The largest part in the middle with the proportions of ``size`` (width, height), in whole pixels."""
    scale = min(width / size[0], height / size[1])
    across, down = min(width, round(scale * size[0])), min(height, round(scale * size[1]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def kept_regions(
    boxes: Iterable[PixelBox], crop: Crop, rules: BoxFilter, dropped: Counter[str] | None = None
) -> list[Region]:
    """Regions of boxes, largest first: moved and clamped to ``crop``, then filtered. ``dropped`` counts the others by
    reason."""
    left, top, right, bottom = crop
    width, height = right - left, bottom - top
    kept, others = [], Counter[str]()
    for box in boxes:
        x, y, w, h = box.bbox
        edges = (x - left) / width, (y - top) / height, (x + w - left) / width, (y + h - top) / height
        corners = tuple(min(max(edge, 0.0), 1.0) for edge in edges)
        area = (corners[2] - corners[0]) * (corners[3] - corners[1])
        if area <= 0:
            others["beside the crop"] += 1
        elif box.crowd and not rules.crowd:
            others["that mark a crowd"] += 1
        elif area < max(rules.min_area, MIN_AREA):
            others["below min_area"] += 1
        else:
            kept.append((area, Region(box.name, corners, label=box.label)))
    kept.sort(key=lambda item: -item[0])  # stable: equal areas stay in the file's order
    others["over max_boxes"] += max(len(kept) - rules.max_boxes, 0)
    if dropped is not None:
        dropped.update(+others)
    return [region for _, region in kept[: rules.max_boxes]]
