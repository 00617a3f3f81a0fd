"""Data in COCO's format on the user's disk: ``instances_X.json``, ``captions_X.json``, and the pictures.

The annotations lie in the folder or in its ``annotations``, the pictures in ``X``, ``images/X``, ``images`` or the
folder. One caption of a picture is drawn per step; the phrase of a region is its category's name.
"""

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from trueline.errors import short
from trueline.files import file_digest
from trueline.formats.coco_files import (
    CocoFile,
    CocoPicture,
    PixelBox,
    Problem,
    annotation_folder,
    pictures_folder,
    split_of,
)
from trueline.layout import MAX_PHRASE, MAX_PROMPT, Layout
from trueline.training.data.examples import LeftOut, Rules, digest, draw
from trueline.training.settings import Data

CURE = "data.source must be a folder in COCO's format"
#: What of a file is left out, by ``Problem.row``.
REASONS = {
    "image": "broken images in the annotations",
    "category": "broken categories",
    "caption": "broken captions",
    "box": "broken boxes",
}


class COCOFolder:
    """All pictures that have a caption, in the order of their ids."""

    pictured = True

    def __init__(
        self, pictures: list[CocoPicture], folder: Path, rules: Rules, left_out: LeftOut, origin: str
    ):
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
        picture = self.pictures[index]
        return self.rules.read(self.folder / picture.file, (picture.width, picture.height))

    def layout(self, index: int, generator: torch.Generator) -> Layout:
        captions = self.pictures[index].captions
        return self._layout(index, draw(len(captions), generator))

    def samples(self, n: int) -> list[Layout]:
        return [self._layout(index, 0) for index in range(min(n, len(self)))]

    def _layout(self, index: int, caption: int) -> Layout:
        picture = self.pictures[index]
        text, _where = picture.captions[caption]
        boxes = [annotation.box for annotation in picture.annotations]
        return Layout(" ".join(text.split()), self.rules.regions(boxes, picture.width, picture.height))


def open_examples(data: Data, rules: Rules) -> COCOFolder:
    """The folder ``data.source``.

    Raises:
        ValueError: no annotations, several and no ``data.split``, or a file that is not of COCO's format.
    """
    root, left_out = Path(data.source), LeftOut()
    notes = annotation_folder(root)
    split = data.split or _only_split(notes)

    def report(problem: Problem) -> None:
        left_out.add(REASONS[problem.row], problem.where, problem.why)

    paths = [notes / f"{kind}_{split}.json" for kind in ("captions", "instances")]
    captions = CocoFile.of_captions(paths[0], CURE, report)
    instances = CocoFile.of_instances(paths[1], CURE, report)
    pictures = captions.pictures()
    captions.add_captions(pictures)
    instances.add_annotations(pictures)
    for picture in pictures.values():
        _leave_out_broken(picture, report)
    chosen = sorted(pictures) if data.share == "all" else sorted(split_of(pictures, data.share, seed=0))
    usable = (pictures[id] for id in chosen if _usable(pictures[id], id, rules, left_out))
    kept = list(islice(usable, data.n))
    folder = pictures_folder(root, split, [picture.file for picture in kept])
    return COCOFolder(kept, folder, rules, left_out, digest(*map(file_digest, paths)))


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


def _leave_out_broken(picture: CocoPicture, report: Callable[[Problem], None]) -> None:
    """Captions and boxes that a layout cannot hold."""
    captions, annotations = picture.captions, picture.annotations
    picture.captions, picture.annotations = [], []
    for text, where in captions:
        if 0 < len(text.strip()) <= MAX_PROMPT:
            picture.captions.append((text, where))
        else:
            why = f"caption: must have 1 to {MAX_PROMPT} characters (got {short(text)})"
            report(Problem("caption", where, why))
    for annotation in annotations:
        if problem := _problem(annotation.box, picture):
            report(Problem("box", annotation.where, problem))
        else:
            picture.annotations.append(annotation)


def _problem(box: PixelBox, picture: CocoPicture) -> str:
    """What is wrong with a box; empty when it can be used."""
    x, y, width, height = box.bbox
    if min(width, height) <= 0:
        return f"bbox: has no area (got {short(box.bbox)})"
    if x >= picture.width or y >= picture.height or x + width <= 0 or y + height <= 0:
        return f"bbox: lies outside its picture (got {short(box.bbox)})"
    if not 0 < len(box.name.strip()) <= MAX_PHRASE:
        return f"category_id: its name must have 1 to {MAX_PHRASE} characters (got {short(box.name)})"
    return ""


def _usable(picture: CocoPicture, id: int, rules: Rules, left_out: LeftOut) -> bool:
    """Whether it has a caption and boxes enough; what is dropped of its boxes is counted."""
    where = f"image {id} ({picture.file})"
    if not picture.captions:
        left_out.add("pictures without a caption", where)
        return False
    dropped: Counter[str] = Counter()
    boxes = [annotation.box for annotation in picture.annotations]
    least = rules.boxes.min_boxes
    if len(rules.regions(boxes, picture.width, picture.height, dropped)) < least:
        left_out.add(f"pictures with fewer than {least} boxes", where)
        return False
    left_out.boxes.update(dropped)
    return True
