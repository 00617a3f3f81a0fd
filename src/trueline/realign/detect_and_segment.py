"""Looking at a picture: tags, what they should be, their boxes and masks (RealignDiff, section 3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL.Image import Image

from trueline.perception import Detection, Detector, Segmenter, Tagger, load
from trueline.perception.reason import Reasoner
from trueline.realign.assign import assigned, distinct, spare
from trueline.realign.observation import Looked, Thing

MAX_BOXES = 60  #: of one picture that are segmented; the surest


@dataclass(frozen=True)
class Eyes:
    """The models that look. ``segmenter`` None: the detector's own masks, where it draws some, else its boxes."""

    tagger: Tagger
    detector: Detector
    segmenter: Segmenter | None = None

    @classmethod
    def load(cls, tagger: str, detector: str, segmenter: str | None = None, **options: Any) -> Eyes:
        """By name, as ``trueline.perception.load`` takes them with ``options``; equal names are one model.

        Raises:
            ValueError: a model that cannot be loaded, or does not do what it is named for.
        """
        models: dict[str, Any] = {}
        for name in (tagger, detector, segmenter):
            if name is not None and name not in models:
                models[name] = load(name, **options)
        for role, name, kind in (
            ("tagger", tagger, Tagger), ("detector", detector, Detector), ("segmenter", segmenter, Segmenter)
        ):  # fmt: skip
            if name is not None and not isinstance(models[name], kind):
                raise ValueError(f"{role}: {name!r} is no {role}; name a model that is one")
        return cls(models[tagger], models[detector], models[segmenter] if segmenter else None)

    @property
    def names(self) -> dict[str, str | None]:
        """For records."""
        return {
            "tagger": self.tagger.name,
            "detector": self.detector.name,
            "segmenter": self.segmenter.name if self.segmenter else None,
        }


def look(image: Image, prompt: str, eyes: Eyes, reasoner: Reasoner) -> Looked:
    """What the picture shows of what the prompt says: tag, reason, detect, segment, assign.

    Boxes are looked for only where a tag has a phrase in the prompt. Whatever is not found is noted, and nothing is
    put in its place. Errors of the models are not caught here.
    """
    given = eyes.tagger.tag([image], [prompt])[0]
    tags = [tag for tag in given if isinstance(tag, str)]
    strange = (
        [f"{len(given) - len(tags)} tags are no text and are left out"] if len(tags) < len(given) else []
    )
    if not tags:
        return Looked(notes=(*strange, "the tagger saw nothing in the picture"))
    reasoning = reasoner.reason(prompt, tags)
    notes = [*strange, *reasoning.notes]
    wanted = [each for each in reasoning.objects if each.phrase is not None]
    labels = list(dict.fromkeys(each.tag for each in wanted))
    things: list[Thing] = []
    surplus: list[Detection] = []
    if labels:
        found = distinct(_detected(image, labels, eyes.detector, notes))
        if len(found) > MAX_BOXES:
            notes.append(f"{len(found)} boxes are too many; the surest {MAX_BOXES} are used")
        masked = _segmented(image, found[:MAX_BOXES], eyes.segmenter, notes)
        things = assigned(image, prompt, wanted, masked, notes)
        surplus = spare(wanted, things, masked)
    else:
        notes.append(f"none of the {len(tags)} tags of the picture is in the prompt")
    return Looked(
        tuple(tags), reasoning.objects, tuple(things), tuple(surplus), tuple(notes), reasoning.reasoner
    )


def _detected(image: Image, labels: list[str], detector: Detector, notes: list[str]) -> list[Detection]:
    """Boxes of the labels; a detector that cannot take so many at once is asked for one after the other."""
    try:
        found = detector.detect([image], [labels])[0]
    except ValueError as error:
        if len(labels) == 1:
            raise
        notes.append(f"the detector was asked for one tag at a time ({_line(error)})")
        found = [seen for label in labels for seen in detector.detect([image], [[label]])[0]]
    whole = [replace(seen, box=_within(seen.box)) for seen in found if np.isfinite(seen.box).all()]
    usable = [seen for seen in whole if seen.box[0] < seen.box[2] and seen.box[1] < seen.box[3]]
    if broken := len(found) - len(usable):
        notes.append(f"{broken} boxes without an area are left out")
    return usable


def _within(box: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (min(max(float(value), 0.0), 1.0) for value in box)
    return x0, y0, x1, y1


def _segmented(
    image: Image, found: list[Detection], segmenter: Segmenter | None, notes: list[str]
) -> list[Detection]:
    """The detections with their masks; those whose mask is empty are left out and noted."""
    if segmenter is not None and found:
        masks = segmenter.segment([image], [[seen.box for seen in found]])[0]
        found = [replace(seen, mask=mask) for seen, mask in zip(found, masks, strict=True)]
    kept = []
    for seen in found:
        if seen.mask is not None and seen.mask.shape != (image.height, image.width):
            raise ValueError(
                f"the mask of {seen.label!r} is {seen.mask.shape}, the picture {(image.height, image.width)}"
            )
        if seen.mask is None or (seen.mask > 0.5).any():
            kept.append(seen)
        else:
            notes.append(f"the mask of a {seen.label!r} has no area; it is left out")
    return kept


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
