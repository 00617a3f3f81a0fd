"""Boxes (xyxy, any unit) as the rules compare them, and the choice of detections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trueline.perception import Corners, Detection


def area(box: Corners, edge: float = 0.0) -> float:
    """Width times height, 0 for an inverted box. ``edge`` = 1 counts pixels: x0..x1 are x1 - x0 + 1 of them."""
    return max(0.0, box[2] - box[0] + edge) * max(0.0, box[3] - box[1] + edge)


def intersection(a: Corners, b: Corners, edge: float = 0.0) -> float:
    """The area that both boxes cover."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])), edge)


def iou(a: Corners, b: Corners, edge: float = 0.0) -> float:
    """Intersection over union, 0..1; 0 for two empty boxes."""
    shared = intersection(a, b, edge)
    union = area(a, edge) + area(b, edge) - shared
    return shared / union if union > 0 else 0.0


def centre(box: Corners) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def scaled(box: Corners, size: tuple[float, float]) -> Corners:
    """A box in 0..1 in the pixels of a picture of (width, height)."""
    width, height = size
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def surest_first(detections: Iterable[Detection]) -> list[Detection]:
    """By falling score, so that a rule does not depend on the order it is given (but for equal scores)."""
    return sorted(detections, key=lambda detection: -detection.score)


def surest(detections: Sequence[Detection], label: str) -> Detection | None:
    """The surest detection of a label, or None."""
    found = surest_first(detection for detection in detections if detection.label == label)
    return found[0] if found else None
