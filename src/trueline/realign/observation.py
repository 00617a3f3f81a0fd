"""What was found in a picture, and what each thing of it should be. JSON-ready records of it; no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from trueline.perception import Detection
from trueline.perception.reason import Reasoned


@dataclass(frozen=True)
class GroundedObject:
    """One detection, with the words of the prompt that it should look like.

    ``score`` is the likelihood of eq. 6 (2, 0.5 or 0); ``detection`` has the box and, where there is one, the mask.
    """

    tag: str
    phrase: str
    score: float
    detection: Detection

    def record(self) -> dict[str, Any]:
        return {"tag": self.tag, "phrase": self.phrase, "score": self.score} | _record(self.detection)


def _record(detection: Detection) -> dict[str, Any]:
    record: dict[str, Any] = {
        "box": list(detection.box),
        "confidence": round(float(detection.score), 4),
        "colour": detection.colour,
        "texture": detection.texture,
    }
    if detection.mask is not None:
        record["mask_area"] = round(float((detection.mask > 0.5).mean()), 5)
    return record


@dataclass(frozen=True)
class Observation:
    """What one picture shows. ``objects``: every tag with its score and phrase; ``things``: those that the prompt has
    a phrase for and that were found as a box; ``surplus``: boxes of what it certainly names, but not so often,
    called by their tags; ``notes``: what went wrong or was left out, one sentence each; ``by_rules``: tags that the
    rules answered for in the ``reasoner``'s place."""

    tags: tuple[str, ...] = ()
    objects: tuple[Reasoned, ...] = ()
    things: tuple[GroundedObject, ...] = ()
    surplus: tuple[Detection, ...] = ()
    notes: tuple[str, ...] = ()
    reasoner: str = ""
    by_rules: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        return {
            "tags": list(self.tags),
            "reasoner": self.reasoner,
            "by_rules": list(self.by_rules),
            "objects": [asdict(each) for each in self.objects],
            "things": [thing.record() for thing in self.things],
            "surplus": [{"tag": detection.label} | _record(detection) for detection in self.surplus],
            "notes": list(self.notes),
        }
