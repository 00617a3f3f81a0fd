"""Whether a picture shows what its prompt says, and where: what a detector and CLIP make of it.

An item agrees when each thing is found as often as it is said and nothing of its kind besides, when a stated side
holds between their centres, and when CLIP's cosine of picture and prompt is high enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trueline.boxes import Box, centre, iou
from trueline.dataset import Want, Wish
from trueline.errors import FieldError
from trueline.evaluation.metrics.detection import surest_first
from trueline.layout import Region
from trueline.perception import Detection

REASONS = ("missing", "count", "relation", "clip")  #: an item counts under the first that holds
SAME_LABEL, ANY_LABEL = 0.5, 0.7  #: greatest overlap (IoU) of two things of one label, of different labels


@dataclass(frozen=True)
class PictureCheck:
    """``regions``: the boxes found, in the order of the wants, each with its want's phrase; ``scores``: the
    detector's, alike. ``reasons``: why the item does not agree, as sentences that begin with one of ``REASONS``;
    none = it does. ``clip``: cosine, or None where nobody asked."""

    regions: tuple[Region, ...]
    scores: tuple[float, ...]
    reasons: tuple[str, ...]
    clip: float | None = None

    @property
    def reason(self) -> str | None:
        """The first of ``REASONS`` that holds."""
        return self.reasons[0].partition(":")[0] if self.reasons else None


def queries(wish: Wish, phrases: bool) -> list[str]:
    """What a detector is asked for, one for each want: its phrase without article, or its bare noun."""
    return [without_article(want.phrase) if phrases else want.label for want in wish.wants]


def without_article(phrase: str) -> str:
    first, _, rest = phrase.partition(" ")
    return rest if rest and first.lower() in ("a", "an", "the") else phrase


def agree(
    wish: Wish,
    found: Sequence[Detection],
    clip: float | None = None,
    *,
    phrases: bool = False,
    least_clip: float | None = None,
) -> PictureCheck:
    """The verdict on one picture. ``phrases``: the labels of ``found`` are those of ``queries(wish, True)``."""
    asked = queries(wish, phrases)
    things = apart([seen for seen in found if seen.label in asked])
    taken, left = assign(wish.wants, asked, things)
    reasons = []
    for want, own in zip(wish.wants, taken, strict=True):
        least = want.count or 2
        if not own:
            reasons.append(f"missing: {want.phrase}")
        elif len(own) < least:
            reasons.append(f"count: {len(own)} instead of {least} x {want.phrase}")
    if left:
        reasons.append(f"count: besides, {', '.join(_named(seen) for seen in left)}")
    reasons.sort(key=lambda sentence: REASONS.index(sentence.partition(":")[0]))
    if wish.relation and taken[0] and taken[1] and not holds(wish.relation, taken[0], taken[1]):
        reasons.append(f"relation: {wish.wants[0].phrase} is not {wish.relation}")
    if least_clip is not None and clip is not None and clip < least_clip:
        reasons.append(f"clip: {clip:.3f} is below {least_clip:g}")
    pairs = [(want, seen) for want, own in zip(wish.wants, taken, strict=True) for seen in own]
    regions = tuple(Region(want.phrase, seen.box) for want, seen in pairs)
    return PictureCheck(regions, tuple(round(seen.score, 4) for _, seen in pairs), tuple(reasons), clip)


def apart(found: Sequence[Detection]) -> list[Detection]:
    """The surest of detections that lie on each other, those that are no boxes left out; surest first."""
    kept: list[Detection] = []
    for seen in surest_first(found):
        x0, y0, x1, y1 = (min(max(float(side), 0.0), 1.0) for side in seen.box)
        try:
            box = Box(x0, y0, x1, y1).xyxy
        except FieldError:
            continue  # flat, tiny or not a number: nothing that could be drawn
        clash = (
            iou(box, other.box) > (SAME_LABEL if other.label == seen.label else ANY_LABEL) for other in kept
        )
        if not any(clash):
            kept.append(Detection(seen.label, box, seen.score, seen.colour, seen.texture))
    return kept


def assign(
    wants: Sequence[Want], asked: Sequence[str], things: Sequence[Detection]
) -> tuple[list[list[Detection]], list[Detection]]:
    """What belongs to each want, and what belongs to none. Wants that say more choose first, and take no more than
    they say; a colour or texture that the detector does not read fits any."""
    taken: list[list[Detection]] = [[] for _ in wants]
    free = list(things)
    order = sorted(range(len(wants)), key=lambda i: -sum(map(bool, (wants[i].colour, wants[i].texture))))
    for place in order:
        want = wants[place]
        fits = [seen for seen in free if seen.label == asked[place] and _fits(want, seen)]
        taken[place] = fits[: want.count] if want.count else fits
        free = [seen for seen in free if not any(seen is own for own in taken[place])]
    return taken, free


def holds(relation: str, first: Sequence[Detection], second: Sequence[Detection]) -> bool:
    """Whether the mean centre of ``first`` lies to that side of ``second``'s, by more than it lies to another."""
    (x, y), (x2, y2) = (_middle(things) for things in (first, second))
    dx, dy = x - x2, y - y2
    along = {"left": -dx, "right": dx, "above": -dy, "below": dy}[relation]
    return along > 0 and along == max(abs(dx), abs(dy))


def _middle(things: Sequence[Detection]) -> tuple[float, float]:
    xs, ys = zip(*(centre(seen.box) for seen in things), strict=True)
    return sum(xs) / len(xs), sum(ys) / len(ys)


def _fits(want: Want, seen: Detection) -> bool:
    said = ((want.colour, seen.colour), (want.texture, seen.texture))
    return all(wanted is None or read is None or wanted == read for wanted, read in said)


def _named(seen: Detection) -> str:
    return " ".join(filter(None, (seen.colour, seen.texture, seen.label)))
