"""Data in COCO's format on the user's disk: ``instances_X.json``, ``captions_X.json``, and the pictures.

The annotations lie in the folder or in its ``annotations``, the pictures in ``X``, ``images/X``, ``images`` or the
folder. One caption of a picture is drawn per step; the phrase of a region is its category's name.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trueline.evaluation.benchmarks.coco import split_of
from trueline.layout import MAX_PHRASE, MAX_PROMPT, Layout
from trueline.training.data.examples import LeftOut, Rules, digest, draw
from trueline.training.settings import Data

MAX_BYTES = 4 << 30  #: of one annotation file; COCO's largest has half a gigabyte


@dataclass
class Picture:
    """One image of the annotations. ``things``: ``name``, ``bbox`` (xywh, pixels) and ``iscrowd`` of each."""

    file: str
    width: int
    height: int
    captions: list[str] = field(default_factory=list)
    things: list[dict[str, Any]] = field(default_factory=list)


class COCOFolder:
    """All pictures that have a caption, in the order of their ids."""

    pictured = True

    def __init__(self, pictures: list[Picture], folder: Path, rules: Rules, left_out: LeftOut, origin: str):
        self.pictures, self.folder, self.rules = pictures, folder, rules
        self.left_out, self._origin = left_out, origin

    @property
    def fingerprint(self) -> str:
        """Of annotations, choice and crop; the pictures' files count as what they were."""
        chosen = json.dumps([picture.file for picture in self.pictures])
        return digest("coco", self._origin, str(self.rules.size), chosen)

    def __len__(self) -> int:
        return len(self.pictures)

    def picture(self, index: int) -> np.ndarray:
        found = self.pictures[index]
        return self.rules.read(self.folder / found.file, (found.width, found.height))

    def layout(self, index: int, generator: torch.Generator) -> Layout:
        captions = self.pictures[index].captions
        return self._layout(index, captions[draw(len(captions), generator)])

    def samples(self, n: int) -> list[Layout]:
        return [self._layout(i, self.pictures[i].captions[0]) for i in range(min(n, len(self)))]

    def _layout(self, index: int, caption: str) -> Layout:
        found = self.pictures[index]
        return Layout(caption, self.rules.regions(found.things, found.width, found.height))


def open_examples(data: Data, rules: Rules) -> COCOFolder:
    """The folder ``data.source``.

    Raises:
        ValueError: no annotations, several and no ``data.split``, or a file that is not of COCO's format.
    """
    root = Path(data.source)
    notes = root / "annotations" if (root / "annotations").is_dir() else root
    split = data.split or _only_split(notes)
    left_out = LeftOut()
    texts = [_read(notes / f"{kind}_{split}.json") for kind in ("captions", "instances")]
    captions, instances = (_parsed(text, notes / f"{kind}_{split}.json") for text, kind in texts)
    pictures = _images(captions, left_out)
    _add_captions(captions, pictures, left_out)
    _add_things(instances, pictures, left_out)
    chosen = sorted(pictures) if data.share == "all" else sorted(split_of(pictures, data.share, seed=0))
    usable = (pictures[id] for id in chosen if _usable(pictures[id], id, rules, left_out))
    kept = list(islice(usable, data.n))
    folder = _pictures_folder(root, split, kept)
    return COCOFolder(kept, folder, rules, left_out, digest(*(text for text, _ in texts)))


def _only_split(notes: Path) -> str:
    splits = sorted(path.stem.removeprefix("instances_") for path in notes.glob("instances_*.json"))
    if len(splits) != 1:
        found = f"there are {', '.join(splits)}" if splits else "there is none"
        raise ValueError(
            f"data.split: say which instances_X.json of {notes} to use ({found})"
            if splits
            else f"data.source: {notes} holds no instances_X.json; give a folder in COCO's format"
        )
    return splits[0]


