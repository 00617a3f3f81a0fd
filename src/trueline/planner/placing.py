"""Boxes for things that stand in relations to each other, on a canvas.

Constructive, without search by chance: what overlaps (on, in, holding, wearing, in front of) is built into one
block around its base (``building``); blocks that stand left, right, above, below, beside or between form a grid, in
which the centres of what is related share a row or a column (``grids``); what is not related is set in rows. All
have one scale, so that proportions stay.
"""

from collections.abc import Sequence

from trueline.boxes import Corners
from trueline.planner.blocks import GAP, BoxBlock
from trueline.planner.grids import Grids
from trueline.planner.links import Link, ThingGroup, holds

MARGIN = 0.04  # of the picture's width and height
GROUNDS = (1.0, 0.5, 0.0)  # how far a row stands on one ground, while its centres still tell the relation
FEWER_ROWS = 1.25  # times larger that things must get for another row
GROWTH = 1.5  # at most, over the typical size


def place(
    groups: Sequence[ThingGroup], links: Sequence[Link], aspect: float = 1.0, seed: int | None = None
) -> tuple[list[list[Corners]], list[Link]]:
    """Boxes (xyxy, 0..1) of every group, and the links that do not hold in them.

    ``aspect``: width over height of the picture. ``seed``: None for the usual layout, else sizes, sides and spaces
    vary.
    """
    found: list[tuple[list[list[Corners]], list[Link]]] = []
    for variation in dict.fromkeys((seed, None)):  # chance must not cost a relation
        for ground in GROUNDS:
            boxes = _Placer(groups, links, aspect, variation).place(ground)
            broken = [link for link in links if not holds(link.kind, boxes[link.first], boxes[link.second])]
            found.append((boxes, broken))
            if not broken:
                return boxes, broken
    return min(found, key=lambda each: len(each[1]))


class _Placer(Grids):
    """The grids in rows on the canvas."""

    def place(self, ground: float) -> list[list[Corners]]:
        roots = [g for g in range(len(self.groups)) if g not in self.parent]
        blocks = {root: self.build(root) for root in roots}
        parts = self.components(roots, blocks, ground)
        page = self._page(parts)
        result: list[list[Corners]] = [[] for _ in self.groups]
        for (group, _), (x0, y0, x1, y1) in sorted(page.boxes.items()):
            result[group].append((x0 / self.across, y0 / self.down, x1 / self.across, y1 / self.down))
        return [[tuple(min(max(c, 0.0), 1.0) for c in box) for box in boxes] for boxes in result]  # type: ignore[misc]

    def _page(self, parts: list[BoxBlock]) -> BoxBlock:
        """The parts in rows, scaled to the canvas and balanced on it."""
        if not parts:
            return BoxBlock()
        wishes, sizes = [self._wish(part) for part in parts], [part.size for part in parts]
        order = list(range(len(parts)))
        if self.random:
            self.random.shuffle(order)
        bands = [[i for i in order if (wishes[i][1] or 0) == y] for y in (-1, 0, 1)]
        best: tuple[float, list[list[int]]] | None = None
        free_w, free_h = self.across * (1 - 2 * MARGIN), self.down * (1 - 2 * MARGIN)
        for most in range(1, len(parts) + 1):
            rows = [row for band in bands for row in _rows(band, sizes, most)]
            wide = max(sum(sizes[i][0] for i in row) + GAP * (len(row) - 1) for row in rows)
            high = sum(max(sizes[i][1] for i in row) for row in rows) + GAP * (len(rows) - 1)
            scale = min(free_w / wide, free_h / high, GROWTH)
            if best is None or scale > FEWER_ROWS * best[0]:
                best = scale, rows
        assert best is not None
        scale, rows = best
        page = BoxBlock()
        heights = [scale * max(sizes[i][1] for i in row) for row in rows]
        levels = [{wishes[i][1] or 0 for i in row} for row in rows]
        spaces = self._spread(free_h - sum(heights), len(rows), _lean(levels))
        y = self.down * MARGIN
        for row, height, above in zip(rows, heights, spaces, strict=True):
            y += above
            row = sorted(row, key=lambda i: wishes[i][0] or 0)  # stable: the order of the words
            widths = [scale * sizes[i][0] for i in row]
            x = self.across * MARGIN
            lean = _lean([{wishes[i][0] or 0} for i in row])
            gaps = self._spread(free_w - sum(widths), len(row), lean)
            for i, width, before in zip(row, widths, gaps, strict=True):
                x += before
                page.add(parts[i].to(x, y + height - scale * sizes[i][1], scale))
                x += width
            y += height
        return page

    def _wish(self, part: BoxBlock) -> tuple[int | None, int | None]:
        """Where in the picture a part is to be: what the first of its groups that says so wants."""
        places = [self.groups[group].place for group, _ in sorted(part.boxes)]
        return next((x for x, _ in places if x is not None), None), next(
            (y for _, y in places if y is not None), None
        )

    def _spread(self, free: float, count: int, lean: int) -> list[float]:
        """Space before each of ``count`` parts: even, or all on one side where they lean to the other."""
        free = max(free, 0.0)
        if lean:
            between = min(free / count, GAP)
            rest = free - between * (count - 1)
            return [0.0 if lean < 0 else rest, *([between] * (count - 1))]
        weights = [self.random.uniform(0.4, 1.6) if self.random else 1.0 for _ in range(count + 1)]
        return [free * weight / sum(weights) for weight in weights[:-1]]


def _lean(wishes: list[set[int]]) -> int:
    """-1 or 1 where all want to that side, else 0."""
    together = set().union(*wishes)
    return together.pop() if len(together) == 1 else 0


def _rows(band: list[int], sizes: list[tuple[float, float]], most: int) -> list[list[int]]:
    """The parts of a band in at most so many rows of about the same width, in their order."""
    if not band:
        return []
    total = sum(sizes[i][0] for i in band)
    limit = max(total / most, max(sizes[i][0] for i in band))
    rows: list[list[int]] = [[]]
    width = 0.0
    for i in band:
        if rows[-1] and width + sizes[i][0] / 2 > limit:
            rows.append([])
            width = 0.0
        rows[-1].append(i)
        width += sizes[i][0]
    return rows
