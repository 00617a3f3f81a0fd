"""Which of the boxes is which phrase: "a red cat and a blue cat", and two boxes of cats. No torch."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL.Image import Image
from scipy.optimize import linear_sum_assignment

from trueline.boxes import Corners, iou
from trueline.english.naming import nouns, same_words
from trueline.english.words import PARTS, SURROUNDINGS
from trueline.errors import short
from trueline.perception import Detection
from trueline.perception.reason import CERTAIN, POSSIBLE, Reasoned
from trueline.realign.attributes import attribute_score, count_in
from trueline.realign.observation import GroundedObject

SAME = 0.5  #: IoU above which two boxes are one thing (that of Grounded-SAM's demo)
_ORDER = 1e-3  #: weight of the order from left to right; ``attribute_score`` is 0..2
_CONFIDENCE = 1e-2  #: weight of the detector's confidence


def assign_phrases(
    image: Image, prompt: str, objects: Sequence[Reasoned], detections: Sequence[Detection], notes: list[str]
) -> list[GroundedObject]:
    """The detections as things of the prompt, in the order of ``objects``; phrases that stay without a box, and boxes
    without a phrase, are noted.

    The boxes of a tag that has one phrase are all that phrase. Where it has several, each phrase gets as many boxes
    as it speaks of, so that their colours and textures fit best together; where these say nothing, boxes go from left
    to right in the order of the phrases. Of a phrase that speaks of fewer things than there are boxes, the surest are
    taken; of boxes of several tags on one spot, the surest.

    A box too many may be what the picture has in place of something that the prompt names and no tag is (two books
    for "a book and an umbrella"): it gets that phrase, as possible. The paper does not do this. Without it the
    commonest error, one name drawn twice and another left out, has no mask and could not be mended.
    """
    phrases: dict[str, list[Reasoned]] = {}
    for each in objects:
        if each.phrase is not None:
            phrases.setdefault(each.tag, []).append(each)
    things: list[GroundedObject] = []
    for tag, wanted in phrases.items():
        boxes = [detection for detection in detections if detection.label == tag]
        if not boxes:
            notes.append(f"no box was found of {short(tag)}, which is a tag of the picture")
        elif len(wanted) == 1:
            things += [GroundedObject(tag, str(wanted[0].phrase), wanted[0].score, each) for each in boxes]
        else:
            things += _by_attributes(image, prompt, tag, wanted, boxes, notes)
    kept = _limited(prompt, things, [str(each.phrase) for each in objects if each.phrase is not None], notes)
    return kept + _substitutes(image, prompt, kept, surplus_detections(objects, kept, detections), notes)


def surplus_detections(
    objects: Sequence[Reasoned], things: Sequence[GroundedObject], detections: Sequence[Detection]
) -> list[Detection]:
    """Boxes of what the prompt certainly names that are none of the things, nor a second box of one. Not those of
    what it may name: the apples of an apple tree are not too many."""
    certain = {each.tag for each in objects if each.score == CERTAIN}
    taken = [thing.detection.box for thing in things]
    return [each for each in detections if each.label in certain and _apart(each.box, taken)]


def _apart(box: Corners, others: Iterable[Corners], same: float = SAME) -> bool:
    return all(iou(box, other) <= same for other in others)


def _substitutes(
    image: Image, prompt: str, kept: Sequence[GroundedObject], surplus: Sequence[Detection], notes: list[str]
) -> list[GroundedObject]:
    """Boxes too many, as what the prompt names and the picture lacks; each phrase gets at most what it lacks, and no
    second dog becomes the grass, or a tail."""
    named = [noun for noun in nouns(prompt) if not noun.absent and noun.head not in SURROUNDINGS | PARTS]
    lacking: list[str] = []
    for noun in {noun.phrase.casefold(): noun for noun in named}.values():
        own = sum(same_words(thing.phrase, noun.phrase) for thing in kept)
        lacking += [noun.phrase] * ((count_in(prompt, noun.phrase) or 1) - own)
    if not lacking or not surplus:
        return []
    rows, columns = linear_sum_assignment(_gain(image, surplus, lacking), maximize=True)
    made = [
        GroundedObject(surplus[row].label, lacking[column], POSSIBLE, surplus[row])
        for column, row in sorted(zip(columns.tolist(), rows.tolist(), strict=True))
    ]
    notes += [f"a {short(one.tag)} too many may be {short(one.phrase)}, which was not seen" for one in made]
    return made


def _by_attributes(
    image: Image,
    prompt: str,
    tag: str,
    wanted: Sequence[Reasoned],
    boxes: Sequence[Detection],
    notes: list[str],
) -> list[GroundedObject]:
    """The boxes of a tag that several phrases name, shared out among these."""
    slots = [each for each in wanted for _ in range(min(count_in(prompt, str(each.phrase)) or 1, len(boxes)))]
    places = np.argsort(np.argsort([detection.centre[0] for detection in boxes], kind="stable"))
    gain = _gain(image, boxes, [str(slot.phrase) for slot in slots])
    # Squares make the order unique: with absolute differences crossed pairs may cost the same.
    apart = places[:, None] / max(len(boxes) - 1, 1) - np.arange(len(slots)) / max(len(slots) - 1, 1)
    rows, columns = linear_sum_assignment(gain - _ORDER * apart**2, maximize=True)
    taken = {int(row): slots[column] for row, column in zip(rows, columns, strict=True)}
    for row, detection in enumerate(boxes):  # what is left may be more of a phrase that does not say how many
        open_ended = [each for each in wanted if count_in(prompt, str(each.phrase)) is None]
        if row not in taken and open_ended:
            taken[row] = max(open_ended, key=lambda each: attribute_score(image, detection, str(each.phrase)))
    lost = [each.phrase for each in wanted if each not in taken.values()]
    notes += [f"no box of {short(tag)} is left for {short(str(phrase))}" for phrase in lost]
    if surplus := len(boxes) - len(taken):
        notes.append(f"{surplus} more {short(tag)} was seen than the prompt has")
    return [
        GroundedObject(tag, str(each.phrase), each.score, detection)
        for row, detection in enumerate(boxes)
        if (each := taken.get(row))
    ]


def _gain(image: Image, boxes: Sequence[Detection], phrases: Sequence[str]) -> np.ndarray:
    """How well each phrase fits each box: (boxes, phrases)."""
    scores = np.array([[attribute_score(image, box, phrase) for phrase in phrases] for box in boxes])
    return scores + _CONFIDENCE * np.array([box.score for box in boxes])[:, None]


def _limited(
    prompt: str, things: Sequence[GroundedObject], phrases: Sequence[str], notes: list[str]
) -> list[GroundedObject]:
    """Each phrase's things without duplicates, not more than it speaks of, in the order of ``phrases``."""
    kept = []
    for phrase in dict.fromkeys(phrases):
        own: list[GroundedObject] = []
        for thing in sorted(things, key=lambda each: (-each.score, -each.detection.score)):
            if thing.phrase == phrase and _apart(thing.detection.box, (other.detection.box for other in own)):
                own.append(thing)
        most = count_in(prompt, phrase)
        if most is not None and len(own) > most:
            notes.append(f"{len(own)} were seen of {short(phrase)}; the surest {most} count")
        kept += own[:most]
    return kept


def without_duplicates(detections: Sequence[Detection], same: float = SAME) -> list[Detection]:
    """The detections, surest first, without those that overlap a surer one of the same label."""
    kept: list[Detection] = []
    for detection in sorted(detections, key=lambda each: -each.score):
        if _apart(detection.box, (other.box for other in kept if other.label == detection.label), same):
            kept.append(detection)
    return kept
