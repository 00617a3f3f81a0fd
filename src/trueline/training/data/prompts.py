"""Prompts without pictures: a text file with one in each line, or JSON Lines of layouts without "image".

For recipes that draw their own pictures (``Task.pictures`` is False).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trueline.layout import Layout, parse_record
from trueline.pictures import BrokenPicture
from trueline.training.data.examples import LeftOut, Rules, digest, from_lines
from trueline.training.settings import Data


@dataclass(frozen=True)
class Prompts:
    """Layouts as they stand in the file; their boxes are for recipes that draw with boxes."""

    path: Path
    layouts: list[Layout]
    left_out: LeftOut
    pictured: bool = False

    @property
    def fingerprint(self) -> str:
        return digest("prompts", json.dumps([layout.to_record() for layout in self.layouts]))

    def __len__(self) -> int:
        return len(self.layouts)

    def picture(self, index: int) -> np.ndarray:
        raise BrokenPicture(f"{self.path}: holds prompts, no pictures")

    def layout(self, index: int, generator: torch.Generator) -> Layout:
        return self.layouts[index]

    def samples(self, n: int) -> list[Layout]:
        return self.layouts[:n]


def open_examples(data: Data, rules: Rules) -> Prompts:
    """The file ``data.source``. A broken line is left out and named.

    Raises:
        ValueError: ``from_lines``'s.
    """
    path, left_out = Path(data.source), LeftOut()
    most = rules.boxes.max_boxes

    def read(line: str, _number: int) -> Layout:
        if path.suffix.lower() == ".txt":
            return Layout(line.strip())
        layout = Layout.from_record(parse_record(line))
        if len(layout.regions) > most:
            raise ValueError(f"regions: at most {most} can be used (got {len(layout.regions)})")
        return layout

    return Prompts(path, from_lines(path, data, left_out, read)[0], left_out)
