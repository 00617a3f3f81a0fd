"""The choice of detections by their score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trueline.perception import Detection


def surest_first(detections: Iterable[Detection]) -> list[Detection]:
    """By falling score, so that a rule does not depend on the order it is given (but for equal scores)."""
    return sorted(detections, key=lambda detection: -detection.score)


def surest(detections: Sequence[Detection], label: str) -> Detection | None:
    """The surest detection of a label, or None."""
    found = surest_first(detection for detection in detections if detection.label == label)
    return found[0] if found else None
