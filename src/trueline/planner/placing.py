"""Boxes for things that stand in relations to each other, on a canvas.

Constructive, without search by chance: what overlaps (on, in, holding, wearing, in front of) is built into one
block around its base; blocks that stand left, right, above, below, beside or between form a grid, in which the
centres of what is related share a row or a column; what is not related is set in rows. One scale for all, so
that proportions stay.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from trueline.english.words import SURFACES, WORN
from trueline.planner.blocks import INNER_GAP, BoxBlock, Corners, grid_of, reach, row_of
from trueline.planner.scene import ASIDE
from trueline.planner.sizes import extent, lair, ridden

OVERLAPPING = ("on", "lie", "in", "ride", "hold", "wear", "front", "behind")
RESTS = ("on", "lie", "ride")
GAP = 0.06  # between blocks, in sides of a square picture
MOST_IN_ROW = 6  # things of a kind that stand side by side on something
MARGIN = 0.04  # of the picture's width and height
NEAR = 0.29  # most distance of centres on one axis, for "beside" (T2I-CompBench: 150 of 480 pixels)
GROUNDS = (1.0, 0.5, 0.0)  # how far a row stands on one ground, while its centres still tell the relation
MOST_GROWTH = 1.6  # of a base, for what is on or in it
SINK = 0.12  # of its height, how far a thing reaches below the top of what it stands on
RESTING = 0.02  # of the picture, between a thing and what it rests on
FEWER_ROWS = 1.25  # times larger that things must get for another row
GROWTH = 1.5  # at most, over the typical size
#: x0, y0, x1, y1 in shares of the wearer's box
_WORN_AT = {
    "head": (0.2, -0.04, 0.8, 0.14), "eyes": (0.28, 0.06, 0.72, 0.14), "neck": (0.35, 0.18, 0.65, 0.42),
    "body": (0.05, 0.17, 0.95, 0.58), "legs": (0.12, 0.52, 0.88, 0.95), "feet": (0.1, 0.88, 0.9, 1.0),
    "hands": (0.8, 0.45, 1.05, 0.6),
}  # fmt: skip


@dataclass(frozen=True)
class ThingGroup:
    """Things of one kind: their number, the typical width and height of one, where in the picture they are to be."""

    name: str
    amount: int
    width: float
    height: float
    place: tuple[int | None, int | None] = (None, None)
    aside: bool = False  # beside something that has no box: not in the middle of what carries it


@dataclass(frozen=True)
class Link:
    """Group ``first`` stands in the relation to group ``second``; ``each``: one of the first to one of the second."""

    kind: str
    first: int
    second: int
    each: bool = False


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


def holds(kind: str, first: Sequence[Corners], second: Sequence[Corners]) -> bool:
    """Whether any pair of boxes shows the relation, by centres: the named axis has the larger distance."""
    return not first or not second or any(_shows(kind, one, two) for one in first for two in second)


def _shows(kind: str, one: Corners, two: Corners) -> bool:
    if kind in RESTS and _rests(one, two, kind == "lie"):
        return True
    dx, dy = (two[0] + two[2] - one[0] - one[2]) / 2, (two[1] + two[3] - one[1] - one[3]) / 2
    along, across = {
        "left": (dx, dy), "right": (-dx, dy), "above": (dy, dx), "on": (dy, dx), "lie": (dy, dx), "ride": (dy, dx),
        "below": (-dy, dx), "beside": (abs(dx), dy),
    }.get(kind, (1.0, 0.0))  # fmt: skip
    return along > 1.05 * abs(across) and (kind != "beside" or min(along, abs(across)) < NEAR)


def _rests(one: Corners, two: Corners, inside: bool = False) -> bool:
    """Whether a box stands on another, at its end perhaps: a vase on a long table. ``inside``: it may lie within."""
    within = two[0] <= (one[0] + one[2]) / 2 <= two[2]
    higher = inside or one[1] + one[3] < two[1] + two[3]
    return within and higher and two[1] - RESTING <= one[3] <= two[3]


class _Placer:
    def __init__(self, groups: Sequence[ThingGroup], links: Sequence[Link], aspect: float, seed: int | None):
        self.groups, self.links = groups, links
        self.across, self.down = math.sqrt(aspect), 1 / math.sqrt(aspect)
        self.random = None if seed is None else random.Random(seed)
        self.children: dict[int, list[Link]] = {}
        self.parent: dict[int, int] = {}
        self.upon: dict[int, str] = {}  # how a group stands to its parent
        for link in links:
            if link.kind in OVERLAPPING or (link.kind == "between" and self._sides(link) == 1):
                child, base = (
                    (link.second, link.first) if link.kind in ("hold", "wear") else (link.first, link.second)
                )
                if child not in self.parent and self._root(base) != child:
                    self.parent[child] = base
                    self.upon[child] = link.kind
                    self.children.setdefault(base, []).append(link)
        self.flip = -1 if self.random and self.random.random() < 0.5 else 1
        self.zoom = [self.random.uniform(0.85, 1.15) if self.random else 1.0 for _ in groups]

    def _sides(self, link: Link) -> int:
        """Of how many groups something is between."""
        return sum(other.kind == "between" and other.first == link.first for other in self.links)

    def _root(self, group: int) -> int:
        while group in self.parent:
            group = self.parent[group]
        return group

    def place(self, ground: float) -> list[list[Corners]]:
        roots = [g for g in range(len(self.groups)) if g not in self.parent]
        blocks = {root: self._build(root) for root in roots}
        parts = self._components(roots, blocks, ground)
        page = self._page(parts)
        result: list[list[Corners]] = [[] for _ in self.groups]
        for (group, _), (x0, y0, x1, y1) in sorted(page.boxes.items()):
            result[group].append((x0 / self.across, y0 / self.down, x1 / self.across, y1 / self.down))
        return [[tuple(min(max(c, 0.0), 1.0) for c in box) for box in boxes] for boxes in result]  # type: ignore[misc]

    # ------------------------------------------------------------------------------------ blocks

    def _build(self, group: int, only: int | None = None) -> BoxBlock:
        """The block of a group and all that is built around it; ``only``: of one of its things."""
        thing = self.groups[group]
        width, height = thing.width * self.zoom[group], thing.height * self.zoom[group]
        links = self.children.get(group, [])
        if any(link.kind == "ride" for link in links) and (shape := ridden(thing.name)):
            side = math.sqrt(width * height)
            width, height = side * shape[0] ** 0.5, side / shape[0] ** 0.5
        each = [link for link in links if link.each]
        numbers = range(thing.amount) if only is None else [only]
        items = []
        for number in numbers:
            item = BoxBlock({(group, number): (0.0, 0.0, width, height)})
            for link in each:
                self._attach(item, group, link.kind, [self._build(self._child(link), number)])
            items.append(item)
        middle = [link for link in links if link.kind == "between"]
        if middle and only is None and len(items) > 1:
            half = len(items) // 2
            block = row_of(
                [grid_of(items[:half]), *(self._build(link.first) for link in middle), grid_of(items[half:])],
                GAP,
                0.5,
            )
        else:
            flat = thing.amount <= MOST_IN_ROW and self.upon.get(group) in RESTS
            block = row_of(items, INNER_GAP, 1.0) if flat else grid_of(items)
        if only is None or not each:
            for kind in ("behind", "in", "on", "lie", "ride", "front", "hold", "wear"):
                kids = [self._child(link) for link in links if link.kind == kind and not link.each]
                if kids and only is None:
                    self._attach(block, group, kind, [self._build(kid) for kid in self._ordered(kids)])
        return block

    def _child(self, link: Link) -> int:
        return link.second if link.kind in ("hold", "wear") else link.first

    def _ordered(self, kids: list[int]) -> list[int]:
        """Things on one base in an order that keeps what is left and right among them."""
        for link in self.links:
            if link.kind in ("left", "right") and link.first in kids and link.second in kids:
                one, two = (link.first, link.second) if link.kind == "left" else (link.second, link.first)
                if kids.index(one) > kids.index(two):
                    kids.remove(one)
                    kids.insert(kids.index(two), one)
        return kids

    def _attach(self, block: BoxBlock, base: int, kind: str, kids: list[BoxBlock]) -> None:
        x0, y0, x1, y1 = block.bounds([base])
        width, height, middle = x1 - x0, y1 - y0, (x0 + x1) / 2
        if kind == "wear":
            for kid in kids:
                (group, number), *_ = kid.boxes
                a, b, c, d = _WORN_AT[WORN.get(self.groups[group].name, "body")]
                for key in kid.boxes:
                    block.boxes[key] = (x0 + a * width, y0 + b * height, x0 + c * width, y0 + d * height)
                del number
            return
        if kind == "hold":
            for number, kid in enumerate(kids):
                w, h = kid.size
                scale = min(1.0, 0.75 * height / max(w, h))
                right = (number % 2 == 0) == (self.flip > 0)
                x = (
                    x1 - 0.35 * min(w * scale, width)
                    if right
                    else x0 - w * scale + 0.35 * min(w * scale, width)
                )
                block.add(kid.to(x, y0 + 0.5 * height - 0.5 * h * scale, scale))
            return
        if kind == "ride" and (shape := ridden(self.groups[base].name)):
            _, tall, below, usual = shape
            row = row_of(
                [kid.moved(0, 0, usual * tall / extent("person")[1]) for kid in kids], INNER_GAP, 1.0
            )
            w, h = row.size
            scale = min(1.0, max(width, 0.6 * w) / w)
            high = next(box[3] - box[1] for (group, _), box in block.boxes.items() if group == base)
            sink = min(below * high, 0.75 * h * scale)
            block.add(row.to(middle - 0.5 * w * scale, y0 - h * scale + sink, scale))
            return
        row = row_of(kids, INNER_GAP, 1.0) if kind != "in" else grid_of(kids)
        w, h = row.size
        if kind in (*RESTS, "in"):
            surface = kind in ("on", "lie") and self.groups[base].name.rpartition(" ")[2] in SURFACES
            needs = max(w / width, h / height) / 0.85 if kind == "in" else w / width
            if kind != "in" and not surface and len(row.boxes) == 1:
                needs /= 1.4  # one thing may be wider than what carries it: an elephant on a ball
            growth = min(max(needs, 1.0) ** 0.5, MOST_GROWTH)
            self._grow(block, base, growth, 1.0 if surface else growth)
            x0, y0, x1, y1 = block.bounds([base])
            scale, height, middle = min(1.0, growth / needs), y1 - y0, (x0 + x1) / 2
            deep = {"on": SINK, "lie": lair(self.groups[base].name) or SINK}.get(kind, 0.35)
            sink = deep * min(h * scale, height)
            low = y1 - 0.1 * height if kind == "in" else y0 + sink
            free = max(x1 - x0 - w * scale, 0.0) if kind in ("on", "lie") else 0.0
            middle += 0.45 * free * self._lean([group for kid in kids for group, _ in kid.boxes])
            block.add(row.to(middle - 0.5 * w * scale, low - h * scale, scale))
        elif kind == "front":
            block.add(row.to(middle - 0.5 * w + 0.3 * width * self.flip, y1 + 0.15 * min(h, height) - h))
        else:
            block.add(row.to(middle - 0.5 * w - 0.3 * width * self.flip, y1 - 0.2 * height - h))

    def _lean(self, kids: Sequence[int]) -> int:
        """To which side things stand of what carries them: towards what they are beside, which stands further off."""
        for link in self.links:
            if link.kind in ASIDE and (link.first in kids) != (link.second in kids):
                other = link.second if link.first in kids else link.first
                if self._root(other) not in {self._root(kid) for kid in kids}:
                    side = {"left": 1, "right": -1}.get(link.kind, self.flip)
                    return side if link.first in kids else -side
        return self.flip if any(self.groups[kid].aside for kid in kids) else 0

    def _grow(self, block: BoxBlock, base: int, across: float, down: float) -> None:
        """Makes a base larger; what is around it already moves along in its own size."""
        for (group, number), (x0, y0, x1, y1) in block.boxes.items():
            cx, cy = (x0 + x1) / 2 * across, (y0 + y1) / 2 * down
            half, high = (x1 - x0) / 2, (y1 - y0) / 2
            if group == base:
                half, high = half * across, high * down
            block.boxes[group, number] = (cx - half, cy - high, cx + half, cy + high)

    # ------------------------------------------------------------------------------------ grids

    def _components(self, roots: list[int], blocks: dict[int, BoxBlock], ground: float) -> list[BoxBlock]:
        """Blocks that no relation joins any more."""
        edges: list[tuple[int, int, Link]] = []
        for link in self.links:
            one, two = self._root(link.first), self._root(link.second)
            if one != two and link.kind not in OVERLAPPING and link.kind not in ("larger", "smaller"):
                edges.append((one, two, link))
        cells: dict[int, tuple[int, int]] = {}
        anchors: dict[int, int] = {}
        parts: list[BoxBlock] = []
        for root in roots:
            if root in cells:
                continue
            cells[root] = (0, 0)
            members = [root]
            waiting = list(edges)
            while waiting:
                edge = next((e for e in waiting if (e[0] in members) != (e[1] in members)), None)
                if edge is None:
                    break
                waiting.remove(edge)
                known, new = (edge[1], edge[0]) if edge[1] in members else (edge[0], edge[1])
                taken = {cells[member] for member in members}
                cells[new] = self._cell(new, cells, members, edges, taken, edge)
                members.append(new)
                for end, group in ((edge[0], edge[2].first), (edge[1], edge[2].second)):
                    anchors.setdefault(end, group)
                del known
            parts.append(self._lay(members, cells, anchors, blocks, ground))
        return parts

    def _cell(
        self, new: int, cells: dict[int, tuple[int, int]], members: list[int],
        edges: list[tuple[int, int, Link]], taken: set[tuple[int, int]], edge: tuple[int, int, Link],
    ) -> tuple[int, int]:  # fmt: skip
        """A free cell for a block, from the relation ``edge``, that the block's other relations like as well."""
        if (
            edge[2].kind == "between" and edge[0] == new
        ):  # a second thing between the same two: above or below the first
            peers = [
                self._root(o.first) for o in self.links if o.kind == "between" and o.second == edge[2].second
            ]
            if placed := [peer for peer in peers if peer != new and peer in members]:
                x, y = cells[placed[0]]
                while (x, y) in taken:
                    y += 1
                return x, y
        wishes = [e for e in edges if (e[0] == new and e[1] in members) or (e[1] == new and e[0] in members)]
        candidates = [cell for wish in (edge, *wishes) for cell in self._cells(new, wish, cells, taken)]

        def kept(cell: tuple[int, int]) -> int:
            return sum(self._fits(new, cell, wish, cells) for wish in wishes)

        return max(candidates, key=kept)  # the first of the best

    def _steps(self, new: int, edge: tuple[int, int, Link]) -> list[tuple[int, int]]:
        """Directions from the known block to the new one."""
        one, _, link = edge
        sign = 1 if one == new else -1  # whether the new one is what the relation is about
        if link.kind == "between":  # of two: the one on the left, then the one on the right
            order = [
                other for other in self.links if other.kind == "between" and other.first == link.first
            ].index(link)
            return [(sign * (1 if order % 2 == 0 else -1), 0)]
        if link.kind in ("left", "right", "above", "below"):
            x, y = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}[link.kind]
            return [(sign * x, sign * y)]
        far = 2 if link.kind == "apart" else 1
        return [(-sign * far * self.flip, 0), (sign * far * self.flip, 0)]

    def _cells(
        self,
        new: int,
        edge: tuple[int, int, Link],
        cells: dict[int, tuple[int, int]],
        taken: set[tuple[int, int]],
    ) -> list[tuple[int, int]]:
        known = edge[1] if edge[0] == new else edge[0]
        found = []
        for dx, dy in self._steps(new, edge):
            x, y = cells[known][0] + dx, cells[known][1] + dy
            while (x, y) in taken:
                x, y = x + (dx > 0) - (dx < 0), y + (dy > 0) - (dy < 0)
            found.append((x, y))
        return sorted(found, key=lambda cell: abs(cell[0] - cells[known][0]) + abs(cell[1] - cells[known][1]))

    def _fits(
        self, new: int, cell: tuple[int, int], edge: tuple[int, int, Link], cells: dict[int, tuple[int, int]]
    ) -> bool:
        known = edge[1] if edge[0] == new else edge[0]
        dx, dy = cell[0] - cells[known][0], cell[1] - cells[known][1]
        return any(
            (dx * x > 0 and abs(dx) > abs(dy)) or (dy * y > 0 and abs(dy) > abs(dx))
            for x, y in self._steps(new, edge)
        )

    def _lay(
        self, members: list[int], cells: dict[int, tuple[int, int]], anchors: dict[int, int],
        blocks: dict[int, BoxBlock], ground: float,
    ) -> BoxBlock:  # fmt: skip
        """A grid of blocks with the centres of their anchors on the lines of rows and columns."""
        if len(members) == 1:
            return blocks[members[0]]
        reaches = {m: reach(blocks[m], anchors.get(m, m)) for m in members}
        lines: list[dict[int, float]] = []
        for axis in (0, 1):
            places = sorted({cells[m][axis] for m in members})
            line: dict[int, float] = {}
            at = 0.0
            for number, spot in enumerate(places):
                before = max(reaches[m][axis] for m in members if cells[m][axis] == spot)
                after = max(reaches[m][axis + 2] for m in members if cells[m][axis] == spot)
                skipped = spot - places[number - 1] - 1 if number else 0
                at += (GAP + 0.15 * skipped if number else 0.0) + before
                line[spot] = at
                at += after
            lines.append(line)
        block = BoxBlock()
        rows = {cells[m][1] for m in members}
        floor = max(lines[1][cells[m][1]] + reaches[m][3] for m in members)
        for m in members:
            x, y = lines[0][cells[m][0]] - reaches[m][0], lines[1][cells[m][1]] - reaches[m][1]
            if len(rows) == 1:
                y += ground * (floor - y - reaches[m][1] - reaches[m][3])
            block.add(blocks[m].to(x, y))
        return block

    # ------------------------------------------------------------------------------------ the page

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
            for i, width, before in zip(
                row,
                widths,
                self._spread(free_w - sum(widths), len(row), _lean([{wishes[i][0] or 0} for i in row])),
                strict=True,
            ):
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
