"""What was seen in a picture, and what each thing of it should be. JSON-ready records of it; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.Image import Image

from trueline.perception import Detection
from trueline.perception.colours import pixel_box
from trueline.perception.reason import Reasoned


@dataclass(frozen=True)
class Thing:
    """One object that was seen, with the words of the prompt that it should look like.

    ``score`` is the likelihood of eq. 6 (2, 0.5 or 0); ``seen`` has its box and, where a segmenter or the detector
    drew one, its mask.
    """

    tag: str
    phrase: str
    score: float
    seen: Detection

    def record(self) -> dict[str, Any]:
        return {"tag": self.tag, "phrase": self.phrase, "score": self.score} | _record(self.seen)


def _record(seen: Detection) -> dict[str, Any]:
    about: dict[str, Any] = {"box": list(seen.box), "confidence": round(float(seen.score), 4)}
    about |= {"colour": seen.colour, "texture": seen.texture}
    if seen.mask is not None:
        about["mask_area"] = round(float((seen.mask > 0.5).mean()), 5)
    return about


def pixels_of(image: Image, seen: Detection) -> np.ndarray:
    """uint8 (height, width) of the picture, 255 where the thing is: by its mask if it has one, else its box."""
    if seen.mask is not None:
        return np.where(seen.mask > 0.5, 255, 0).astype(np.uint8)
    x0, y0, x1, y1 = pixel_box(image, seen)
    inside = np.zeros((image.height, image.width), np.uint8)
    inside[y0:y1, x0:x1] = 255
    return inside


@dataclass(frozen=True)
class Looked:
    """A look at one picture. ``objects``: every tag with its score and phrase; ``things``: those that the prompt has
    a phrase for and that were found as a box; ``surplus``: boxes of what it certainly names, but not so often,
    called by their tags; ``notes``: what went wrong or was left out, one sentence each."""

    tags: tuple[str, ...] = ()
    objects: tuple[Reasoned, ...] = ()
    things: tuple[Thing, ...] = ()
    surplus: tuple[Detection, ...] = ()
    notes: tuple[str, ...] = ()
    reasoner: str = ""

    def record(self) -> dict[str, Any]:
        return {
            "tags": list(self.tags),
            "reasoner": self.reasoner,
            "objects": [
                {"tag": each.tag, "score": each.score, "phrase": each.phrase} for each in self.objects
            ],
            "things": [thing.record() for thing in self.things],
            "surplus": [{"tag": seen.label} | _record(seen) for seen in self.surplus],
            "notes": list(self.notes),
        }
