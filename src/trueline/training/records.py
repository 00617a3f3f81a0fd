"""JSON Lines of layouts, each with "image": the path of its picture, relative to the file."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trueline.layout import MAX_LINE, Layout, LayoutError
from trueline.training.data import BrokenPicture, LeftOut, Rules, digest
from trueline.training.settings import Data


@dataclass(frozen=True)
class Record:
    line: int
    image: Path
    layout: Layout


class LayoutFile:
    """The lines that hold a layout and an image. Boxes are in fractions of the whole picture, before the crop."""

    def __init__(self, path: Path, records: list[Record], rules: Rules, left_out: LeftOut, content: str):
        self.path, self.records, self.rules, self.left_out = path, records, rules, left_out
        self._content = content
        self._sizes: dict[int, tuple[int, int]] = {}  # of the pictures, by line

    @property
    def fingerprint(self) -> str:
        """Of the file and the crop; the pictures' files count as what they were."""
        return digest("records", self._content, str(self.rules.size), str(len(self)))

    def __len__(self) -> int:
        return len(self.records)

    def picture(self, index: int) -> np.ndarray:
        record = self.records[index]
        try:
            return self.rules.read(record.image)
        except BrokenPicture as error:
            raise BrokenPicture(f"{self.path}, line {record.line}: {error}") from None

    def layout(self, index: int, generator: torch.Generator) -> Layout:
        return self._layout(self.records[index])

    def samples(self, n: int) -> list[Layout]:
        found: list[Layout] = []
        for record in self.records:
            with suppress(OSError, SyntaxError, Image.DecompressionBombError):  # counted when it is encoded
                found.append(self._layout(record))
            if len(found) == n:
                break
        return found

    def _layout(self, record: Record) -> Layout:
        if record.line not in self._sizes:
            with Image.open(record.image) as opened:  # reads the header only
                self._sizes[record.line] = opened.size
        width, height = self._sizes[record.line]
        things = [
            {
                "name": region.phrase,
                "bbox": (
                    *(region.box.x0 * width, region.box.y0 * height),
                    *(region.box.width * width, region.box.height * height),
                ),
                "iscrowd": False,
            }
            for region in record.layout.regions
        ]
        return Layout(record.layout.prompt, self.rules.regions(things, width, height))


def open_examples(data: Data, rules: Rules) -> LayoutFile:
    """The file ``data.source``. A broken line is left out and named.

    Raises:
        ValueError: it cannot be read.
    """
    path, left_out, records = Path(data.source), LeftOut(), []
    try:
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ValueError(f"data.source: cannot read {path} ({error.strerror})") from None
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = _record(line, number, path.parent)
        except (LayoutError, ValueError, RecursionError) as error:
            left_out.add("broken lines", f"{path}, line {number}", " ".join(str(error).split()))
            continue
        if len(record.layout.regions) < rules.boxes.min_boxes:
            left_out.add(f"pictures with fewer than {rules.boxes.min_boxes} boxes", f"{path}, line {number}")
            continue
        if any(region.mask for region in record.layout.regions):
            left_out.add("pictures whose masks are not read (their boxes are)", f"{path}, line {number}")
        records.append(record)
    return LayoutFile(path, records[: data.n], rules, left_out, digest(content.encode("utf-8", "replace")))


def _record(line: str, number: int, folder: Path) -> Record:
    if len(line) > MAX_LINE:
        raise ValueError(f"a record has at most {MAX_LINE} characters (got {len(line)})")
    content = json.loads(line)
    if not isinstance(content, dict) or not isinstance(content.get("image"), str) or not content["image"]:
        raise ValueError('image: is missing; give the path of the picture as "image"')
    if "\0" in content["image"]:
        raise ValueError("image: is no path")
    layout = Layout.from_record({key: value for key, value in content.items() if key != "image"})
    return Record(number, folder / content["image"], layout)
