"""Blocks that stand left, right, above, below, beside or between each other: on the lines of a grid."""

from trueline.planner.blocks import GAP, BoxBlock, reach
from trueline.planner.building import OVERLAPPING, Builder
from trueline.planner.links import Link

Cell = tuple[int, int]  #: column and row
Edge = tuple[int, int, Link]  #: the roots of two blocks, and a relation between groups of theirs


class Grids(Builder):
    """The blocks, those that are related together on one grid."""

    def components(self, roots: list[int], blocks: dict[int, BoxBlock], ground: float) -> list[BoxBlock]:
        """Blocks that no relation joins any more."""
        edges: list[Edge] = []
        for link in self.links:
            one, two = self.root(link.first), self.root(link.second)
            if one != two and link.kind not in OVERLAPPING and link.kind not in ("larger", "smaller"):
                edges.append((one, two, link))
        anchors: dict[int, int] = {}
        parts: list[BoxBlock] = []
        laid: set[int] = set()
        for root in roots:
            if root in laid:
                continue
            cells, waiting = {root: (0, 0)}, list(edges)
            while edge := next((e for e in waiting if (e[0] in cells) != (e[1] in cells)), None):
                waiting.remove(edge)
                new = edge[0] if edge[1] in cells else edge[1]
                cells[new] = self._cell(new, cells, edges, edge)
                anchors.setdefault(edge[0], edge[2].first)
                anchors.setdefault(edge[1], edge[2].second)
            laid |= cells.keys()
            parts.append(self._lay(cells, anchors, blocks, ground))
        return parts

    def _cell(self, new: int, cells: dict[int, Cell], edges: list[Edge], edge: Edge) -> Cell:
        """A free cell for a block, from the relation ``edge``, that the block's other relations like as well.
        ``cells``: of the blocks that have one."""
        if edge[2].kind == "between" and edge[0] == new:
            # a second thing between the same two: above or below the first
            peers = [
                self.root(o.first) for o in self.links if o.kind == "between" and o.second == edge[2].second
            ]
            if placed := [peer for peer in peers if peer != new and peer in cells]:
                x, y = cells[placed[0]]
                while (x, y) in cells.values():
                    y += 1
                return x, y
        wishes = [e for e in edges if (e[0] == new and e[1] in cells) or (e[1] == new and e[0] in cells)]
        candidates = [cell for wish in (edge, *wishes) for cell in self._cells(new, wish, cells)]

        def kept(cell: Cell) -> int:
            return sum(self._fits(new, cell, wish, cells) for wish in wishes)

        return max(candidates, key=kept)  # the first of the best

    def _steps(self, new: int, edge: Edge) -> list[Cell]:
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

    def _cells(self, new: int, edge: Edge, cells: dict[int, Cell]) -> list[Cell]:
        """Free cells in the directions of a relation, the nearest first."""
        known = edge[1] if edge[0] == new else edge[0]
        found = []
        for dx, dy in self._steps(new, edge):
            x, y = cells[known][0] + dx, cells[known][1] + dy
            while (x, y) in cells.values():
                x, y = x + (dx > 0) - (dx < 0), y + (dy > 0) - (dy < 0)
            found.append((x, y))
        return sorted(found, key=lambda cell: abs(cell[0] - cells[known][0]) + abs(cell[1] - cells[known][1]))

    def _fits(self, new: int, cell: Cell, edge: Edge, cells: dict[int, Cell]) -> bool:
        known = edge[1] if edge[0] == new else edge[0]
        dx, dy = cell[0] - cells[known][0], cell[1] - cells[known][1]
        return any(
            (dx * x > 0 and abs(dx) > abs(dy)) or (dy * y > 0 and abs(dy) > abs(dx))
            for x, y in self._steps(new, edge)
        )

    def _lay(
        self, cells: dict[int, Cell], anchors: dict[int, int], blocks: dict[int, BoxBlock], ground: float
    ) -> BoxBlock:
        """A grid of blocks with the centres of their anchors on the lines of rows and columns."""
        members = list(cells)
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
