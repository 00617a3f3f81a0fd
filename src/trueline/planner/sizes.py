"""Typical sizes of things relative to each other, and the shapes of their boxes.

``MEASURED`` comes from the 738 pairs of boxes of NSR-1K's spatial training file (weixi-
feng/LayoutGPT@fc3195496255, ``dataset/NSR-1K/spatial/spatial.train.json``; boxes of COCO, CC BY 4.0). A box is
large because its thing is large or because the camera is near; both boxes of a picture have the same camera. So
the sizes are the least-squares solution of "log side of the first less log side of the second" over the pairs,
side = sqrt(width x height), with a pull of one box towards the mean side of all boxes (0.379). The ratio is the
median width over height. Pictures are taken as square: the median ratio of stop signs is 0.98 and of clocks
0.95. Things with fewer than four boxes, and all others, are ``JUDGED``: our own estimates on the same scale.
The numbers stand in ``sizes.json``.
"""

import json
from importlib.resources import files
from typing import Any

from trueline.english import words as w

_TABLES: dict[str, dict[str, Any]] = json.loads(
    files("trueline.planner").joinpath("sizes.json").read_text(encoding="utf-8")
)
#: name -> (side of a box of the same area, in sides of a square picture; width over height)
MEASURED: dict[str, tuple[float, float]] = {name: tuple(size) for name, size in _TABLES["measured"].items()}
JUDGED: dict[str, tuple[float, float]] = {name: tuple(size) for name, size in _TABLES["judged"].items()}
SAME_AS: dict[str, str] = _TABLES["same_as"]
#: What is ridden, seen from its side with a grown rider: its width, its height, the rider's height in the saddle, how
#: far the rider reaches down below its top; in metres, by our own estimate. A horse of 1.6 m at the withers is 2.1 m
#: at the ears; ``MEASURED`` has it higher than wide, for COCO's horses often stand towards the camera or are cut off.
RIDDEN: dict[str, tuple[float, ...]] = {name: tuple(lengths) for name, lengths in _TABLES["ridden"].items()}
DEFAULT = (0.36, 1.0)
_ANIMAL = (0.38, 1.1)
#: How far a thing reaches below the top of furniture with a back or a depth, of its height: medians in NSR-1K's
#: spatial training boxes, captions with "on" (31 beds, 8 couches, 9 benches, 6 chairs, 9 toilets), at most 0.9.
LAIR = dict.fromkeys(("bed", "couch", "sofa", "loveseat", "bench", "chair", "armchair", "recliner"), 0.9) | {
    "toilet": 0.5
}
_CLOTHES = (0.36, 0.9)


def size_of(name: str) -> tuple[float, float]:
    """Side (of a box of the same area, in sides of a square picture) and width over height of a thing's box.

    By its name, what is the same as it, its last word, its class; else ``DEFAULT``.
    """
    head = name.rpartition(" ")[2]
    for form in (name, SAME_AS.get(name, ""), head, SAME_AS.get(head, "")):
        if found := MEASURED.get(form) or JUDGED.get(form):
            return found
    if head in w.PEOPLE:
        return JUDGED["person"]
    if head in w.ANIMALS:
        return _ANIMAL
    return _CLOTHES if head in w.CLOTHING else DEFAULT


def extent(name: str) -> tuple[float, float]:
    """Width and height of a thing's box, in sides of a square picture."""
    side, ratio = size_of(name)
    return side * ratio**0.5, side / ratio**0.5


def ridden(name: str) -> tuple[float, float, float, float] | None:
    """Of a thing with a rider: its width over its height; the rider's height and how far the rider reaches down below
    its top, in heights of it; its typical height. None where that is not known."""
    found = RIDDEN.get(name) or RIDDEN.get(name.rpartition(" ")[2])
    if found is None:
        return None
    width, height, rider, below = found
    return width / height, rider / height, below / height, size_of(name)[0] * (height / width) ** 0.5


def lair(name: str) -> float | None:
    """How deep things lie or sit in it, of their height; None for what has a top to stand on."""
    return LAIR.get(name.rpartition(" ")[2])
