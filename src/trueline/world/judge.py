"""What detections say of a picture: boxes obeyed, caption true, ghosts; and the oracle's own accuracy."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from trueline.boxes import iou
from trueline.perception import Detection
from trueline.world.captions import Caption, CaptionGroup, relation
from trueline.world.oracle import SURE, detect, foreground, mask_of
from trueline.world.scenes import Scene, Thing, render


@dataclass(frozen=True)
class ThingMatch:
    """What stands at one true box; ``iou`` is 0 and ``detection`` None where nothing does.

    ``name``, ``colour`` and ``texture`` are True only where the right one stands at IoU >= ``least``.
    """

    detection: Detection | None
    iou: float
    matched: bool
    name: bool
    colour: bool
    texture: bool


def match(
    detections: Sequence[Detection], things: Sequence[Thing], least: float = 0.5, sure: float = SURE
) -> list[ThingMatch]:
    """One ``ThingMatch`` for every thing, by the assignment of sure detections with the greatest total IoU.

    Whatever its name, so that a thing of another name in a box counts (``evaluation.metrics.detection.match`` asks
    for the same label). Overlaps under ``least`` do not take part: a far detection cannot spoil a good assignment.
    """
    detected = [d for d in detections if d.score >= sure]
    overlaps = np.array([[iou(d.box, t.box) for d in detected] for t in things]).reshape(
        len(things), len(detected)
    )
    counted = np.where(overlaps >= least, overlaps, 0.0)
    rows, columns = linear_sum_assignment(-counted)
    partner = {r: c for r, c in zip(rows, columns, strict=True) if counted[r, c] > 0}
    return [
        _compare(detected[partner[i]], thing, overlaps[i, partner[i]]) if i in partner else _NOTHING
        for i, thing in enumerate(things)
    ]


_NOTHING = ThingMatch(None, 0.0, False, False, False, False)


def _compare(d: Detection, thing: Thing, overlap: float) -> ThingMatch:
    same = (d.label == thing.name, d.colour == thing.colour, d.texture == thing.texture)
    return ThingMatch(d, float(overlap), True, *same)


class Agreement:
    """How many names (or names with colours) are right, of those that are said and of those that are true.

    Each counts as often as it is there.
    """

    def __init__(self) -> None:
        self.right = self.said = self.true = 0

    def add(self, said: Counter, true: Counter) -> None:
        self.right += (said & true).total()
        self.said += said.total()
        self.true += true.total()

    @property
    def precision(self) -> float:
        return self.right / max(self.said, 1)

    @property
    def recall(self) -> float:
        return self.right / max(self.true, 1)


@dataclass(frozen=True)
class CaptionVerdict:
    """How much of a caption a picture keeps. Fractions are over the caption's groups that say the attribute.

    ``object``: some object of that name is there; ``colour`` / ``texture``: one object has both that name and
    that colour / texture; ``count``: exactly as many of that name as said; ``relation``: as said, True where
    nothing is said. ``all_right``: every group has exactly its number of objects that are right in every
    respect at once, the relation holds, and no other object is in the picture.
    """

    object: float
    colour: float
    texture: float
    count: float
    relation: bool
    all_right: bool


def _agrees(d: Detection, group: CaptionGroup, colour: bool = True, texture: bool = True) -> bool:
    """Whether a detection has the group's name and, where asked and said, its colour and texture."""
    return (
        d.label == group.name
        and (not colour or group.colour in (None, d.colour))
        and (not texture or group.texture in (None, d.texture))
    )


def _mean(values: Iterable[bool]) -> float:
    """Fraction of True; 1 where there is nothing to ask."""
    asked = list(values)
    return sum(asked) / len(asked) if asked else 1.0


