"""Blocks of what overlaps: a base, and around it what is on, in, worn, held or ridden."""

import math
import random
from collections.abc import Sequence

from trueline.english.words import SURFACES, WORN
from trueline.planner.blocks import GAP, BoxBlock, grid_of, row_of
from trueline.planner.links import RESTS, Link, ThingGroup
from trueline.planner.scene import ASIDE
from trueline.planner.sizes import extent, lair, ridden

OVERLAPPING = ("on", "lie", "in", "ride", "hold", "wear", "front", "behind")
MAX_IN_ROW = 6  # things of a kind that stand side by side on something
MAX_GROWTH = 1.6  # of a base, for what is on or in it
SINK = 0.12  # of its height, how far a thing reaches below the top of what it stands on
#: x0, y0, x1, y1 in shares of the wearer's box
_WORN_AT = {
    "head": (0.2, -0.04, 0.8, 0.14), "eyes": (0.28, 0.06, 0.72, 0.14), "neck": (0.35, 0.18, 0.65, 0.42),
    "body": (0.05, 0.17, 0.95, 0.58), "legs": (0.12, 0.52, 0.88, 0.95), "feet": (0.1, 0.88, 0.9, 1.0),
    "hands": (0.8, 0.45, 1.05, 0.6),
}  # fmt: skip


class Builder:
    """The groups as trees of what overlaps, and a block for each tree."""

    def __init__(self, groups: Sequence[ThingGroup], links: Sequence[Link], aspect: float, seed: int | None):
        self.groups, self.links = groups, links
        self.across, self.down = math.sqrt(aspect), 1 / math.sqrt(aspect)
        self.random = None if seed is None else random.Random(seed)
        self.children: dict[int, list[Link]] = {}
        self.parent: dict[int, int] = {}
        self.upon: dict[int, str] = {}  # how a group stands to its parent
        for link in links:
            if link.kind in OVERLAPPING or (link.kind == "between" and self._sides(link) == 1):
                child = self._child(link)
                base = link.second if child == link.first else link.first
                if child not in self.parent and self.root(base) != child:
                    self.parent[child] = base
                    self.upon[child] = link.kind
                    self.children.setdefault(base, []).append(link)
        self.flip = -1 if self.random and self.random.random() < 0.5 else 1
        self.zoom = [self.random.uniform(0.85, 1.15) if self.random else 1.0 for _ in groups]

    def _sides(self, link: Link) -> int:
        """Of how many groups something is between."""
        return sum(other.kind == "between" and other.first == link.first for other in self.links)

    def root(self, group: int) -> int:
        while group in self.parent:
            group = self.parent[group]
        return group

    def build(self, group: int, only: int | None = None) -> BoxBlock:
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
                self._attach(item, group, link.kind, [self.build(self._child(link), number)])
            items.append(item)
        middle = [link for link in links if link.kind == "between"]
        if middle and only is None and len(items) > 1:
            half = len(items) // 2
            between = [self.build(link.first) for link in middle]
            block = row_of([grid_of(items[:half]), *between, grid_of(items[half:])], GAP, 0.5)
        else:
            flat = thing.amount <= MAX_IN_ROW and self.upon.get(group) in RESTS
            block = row_of(items) if flat else grid_of(items)
        if only is None or not each:
            for kind in ("behind", "in", "on", "lie", "ride", "front", "hold", "wear"):
                kids = [self._child(link) for link in links if link.kind == kind and not link.each]
                if kids and only is None:
                    self._attach(block, group, kind, [self.build(kid) for kid in self._ordered(kids)])
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
                group = next(iter(kid.boxes))[0]
                a, b, c, d = _WORN_AT[WORN.get(self.groups[group].name, "body")]
                for key in kid.boxes:
                    block.boxes[key] = (x0 + a * width, y0 + b * height, x0 + c * width, y0 + d * height)
            return
        if kind == "hold":
            for number, kid in enumerate(kids):
                w, h = kid.size
                scale = min(1.0, 0.75 * height / max(w, h))
                right = (number % 2 == 0) == (self.flip > 0)
                lap = 0.35 * min(w * scale, width)
                x = x1 - lap if right else x0 - w * scale + lap
                block.add(kid.to(x, y0 + 0.5 * height - 0.5 * h * scale, scale))
            return
        if kind == "ride" and (shape := ridden(self.groups[base].name)):
            _, tall, below, usual = shape
            row = row_of([kid.moved(0, 0, usual * tall / extent("person")[1]) for kid in kids])
            w, h = row.size
            scale = min(1.0, max(width, 0.6 * w) / w)
            high = next(box[3] - box[1] for (group, _), box in block.boxes.items() if group == base)
            sink = min(below * high, 0.75 * h * scale)
            block.add(row.to(middle - 0.5 * w * scale, y0 - h * scale + sink, scale))
            return
        row = row_of(kids) if kind != "in" else grid_of(kids)
        w, h = row.size
        if kind in (*RESTS, "in"):
            surface = kind in ("on", "lie") and self.groups[base].name.rpartition(" ")[2] in SURFACES
            needs = max(w / width, h / height) / 0.85 if kind == "in" else w / width
            if kind != "in" and not surface and len(row.boxes) == 1:
                needs /= 1.4  # one thing may be wider than what carries it: an elephant on a ball
            growth = min(max(needs, 1.0) ** 0.5, MAX_GROWTH)
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
                if self.root(other) not in {self.root(kid) for kid in kids}:
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
