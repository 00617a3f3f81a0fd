"""MultiGen (TokenCompose): how many of a prompt's five categories are in the picture?

Source: mlpc-ucsd/TokenCompose@b91b0b280b76, ``multigen/gen_multigen_scores.py``. No mode, for the rule has no quirk:
a label counts once, whatever the number of its detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trueline.evaluation.metrics.observations import Observations, share
from trueline.perception import Detection

THRESHOLD = 0.1


def objects_hit(detections: Iterable[Detection], objects: Sequence[str], threshold: float = THRESHOLD) -> int:
    """How many of the different names in ``objects`` have a detection with a score above ``threshold``."""
    return len({d.label for d in detections if d.score > threshold} & set(objects))


def multigen(
    detections: Iterable[Detection], objects: Sequence[str], threshold: float = THRESHOLD
) -> Observations:
    """``mg1`` .. ``mgN``: whether at least n of the N objects are there; ``object_accuracy``: objects there over
    objects."""
    hits = objects_hit(detections, objects, threshold)
    names = len(set(objects))
    rates = {f"mg{n}": share(hits >= n) for n in range(1, len(objects) + 1)}
    return {"object_accuracy": (float(hits), float(names)), **rates}