def _related(detected: Sequence[Detection], caption: Caption) -> bool:
    """Whether some object of the first group stands as said to some object of the second.

    An object of the right colour stands for its group, else any of its name: a leak misplaces nothing.
    """
    if caption.relation is None:
        return True
    first, second = (
        [d for d in detected if _agrees(d, g, texture=False)] or [d for d in detected if d.label == g.name]
        for g in caption.groups[:2]
    )
    pairs = ((cast(Thing, a), cast(Thing, b)) for a in first for b in second if a is not b)
    return any(relation(a, b) == caption.relation for a, b in pairs)  # asks for their centres only


def check(detections: Sequence[Detection], caption: Caption, sure: float = SURE) -> CaptionVerdict:
    """Hold a picture's detections against what its caption says."""
    detected, groups = [d for d in detections if d.score >= sure], caption.groups

    def there(group: CaptionGroup, colour: bool = False, texture: bool = False) -> int:
        return sum(_agrees(d, group, colour, texture) for d in detected)

    related = _related(detected, caption)
    exact = [there(g, colour=True, texture=True) == len(g.things) for g in groups]
    return CaptionVerdict(
        object=_mean(there(g) > 0 for g in groups),
        colour=_mean(there(g, colour=True) > 0 for g in groups if g.colour),
        texture=_mean(there(g, texture=True) > 0 for g in groups if g.texture),
        count=_mean(there(g) == sum(len(o.things) for o in groups if o.name == g.name) for g in groups),
        relation=related,
        all_right=all(exact) and related and len(detected) == sum(len(g.things) for g in groups),
    )


Tally = dict[str, tuple[float, float]]


def tally(detections: Sequence[Detection], caption: Caption, sure: float = SURE) -> Tally:
    """How much of a caption is right, of how much it says, per attribute: what ``check`` gives as fractions.

    Sums over pictures are micro-averages: a caption of four groups counts four times one of one group.
    """
    verdict, groups = check(detections, caption, sure), caption.groups
    asked = {
        "object": (verdict.object, len(groups)),
        "colour": (verdict.colour, sum(g.colour is not None for g in groups)),
        "texture": (verdict.texture, sum(g.texture is not None for g in groups)),
        "count": (verdict.count, len(groups)),
        "relation": (float(verdict.relation), int(caption.relation is not None)),
        "all": (float(verdict.all_right), 1),
    }
    return {name: (share * number, float(number)) for name, (share, number) in asked.items()}


def ghosts(picture: np.ndarray, detections: Sequence[Detection], sure: float = SURE) -> float:
    """Fraction of the foreground's area that no sure detection explains; 0 for an empty picture.

    A silhouette explains 2 pixels around itself, so that a slightly wrong outline is not a ghost.
    """
    fore = foreground(picture) > 0.5
    explained = np.zeros_like(fore)
    for d in detections:
        if d.score >= sure:
            explained |= ndimage.binary_dilation(mask_of(d) > 0.5, iterations=2)
    return float((fore & ~explained).sum() / max(fore.sum(), 1))


def accuracy(
    scenes: Iterable[Scene], transform: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, float]:
    """The oracle's own accuracy on renders of ``scenes``, each passed through ``transform`` if given.

    ``name``, ``colour``, ``texture`` and ``iou`` are over objects matched at IoU >= 0.5, ``miss`` over all;
    ``false`` counts sure detections that match no object, per object; ``ghosts`` is the mean per picture.
    """
    matches: list[ThingMatch] = []
    extra, unexplained = 0, []
    for scene in scenes:
        picture = render(scene) if transform is None else transform(render(scene))
        detections = detect(picture)
        matched = match(detections, scene.things)
        matches += matched
        extra += sum(d.score >= SURE for d in detections) - sum(m.matched for m in matched)
        unexplained.append(ghosts(picture, detections))
    found = [m for m in matches if m.matched]
    return {
        "objects": len(matches),
        "miss": 1 - len(found) / len(matches),
        "false": extra / len(matches),
        "name": _mean(m.name for m in found),
        "colour": _mean(m.colour for m in found),
        "texture": _mean(m.texture for m in found),
        "iou": float(np.mean([m.iou for m in found])) if found else 0.0,
        "ghosts": float(np.mean(unexplained)),
    }
