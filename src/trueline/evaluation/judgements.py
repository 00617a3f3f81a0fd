"""What a judge saw in one picture, as named arrays that go to disk and come back exactly.

The part of a key before the slash says what the array is:

    ratio/METRIC      (2,) numerator and denominator of a metric: sums over pictures make the figure
    features/NAME     (k, d) rows for a distance between sets of pictures
    found/...         what was detected: ``words`` (k, 3) of label, colour, texture; ``boxes`` (k, 4), ``scores`` (k,)
    true/...          what should be there: ``words`` (k,), ``boxes`` (k, 4)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trueline.boxes import Corners
from trueline.evaluation.metrics.detection import Truth
from trueline.perception import Detection

RATIO, FEATURES = "ratio/", "features/"

Judgement = dict[str, np.ndarray]


@dataclass(frozen=True)
class SetDistance:
    """``metric`` is the distance ``kind`` between the features ``features`` of made and of real pictures."""

    metric: str
    kind: Literal["frechet", "kid", "cmmd"]
    features: str


def detected(things: Iterable[tuple[str, str | None, str | None, Corners, float]]) -> Judgement:
    """Arrays of (label, colour, texture, box, score)."""
    rows = list(things)
    words = [[label, colour or "", texture or ""] for label, colour, texture, _, _ in rows]
    return {
        "found/words": np.array(words, dtype=str).reshape(len(rows), 3),
        "found/boxes": np.array([row[3] for row in rows], float).reshape(len(rows), 4),
        "found/scores": np.array([row[4] for row in rows], float),
    }


def true_boxes(labels: Sequence[str], boxes: Sequence[Corners]) -> Judgement:
    return {
        "true/words": np.array(list(labels), dtype=str),
        "true/boxes": np.array(list(boxes), float).reshape(len(labels), 4),
    }


def ratios(observed: dict[str, tuple[float, float]]) -> Judgement:
    return {f"{RATIO}{metric}": np.array(pair, float) for metric, pair in observed.items()}


def ratio_names(seen: Iterable[Judgement]) -> list[str]:
    """The metrics that any of these pictures adds to, in the order of their first mention."""
    keys = dict.fromkeys(key for each in seen for key in each)
    return [key.removeprefix(RATIO) for key in keys if key.startswith(RATIO)]


def detections(seen: Judgement) -> list[Detection]:
    """What ``detected`` stored."""
    if "found/words" not in seen:
        return []
    rows = zip(seen["found/words"], seen["found/boxes"], seen["found/scores"], strict=True)
    return [
        Detection(str(label), _corners(box), float(score), str(colour) or None, str(texture) or None)
        for (label, colour, texture), box, score in rows
    ]


def truths(seen: Judgement) -> list[Truth]:
    """What ``true_boxes`` stored."""
    if "true/words" not in seen:
        return []
    return [
        Truth(str(word), _corners(box))
        for word, box in zip(seen["true/words"], seen["true/boxes"], strict=True)
    ]


def _corners(box: Any) -> Corners:
    x0, y0, x1, y1 = map(float, box)
    return x0, y0, x1, y1
