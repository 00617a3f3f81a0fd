"""What a picture shows: tags, what they should be, their boxes and masks (RealignDiff, section 3.2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from PIL.Image import Image

from trueline.boxes import clipped
from trueline.errors import first_line
from trueline.perception import Detection, Detector, Segmenter, Tagger, load
from trueline.perception.colours import pixel_mask
from trueline.perception.reason import Reasoner
from trueline.realign.assign import assign_phrases, surplus_detections, without_duplicates
from trueline.realign.observation import GroundedObject, Observation

MAX_BOXES = 60  #: of one picture that are segmented; the surest
_KINDS = {"tagger": Tagger, "detector": Detector, "segmenter": Segmenter}


@dataclass(frozen=True)
class VisionModels:
    """The models that a picture is shown to. ``segmenter`` None: the detector's own masks, where it draws some, else
    its boxes."""

    tagger: Tagger
    detector: Detector
    segmenter: Segmenter | None = None

    @classmethod
    def load(cls, tagger: str, detector: str, segmenter: str | None = None, **options: Any) -> Self:
        """By name, as ``trueline.perception.load`` takes them with ``options``; equal names are one model.

        Raises:
            ValueError: a model that cannot be loaded, or does not do what it is named for.
        """
        names = {"tagger": tagger, "detector": detector, "segmenter": segmenter}
        models: dict[str | None, Any] = {None: None}
        for name in names.values():
            if name not in models:
                models[name] = load(str(name), **options)
        for role, name in names.items():
            if name is not None and not isinstance(models[name], _KINDS[role]):
                raise ValueError(f"{role}: {name!r} is no {role}; name a model that is one")
        return cls(**{role: models[name] for role, name in names.items()})

    @property
    def names(self) -> dict[str, str | None]:
        """For records."""
        return {role: getattr(getattr(self, role), "name", None) for role in _KINDS}


def observe(image: Image, prompt: str, models: VisionModels, reasoner: Reasoner) -> Observation:
    """What the picture shows of what the prompt says: tag, reason, detect, segment, assign.

    Boxes are asked for only where a tag has a phrase in the prompt. Whatever is not found is noted, and nothing is
    put in its place. Errors of the models are not caught here.
    """
    given = models.tagger.tag([image], [prompt])[0]
    tags = [tag for tag in given if isinstance(tag, str)]
    notes = [f"{len(given) - len(tags)} tags are no text and are left out"] if len(tags) < len(given) else []
    if not tags:
        return Observation(notes=(*notes, "the tagger saw nothing in the picture"))
    reasoning = reasoner.reason(prompt, tags)
    notes += reasoning.notes
    described = [each for each in reasoning.objects if each.phrase is not None]
    labels = list(dict.fromkeys(each.tag for each in described))
    things: list[GroundedObject] = []
    surplus: list[Detection] = []
    if labels:
        detections = without_duplicates(_detected(image, labels, models.detector, notes))
        if len(detections) > MAX_BOXES:
            notes.append(f"{len(detections)} boxes are too many; the surest {MAX_BOXES} are used")
        masked = _segmented(image, detections[:MAX_BOXES], models.segmenter, notes)
        things = assign_phrases(image, prompt, described, masked, notes)
        surplus = surplus_detections(described, things, masked)
    else:
        notes.append(f"none of the {len(tags)} tags of the picture is in the prompt")
    return Observation(
        tuple(tags),
        reasoning.objects,
        tuple(things),
        tuple(surplus),
        tuple(notes),
        reasoning.reasoner,
        reasoning.by_rules,
    )


def _detected(image: Image, labels: list[str], detector: Detector, notes: list[str]) -> list[Detection]:
    """Boxes of the labels; a detector that cannot take so many at once is asked for one after the other."""
    try:
        found = detector.detect([image], [labels])[0]
    except ValueError as error:
        if len(labels) == 1:
            raise
        reason = first_line(error)[:200].rstrip(".")
        notes.append(f"the detector was asked for one tag at a time ({reason})")
        found = [each for label in labels for each in detector.detect([image], [[label]])[0]]
    usable = [
        replace(each, box=box) for each in found if np.isfinite(each.box).all() and (box := clipped(each.box))
    ]
    if broken := len(found) - len(usable):
        notes.append(f"{broken} boxes without an area are left out")
    return usable


def _segmented(
    image: Image, detections: Sequence[Detection], segmenter: Segmenter | None, notes: list[str]
) -> list[Detection]:
    """The detections with their masks; those whose mask is empty are left out and noted."""
    if segmenter is not None and detections:
        masks = segmenter.segment([image], [[each.box for each in detections]])[0]
        detections = [replace(each, mask=mask) for each, mask in zip(detections, masks, strict=True)]
    kept = []
    for each in detections:
        if each.mask is None or pixel_mask(image, each).any():
            kept.append(each)
        else:
            notes.append(f"the mask of a {each.label!r} has no area; it is left out")
    return kept
