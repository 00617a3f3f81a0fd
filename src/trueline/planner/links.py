"""Groups of things and the relations that their boxes must show."""

from collections.abc import Sequence
from dataclasses import dataclass

from trueline.boxes import Corners

RESTS = ("on", "lie", "ride")
DIRECTED = ("left", "right", "above", "below", "beside", *RESTS)  #: what the centres of boxes show
NEAR = 0.29  # largest distance of centres on one axis, for "beside" (T2I-CompBench: 150 of 480 pixels)
RESTING = 0.02  # of the picture, between a thing and what it rests on


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


def holds(kind: str, first: Sequence[Corners], second: Sequence[Corners]) -> bool:
    """Whether any pair of boxes shows the relation, by centres: the named axis has the larger distance."""
    return not first or not second or any(_shows(kind, one, two) for one in first for two in second)


def _shows(kind: str, one: Corners, two: Corners) -> bool:
    if kind not in DIRECTED or (kind in RESTS and _rests(one, two, kind == "lie")):
        return True
    dx, dy = (two[0] + two[2] - one[0] - one[2]) / 2, (two[1] + two[3] - one[1] - one[3]) / 2
    along, across = (dx, dy) if kind in ("left", "right", "beside") else (dy, dx)
    if kind in ("right", "below"):
        along = -along
    elif kind == "beside":
        along = abs(along)
    return along > 1.05 * abs(across) and (kind != "beside" or min(along, abs(across)) < NEAR)


def _rests(one: Corners, two: Corners, inside: bool = False) -> bool:
    """Whether a box stands on another, at its end perhaps: a vase on a long table. ``inside``: it may lie within."""
    within = two[0] <= (one[0] + one[2]) / 2 <= two[2]
    higher = inside or one[1] + one[3] < two[1] + two[3]
    return within and higher and two[1] - RESTING <= one[3] <= two[3]
