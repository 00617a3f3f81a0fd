"""Examples to train on: a picture, its caption and its boxes, wherever they come from.

GLIGEN's rules (``demo/dataset/cd_dataset.py``): the largest middle part of the backbone's proportions, boxes moved
with it and clamped, those below 1 % of it left out, the largest kept. No flip: captions say left and right. Boxes are
computed from the file's own numbers each time and nothing is changed in place (diffusers' GLIGEN example transforms a
box again in each epoch).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from trueline.formats.coco_files import BoxFilter, Crop, PixelBox, centre_crop, kept_regions
from trueline.layout import MAX_LINE, Layout, Region, lines_of, parse_record
from trueline.pictures import BrokenPicture, open_picture
from trueline.training.settings import Data


class Examples(Protocol):
    """Numbered examples. ``fingerprint`` changes with anything that changes which picture has which number;
    ``pictured`` is False for prompts alone."""

    left_out: LeftOut
    pictured: bool

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def picture(self, index: int) -> np.ndarray:
        """uint8 RGB, (height, width, 3), of the backbone's size.

        Raises:
            BrokenPicture: it cannot be read.
        """

    def layout(self, index: int, generator: torch.Generator) -> Layout:
        """What the picture shows, with one of its captions."""

    def samples(self, n: int) -> list[Layout]:
        """``n`` layouts (or as many as there are) to draw pictures of on the way."""


@dataclass
class LeftOut:
    """What was not used, and why: nothing is dropped in silence. ``boxes``: of the pictures that are used, by reason;
    they are many, and have no names."""

    reasons: Counter[str] = field(default_factory=Counter)
    items: list[tuple[str, str]] = field(default_factory=list)  #: (which, why)
    boxes: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, which: str, why: str = "") -> None:
        self.reasons[reason] += 1
        self.items.append((which, f"{reason}: {why}" if why else reason))

    @property
    def counts(self) -> dict[str, int]:
        """All of it in numbers."""
        return dict(self.reasons) | {f"boxes {why}": count for why, count in self.boxes.items()}

    def lines(self) -> bytes:
        """JSON Lines of the items, in ASCII: a broken line may hold what UTF-8 cannot."""
        return "".join(json.dumps({"what": what, "why": why}) + "\n" for what, why in self.items).encode()

    def __str__(self) -> str:
        first = f"; the first: {self.items[0][0]}, {self.items[0][1]}" if self.items else ""
        return ", ".join(f"{count} {reason}" for reason, count in self.counts.items()) + first


class Refused(ValueError):
    """Data that cannot be trained on. ``left_out``: what of it cannot be used, by name."""

    def __init__(self, problem: str, left_out: LeftOut):
        super().__init__(problem)
        self.left_out = left_out


@dataclass(frozen=True)
class Rules:
    """Which boxes of a picture are kept, and at which size (width, height) it is trained on."""

    size: tuple[int, int]
    boxes: BoxFilter

    @classmethod
    def of(cls, data: Data, size: tuple[int, int], max_regions: int) -> Rules:
        most = min(data.max_boxes, max_regions)
        if data.min_boxes > most:
            raise ValueError(f"data.min_boxes: this model takes at most {most} boxes (got {data.min_boxes})")
        return cls(
            size,
            BoxFilter(min_area=data.min_area, max_boxes=most, min_boxes=data.min_boxes, crowd=data.crowd),
        )

    def crop(self, width: int, height: int) -> Crop:
        return centre_crop(width, height, self.size)

    def regions(
        self, boxes: Sequence[PixelBox], width: int, height: int, dropped: Counter[str] | None = None
    ) -> list[Region]:
        """Of a picture's boxes, largest first; ``dropped`` counts the others by reason."""
        return kept_regions(boxes, self.crop(width, height), self.boxes, dropped)

    def read(self, path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
        """The picture of a file, cropped and resized; ``size``: what its annotations say that it is, upright: boxes
        count the pixels of the picture as EXIF turns it.

        Raises:
            BrokenPicture: it is missing, broken, or of another size.
        """
        picture = open_picture(path)
        if size is not None and picture.size != size:
            said, found = (f"{w} x {h}" for w, h in (size, picture.size))
            raise BrokenPicture(
                f"{path}: is {found} pixels, its annotations say {said}",
                "give the picture that was annotated; one that EXIF turns counts as it is seen",
            )
        return fitted(picture, self.crop(*picture.size), self.size)


def fitted(picture: Image.Image, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """The part ``crop`` of an RGB picture at ``size`` (width, height), uint8."""
    if crop == (0, 0, *size) == (0, 0, *picture.size):
        return np.array(picture)
    return np.array(picture.resize(size, Image.Resampling.LANCZOS, box=crop))


def digest(*parts: str | bytes) -> str:
    """A short hash of texts and bytes."""
    made = hashlib.sha256()
    for part in parts:
        made.update(part.encode() if isinstance(part, str) else part)
        made.update(b"\0")
    return made.hexdigest()[:16]


def of_prompts(path: Path) -> bool:
    """Whether the file holds prompts without pictures: a .txt, or JSON Lines none of which has an "image"."""
    if path.suffix.lower() == ".txt":
        return True
    prompts = False
    try:
        for _, line in lines_of(path):
            row = parse_record(line) if not prompts or '"image"' in line else None
            if isinstance(row, dict) and "image" in row:
                return False
            prompts |= isinstance(row, dict) and "prompt" in row
    except (OSError, ValueError):
        return prompts
    return prompts


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Its numbers as they lie in memory, wherever it is."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def draw(count: int, generator: torch.Generator) -> int:
    """A whole number below ``count``."""
    return int(torch.randint(count, (), generator=generator))


BROKEN = "broken lines"
Found = TypeVar("Found")


def from_lines(
    path: Path, data: Data, left_out: LeftOut, read: Callable[[str, int], Found | None]
) -> tuple[list[Found], str]:
    """What ``read(line, number)`` makes of a text file's lines, at most ``data.n`` of them; and the file's digest.

    A line that is empty, or of which it makes None, is passed over; one that it refuses is left out and named.

    Raises:
        ValueError: the file cannot be read, or more than ``data.max_broken`` of its lines are refused.
    """
    found: list[Found] = []
    tried, refused = 0, list[str]()
    try:
        mark = _text_digest(path)
    except OSError as error:
        raise ValueError(f"data.source: cannot read {path} ({error.strerror})") from None
    for number, line in lines_of(path):
        if len(found) == data.n:
            break
        if not line.strip():
            continue
        tried += 1
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"a line has at most {MAX_LINE} characters, and this one has more")
            if (made := read(line, number)) is not None:
                found.append(made)
        except (ValueError, RecursionError) as error:
            where, why = f"{path}, line {number}", " ".join(str(error).split())
            left_out.add(BROKEN, where, why)
            refused.append(f"{where}, {why}")
    if len(refused) > data.max_broken * tried:
        raise Refused(
            f"data.max_broken: {len(refused)} of {tried} lines of {path} cannot be used, more than the "
            f"{data.max_broken:g} of them that may be broken; the first: {refused[0]}; repair them, or raise it",
            left_out,
        )
    return found, mark


def _text_digest(path: Path) -> str:
    """``digest`` of a file's text, which is not held in memory."""
    made = hashlib.sha256()
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        while block := file.read(1 << 20):
            made.update(block.encode("utf-8", "replace"))
    made.update(b"\0")
    return made.hexdigest()[:16]


def reader_of(data: Data) -> str:
    """What reads ``data.source``: a name of ``READERS``.

    Raises:
        ValueError: it is not there, or a setting is of no use for it.
    """
    source = Path(data.source)
    if data.source == "world":
        reader = "world"
    elif source.is_dir():
        reader = "coco"
    elif source.is_file():
        reader = "prompts" if of_prompts(source) else "records"
    else:
        raise ValueError(
            f"data.source: {data.source!r} is neither world, nor a folder in COCO's format, nor a .jsonl of "
            "layouts, nor a .txt of prompts"
        )
    _refuse_idle(data, reader)
    return reader


def open_examples(data: Data, size: tuple[int, int], max_regions: int) -> Examples:
    """The examples of ``data.source`` for a backbone that draws ``size`` (width, height).

    Raises:
        ValueError: not there, not readable, or nothing in it can be used.
    """
    rules = Rules.of(data, size, max_regions)
    examples: Examples = import_module(READERS[reader_of(data)]).open_examples(data, rules)
    if not len(examples):
        why = f" ({examples.left_out})" if examples.left_out.counts else ""
        raise Refused(
            f"data.source: nothing in {data.source} can be trained on{why}; repair the data, or give another",
            examples.left_out,
        )
    return examples


def check_pictured(examples: Examples, source: str) -> None:
    """
    Raises:
        Refused: there are prompts and no pictures.
    """
    if examples.pictured:
        return
    count = len(examples)
    for index in range(count):
        examples.left_out.add("examples without an image", f"example {index} of {source}")
    have = "has" if count == 1 else "have"
    raise Refused(
        f"data.source: {source} holds prompts, and this recipe trains on pictures: {count} of {count} lines {have} "
        'no image; give a .jsonl whose lines have "image", the path of a picture (`trueline convert` writes it)',
        examples.left_out,
    )


#: Where the examples of each kind of source are read. The world reads its own scenes.
READERS = {
    "world": "trueline.world.training_data",
    "coco": "trueline.training.data.coco",
    "prompts": "trueline.training.data.prompts",
    "records": "trueline.training.data.records",
}


def _refuse_idle(data: Data, reader: str) -> None:
    """A setting that would have no effect is an error."""
    idle = {
        "world": ("share", "crowd", "min_boxes"),
        "records": ("share", "crowd", "split", "labels"),
        "coco": ("labels",),
        "prompts": ("share", "crowd", "split", "labels", "min_area", "min_boxes"),
    }
    for name in idle[reader]:
        if getattr(data, name) != Data.model_fields[name].default:
            raise ValueError(f"data.{name}: has no effect on {data.source}; leave it out")
