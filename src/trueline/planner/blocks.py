"""Blocks: boxes that belong together, in coordinates of their own."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from trueline.boxes import Corners

GAP = 0.06  # between blocks, in sides of a square picture
INNER_GAP = 0.03  # between things of a kind, in sides of a square picture


@dataclass
class BoxBlock:
    """Boxes of (group, number) in coordinates of their own."""

    boxes: dict[tuple[int, int], Corners] = field(default_factory=dict)

    def bounds(self, groups: Collection[int] | None = None) -> Corners:
        found = [box for (group, _), box in self.boxes.items() if groups is None or group in groups]
        left, top, right, bottom = zip(*found, strict=True)
        return min(left), min(top), max(right), max(bottom)

    def moved(self, dx: float, dy: float, scale: float = 1.0) -> "BoxBlock":
        return BoxBlock(
            {
                k: (a * scale + dx, b * scale + dy, c * scale + dx, d * scale + dy)
                for k, (a, b, c, d) in self.boxes.items()
            }
        )

    @property
    def size(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.bounds()
        return x1 - x0, y1 - y0

    def to(self, x: float, y: float, scale: float = 1.0) -> "BoxBlock":
        """With its upper left corner there."""
        x0, y0, _, _ = self.bounds()
        return self.moved(x - x0 * scale, y - y0 * scale, scale)

    def add(self, other: "BoxBlock") -> None:
        self.boxes |= other.boxes


def reach(block: BoxBlock, anchor: int) -> Corners:
    """How far a block reaches from the centre of one of its groups: left, up, right, down."""
    x0, y0, x1, y1 = block.bounds([anchor])
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    a, b, c, d = block.bounds()
    return cx - a, cy - b, c - cx, d - cy


def row_of(blocks: Sequence[BoxBlock], gap: float = INNER_GAP, level: float = 1.0) -> BoxBlock:
    """Side by side; ``level``: 1 on one ground, 0.5 centres on one line."""
    kept = [block for block in blocks if block.boxes]
    high = max(block.size[1] for block in kept)
    row, x = BoxBlock(), 0.0
    for block in kept:
        width, height = block.size
        row.add(block.to(x, level * (high - height)))
        x += width + gap
    return row


def grid_of(blocks: Sequence[BoxBlock]) -> BoxBlock:
    """In rows that make a shape as square as can be; up to three stay in one row unless they are wide."""
    if len(blocks) <= 1:
        return blocks[0] if blocks else BoxBlock()
    wide, high = max(b.size[0] for b in blocks), max(b.size[1] for b in blocks)

    def worth(columns: int) -> float:
        rows = math.ceil(len(blocks) / columns)
        return max(columns * (wide + INNER_GAP), rows * (high + INNER_GAP))

    columns = min(range(len(blocks), 0, -1), key=worth)
    page, y = BoxBlock(), 0.0
    for first in range(0, len(blocks), columns):
        row = row_of(blocks[first : first + columns])
        width, height = row.size
        page.add(row.to((columns * (wide + INNER_GAP) - width) / 2, y))
        y += height + INNER_GAP
    return page
