"""JSON Lines of layouts, each with "image": the path of its picture, relative to the file.

All that a step needs of the pictures' files besides their latents is read once, when the file is opened: pictures
that go away while a run trains on their latents do not end it.

Boxes are parts of the picture as it is seen, turned as its EXIF says. Where a layout says how large the picture was
that was annotated (``meta.picture``), it must be so.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trueline.formats._output import picture_of
from trueline.formats.coco_files import PixelBox
from trueline.layout import Layout, Region, parse_record
from trueline.pictures import BrokenPicture, picture_size
from trueline.training.data.examples import LeftOut, Rules, digest, from_lines
from trueline.training.settings import Data

ENDS = 4096  #: bytes at each end of a picture's file that tell it from others, with its length


@dataclass(frozen=True)
class Record:
    """A line with its picture. ``size``: width and height in pixels, None where the file is no picture; ``stamp``:
    what tells its content from another, None where there is no file."""

    line: int
    image: Path
    layout: Layout
    size: tuple[int, int] | None
    stamp: str | None


class LayoutFile:
    """The lines that hold a layout and an image. Boxes are in fractions of the whole picture, before the crop."""

    pictured = True

    def __init__(self, path: Path, records: list[Record], rules: Rules, left_out: LeftOut, content: str):
        self.path, self.records, self.rules, self.left_out = path, records, rules, left_out
        self._content = content

    @property
    def fingerprint(self) -> str:
        """Of the file, the lines that were chosen, the content of their pictures, and the crop; not of where they
        lie, so that a copy on another disk or machine will do."""
        chosen = json.dumps([(record.line, record.stamp) for record in self.records])
        return digest("records", self._content, str(self.rules.size), chosen)

    def __len__(self) -> int:
        return len(self.records)

    def picture(self, index: int) -> np.ndarray:
        record = self.records[index]
        said = picture_of(record.layout)  # which layouts of other formats keep
        size = (said["width"], said["height"]) if "width" in said else None
        try:
            return self.rules.read(record.image, size)
        except BrokenPicture as error:
            raise BrokenPicture(f"{self.path}, line {record.line}: {error}") from None

    def layout(self, index: int, generator: torch.Generator) -> Layout:
        record = self.records[index]
        if record.size is None:  # its latents are there all the same, of a run that could read it
            raise BrokenPicture(
                f"{self.path}, line {record.line}: the size of {record.image} cannot be read; put the picture back, "
                "or leave the line out and train in another folder"
            )
        return Layout(record.layout.prompt, regions(record, self.rules))

    def samples(self, n: int) -> list[Layout]:
        whole = [record for record in self.records if record.size is not None][:n]
        return [Layout(record.layout.prompt, regions(record, self.rules)) for record in whole]


def regions(record: Record, rules: Rules, dropped: Counter[str] | None = None) -> list[Region]:
    """The boxes of a picture that can be read, in its crop; ``dropped`` counts those that are not kept by reason."""
    width, height = record.size or (1, 1)
    boxes = []
    for region in record.layout.regions:
        corner = region.box.x0 * width, region.box.y0 * height
        sides = region.box.width * width, region.box.height * height
        boxes.append(PixelBox(region.phrase, (*corner, *sides), label=region.label))
    return rules.regions(boxes, width, height, dropped)


def open_examples(data: Data, rules: Rules) -> LayoutFile:
    """The file ``data.source``. A broken line is left out and named.

    Raises:
        ValueError: ``from_lines``'s.
    """
    path, left_out = Path(data.source), LeftOut()

    def read(line: str, number: int) -> Record | None:
        record = _record(line, number, path.parent)
        return record if _used(record, path, rules, left_out) else None

    records, content = from_lines(path, data, left_out, read)
    return LayoutFile(path, records, rules, left_out, content)


def _used(record: Record, path: Path, rules: Rules, left_out: LeftOut) -> bool:
    """Whether the picture has enough boxes; what is dropped of it is counted. One that cannot be read is broken,
    which is said where it is encoded."""
    where = f"{path}, line {record.line}"
    if record.size is not None:
        dropped: Counter[str] = Counter()
        least = rules.boxes.min_boxes
        if len(regions(record, rules, dropped)) < least:
            left_out.add(f"pictures with fewer than {least} boxes", where)
            return False
        left_out.boxes.update(dropped)
    if any(region.mask for region in record.layout.regions):
        left_out.add("pictures whose masks are not read (their boxes are)", where)
    return True


def _record(line: str, number: int, folder: Path) -> Record:
    content = parse_record(line)
    if not isinstance(content, dict) or not isinstance(content.get("image"), str) or not content["image"]:
        raise ValueError('image: is missing; give the path of the picture as "image"')
    if "\0" in content["image"]:
        raise ValueError("image: is no path")
    layout = Layout.from_record(content)
    image = folder / content["image"]
    return Record(number, image, layout, *_about(image))


def _about(image: Path) -> tuple[tuple[int, int] | None, str | None]:
    """Size and stamp of a picture's file, of which only the beginning and the end are read."""
    try:
        if not image.is_file():  # a pipe would be waited for
            return None, None
        with image.open("rb") as file:
            head, length = file.read(ENDS), image.stat().st_size
            file.seek(max(length - ENDS, 0))
            stamp = digest(str(length), head, file.read(ENDS))
    except OSError:
        return None, None
    try:
        return picture_size(image), stamp
    except BrokenPicture:
        return None, stamp