def _read(path: Path) -> tuple[bytes, str]:
    """The bytes of ``KIND_X.json``, and KIND."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: more than {MAX_BYTES >> 30} GiB; split it")
        return path.read_bytes(), path.name.partition("_")[0]
    except OSError as error:
        raise ValueError(f"data.source: cannot read {path} ({error.strerror})") from None


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"data.source: {path} is not whole JSON") from None
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"data.source: {path} has no list of {key}; it must be in COCO's format")
    return content


def _images(content: dict[str, Any], left_out: LeftOut) -> dict[int, Picture]:
    pictures: dict[int, Picture] = {}
    for place, row in enumerate(content["images"]):
        try:
            id, file = row["id"], row["file_name"]
            width, height = row["width"], row["height"]
            if not (isinstance(file, str) and file and _sides(id, width, height)):
                raise TypeError
        except (KeyError, TypeError):
            left_out.add("broken images in the annotations", f"images[{place}]", f"{row!r:.80}")
            continue
        pictures[id] = Picture(file, width, height)
    return pictures


def _sides(*values: Any) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) for v in values) and min(values[1:]) > 0


def _add_captions(content: dict[str, Any], pictures: dict[int, Picture], left_out: LeftOut) -> None:
    for place, row in enumerate(content["annotations"]):
        text = row.get("caption") if isinstance(row, dict) else None
        picture = pictures.get(row["image_id"]) if isinstance(row, dict) and _known(row) else None
        if picture is None or not isinstance(text, str) or not 0 < len(text.strip()) <= MAX_PROMPT:
            left_out.add("broken captions", f"captions annotations[{place}]", f"{row!r:.80}")
            continue
        picture.captions.append(" ".join(text.split()))


def _known(row: dict[str, Any]) -> bool:
    return isinstance(row.get("image_id"), int)


def _add_things(content: dict[str, Any], pictures: dict[int, Picture], left_out: LeftOut) -> None:
    names = _names(content)
    for place, row in enumerate(content["annotations"]):
        problem = _problem(row, pictures, names)
        if problem:
            left_out.add("broken boxes", f"instances annotations[{place}]", problem)
            continue
        thing = {"name": names[row["category_id"]], "bbox": row["bbox"], "iscrowd": bool(row.get("iscrowd"))}
        pictures[row["image_id"]].things.append(thing)


def _names(content: dict[str, Any]) -> dict[Any, str]:
    rows = content.get("categories")
    if not isinstance(rows, list):
        raise ValueError("data.source: the instances have no list of categories; it must be in COCO's format")
    rows = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), int)]
    return {row["id"]: row["name"] for row in rows if isinstance(row.get("name"), str)}


def _problem(row: Any, pictures: dict[int, Picture], names: dict[Any, str]) -> str:
    """What is wrong with an annotation; empty when it can be used."""
    if not isinstance(row, dict):
        return f"not an object ({row!r:.80})"
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_finite(value) for value in box):
        return f"bbox must be x, y, width and height in pixels (got {box!r:.80})"
    if min(box[2:]) <= 0:
        return f"bbox has no area (got {box!r:.80})"
    if not _known(row) or row["image_id"] not in pictures:
        return f"no image has the id {row.get('image_id')!r:.40}"
    if _outside(box, pictures[row["image_id"]]):
        return f"bbox lies outside its picture (got {box!r:.80})"
    name = names.get(row.get("category_id")) if isinstance(row.get("category_id"), int) else None
    if name is None or not 0 < len(name.strip()) <= MAX_PHRASE:
        return f"no category has the id {row.get('category_id')!r:.40}"
    return ""


def _outside(box: list[float], picture: Picture) -> bool:
    x, y, width, height = box
    return x >= picture.width or y >= picture.height or x + width <= 0 or y + height <= 0


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _usable(picture: Picture, id: int, rules: Rules, left_out: LeftOut) -> bool:
    """Whether it has a caption and boxes enough; what is dropped of its boxes is counted."""
    where = f"image {id} ({picture.file})"
    if not picture.captions:
        left_out.add("pictures without a caption", where)
        return False
    dropped: Counter[str] = Counter()
    least = rules.boxes.min_boxes
    if len(rules.regions(picture.things, picture.width, picture.height, dropped)) < least:
        left_out.add(f"pictures with fewer than {least} boxes", where)
        return False
    left_out.boxes.update(dropped)
    return True


def _pictures_folder(root: Path, split: str, pictures: list[Picture]) -> Path:
    """Where the files are: the first candidate that holds one of the first few."""
    candidates = (root / split, root / "images" / split, root / "images", root)
    for folder in candidates:
        if any((folder / picture.file).is_file() for picture in pictures[:20]):
            return folder
    return next((folder for folder in candidates if folder.is_dir()), root)
