"""Which of the boxes is which phrase: "a red cat and a blue cat", and two boxes of cats. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL.Image import Image
from scipy.optimize import linear_sum_assignment

from trueline.boxes import iou
from trueline.english.naming import nouns, same_words
from trueline.english.words import PARTS, SURROUNDINGS
from trueline.perception import Detection
from trueline.perception.reason import CERTAIN, POSSIBLE, Reasoned
from trueline.realign.attributes import count_in, likeness
from trueline.realign.observation import Thing

SAME = 0.5  #: IoU above which two boxes are one thing (that of Grounded-SAM's demo)
_SIDE = 1e-3  #: what order from left to right weighs beside likeness (0..2)
_SURE = 1e-2  #: what the detector's confidence weighs


def assigned(
    image: Image, prompt: str, objects: Sequence[Reasoned], found: Sequence[Detection], notes: list[str]
) -> list[Thing]:
    """The boxes as things of the prompt, in the order of ``objects``; what stays without a box, and boxes without a
    phrase, are noted.

    The boxes of a tag that has one phrase are all that phrase. Where it has several, each phrase gets as many boxes
    as it speaks of, so that their colours and textures fit best together; where these say nothing, boxes go from left
    to right in the order of the phrases. Of a phrase that speaks of fewer things than there are boxes, the surest are
    taken; of boxes of several tags on one spot, the surest.

    A box too many may be what the picture has in place of something that the prompt names and nobody saw (two books
    for "a book and an umbrella"): it gets that phrase, as possible, which it is not in the paper. Else the
    commonest of errors, one name drawn twice and another left out, could not be mended: it has no mask.
    """
    phrases: dict[str, list[Reasoned]] = {}
    for each in objects:
        if each.phrase is not None:
            phrases.setdefault(each.tag, []).append(each)
    things: list[Thing] = []
    for tag, wanted in phrases.items():
        boxes = [seen for seen in found if seen.label == tag]
        if not boxes:
            notes.append(f"no box was found of {_shown(tag)}, which is a tag of the picture")
        elif len(wanted) == 1:
            things += [Thing(tag, str(wanted[0].phrase), wanted[0].score, seen) for seen in boxes]
        else:
            things += _shared_out(image, prompt, tag, wanted, boxes, notes)
    kept = _at_most(prompt, things, [str(each.phrase) for each in objects if each.phrase is not None], notes)
    return kept + _stand_ins(image, prompt, kept, spare(objects, kept, found), notes)


def spare(
    objects: Sequence[Reasoned], things: Sequence[Thing], found: Sequence[Detection]
) -> list[Detection]:
    """Boxes of what the prompt certainly names that are none of the things, nor a second box of one. Not those of
    what it may name: the apples of an apple tree are not too many."""
    certain = {each.tag for each in objects if each.score == CERTAIN}
    return [
        seen for seen in found
        if seen.label in certain and all(iou(seen.box, thing.seen.box) <= SAME for thing in things)
    ]  # fmt: skip


def _stand_ins(
    image: Image, prompt: str, kept: Sequence[Thing], surplus: Sequence[Detection], notes: list[str]
) -> list[Thing]:
    """Boxes too many, as what the prompt names and the picture lacks; each phrase gets at most what it lacks, and no
    second dog becomes the grass, or a tail."""
    named = [noun for noun in nouns(prompt) if not noun.absent and noun.head not in SURROUNDINGS | PARTS]
    lacking: list[str] = []
    for noun in {noun.phrase.casefold(): noun for noun in named}.values():
        own = sum(same_words(thing.phrase, noun.phrase) for thing in kept)
        lacking += [noun.phrase] * ((count_in(prompt, noun.phrase) or 1) - own)
    if not lacking or not surplus:
        return []
    gain = np.array([[likeness(image, seen, phrase) for phrase in lacking] for seen in surplus])
    rows, columns = linear_sum_assignment(
        gain + _SURE * np.array([seen.score for seen in surplus])[:, None], maximize=True
    )
    made = [
        Thing(surplus[row].label, lacking[column], POSSIBLE, surplus[row])
        for column, row in sorted(zip(columns.tolist(), rows.tolist(), strict=True))
    ]
    notes += [
        f"a {_shown(each.tag)} too many may be {_shown(each.phrase)}, which was not seen" for each in made
    ]
    return made


def _shared_out(
    image: Image,
    prompt: str,
    tag: str,
    wanted: Sequence[Reasoned],
    boxes: Sequence[Detection],
    notes: list[str],
) -> list[Thing]:
    slots = [each for each in wanted for _ in range(min(count_in(prompt, str(each.phrase)) or 1, len(boxes)))]
    places = np.argsort(np.argsort([seen.centre[0] for seen in boxes], kind="stable"))
    gain = np.array([[likeness(image, seen, str(slot.phrase)) for slot in slots] for seen in boxes])
    gain += _SURE * np.array([seen.score for seen in boxes])[:, None]
    # Squares make the order unique: with absolute differences crossed pairs may cost the same.
    apart = places[:, None] / max(len(boxes) - 1, 1) - np.arange(len(slots)) / max(len(slots) - 1, 1)
    rows, columns = linear_sum_assignment(gain - _SIDE * apart**2, maximize=True)
    taken = {int(row): slots[column] for row, column in zip(rows, columns, strict=True)}
    for row, seen in enumerate(boxes):  # what is left may be more of a phrase that does not say how many
        open_ended = [each for each in wanted if count_in(prompt, str(each.phrase)) is None]
        if row not in taken and open_ended:
            taken[row] = max(open_ended, key=lambda each: likeness(image, seen, str(each.phrase)))
    lost = [each.phrase for each in wanted if each not in taken.values()]
    notes += [f"no box of {_shown(tag)} is left for {_shown(str(phrase))}" for phrase in lost]
    if spare := len(boxes) - len(taken):
        notes.append(f"{spare} more {_shown(tag)} was seen than the prompt has")
    return [
        Thing(tag, str(taken[row].phrase), taken[row].score, seen)
        for row, seen in enumerate(boxes) if row in taken
    ]  # fmt: skip


def _at_most(prompt: str, things: Sequence[Thing], phrases: Sequence[str], notes: list[str]) -> list[Thing]:
    """Each phrase's things without doubles, not more than it speaks of, in the order of ``phrases``."""
    kept = []
    for phrase in dict.fromkeys(phrases):
        own: list[Thing] = []
        for thing in sorted(
            (t for t in things if t.phrase == phrase), key=lambda t: (-t.score, -t.seen.score)
        ):
            if all(iou(thing.seen.box, other.seen.box) <= SAME for other in own):
                own.append(thing)
        most = count_in(prompt, phrase)
        if most is not None and len(own) > most:
            notes.append(f"{len(own)} were seen of {_shown(phrase)}; the surest {most} count")
        kept += own[:most]
    return kept


def distinct(found: Sequence[Detection], same: float = SAME) -> list[Detection]:
    """The detections, surest first, without those that overlap a surer one of the same label."""
    kept: list[Detection] = []
    for seen in sorted(found, key=lambda each: -each.score):
        if not any(seen.label == other.label and iou(seen.box, other.box) > same for other in kept):
            kept.append(seen)
    return kept


def _shown(text: str) -> str:
    return ascii(text) if len(text) <= 60 else f"{text[:57]!a}..."
