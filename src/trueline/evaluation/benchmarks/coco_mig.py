"""COCO-MIG: is each instance where its box is, and in its colour?

Source: LeyRio/MIG_Bench@723d10e71bc3 (the bench of limuloo/MIGC), ``eval_mig.py``. GroundingDINO finds the class of
one instance at a time (0.25 / 0.25, NMS 0.8); SAM's mask of the box is in a colour if at least a fifth of its pixels
are.

Quirks kept by ``official``:

- The colour is read in the mask of the *ground-truth* box, whatever was detected.
- An instance whose best IoU is below 0.5 fails, but its IoU still enters mIoU, while that of a wrong colour is 0.

``fixed`` reads the colour of the best detection, and every instance that fails adds 0 to mIoU. In both modes, as in
the source, one detection may serve two instances.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from trueline.boxes import Corners, iou
from trueline.evaluation.metrics.observations import Mode, Observations, is_official
from trueline.perception import Detection

MIN_IOU = 0.5


class Instance(NamedTuple):
    """What the layout asks for: a class, its colour and its box (xyxy in 0..1).

    ``seen``: the colours that fill at least a fifth of the mask of this very box in the picture, for ``official``.
    """

    label: str
    colour: str
    box: Corners
    seen: Collection[str] = ()


def score(
    detections: Sequence[Detection], instances: Sequence[Instance], mode: Mode = "official"
) -> Observations:
    """One picture's ``isr`` (instances that succeed over instances; the instance success rate) and ``miou``."""
    official = is_official(mode)
    successes, overlaps = 0, 0.0
    for instance in instances:
        candidates = [d for d in detections if d.label == instance.label]
        best = max(candidates, key=lambda d: (iou(d.box, instance.box), d.score), default=None)
        overlap = iou(best.box, instance.box) if best else 0.0
        colours = instance.seen if official else {best.colour if best else None}
        found, coloured = overlap >= MIN_IOU, instance.colour in colours
        successes += found and coloured
        overlaps += overlap if (found and coloured) or (official and not found) else 0.0
    count = float(len(instances))
    return {"isr": (float(successes), count), "miou": (overlaps, count)}
