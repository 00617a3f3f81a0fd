"""NSR-1K: what LayoutGPT measures on layouts, and what it measures on pictures through GLIP's boxes.

Source: weixi-feng/LayoutGPT@fc3195496255, ``eval_counting_layout.py``, ``eval_spatial_layout.py``, ``utils.py``,
``eval_models/GLIP/eval_{counting,spatial}.py``. Every rule gives the observations of one layout or picture;
``observation.aggregate`` makes the published numbers of them. LayoutGPT's own GPT-4 layouts give precision 81.02,
recall 85.63, accuracy 78.11, MAE 0.276 and spatial accuracy 91.59, which a test asserts.

Quirks kept by ``official``:

- Names: articles are removed with ``str.lstrip``, which strips *characters* ("teddy bear" becomes "ddy bear", "hat"
  becomes "at"); a predicted name then takes the *last* ground-truth category that is a substring of it or the other
  way round, so "dog" beside "hot dog" becomes "hot dog". ``fixed`` strips whole words and prefers the equal name.
- Pictures, counting: right objects over all objects, not pictures. A comparison prompt adds two below the line and at
  most one above, so that the ceiling is 91.6 %. ``fixed``: right pictures over pictures, comparison prompts apart.

For both modes: precision, recall and MAE leave comparison prompts out; precision and recall are 0 where nothing
matches; a relation holds if any pair of boxes has it; exactly diagonal pairs have none; "next to" is left or right.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Sequence

from trueline.boxes import Corners, centre
from trueline.evaluation.metrics.observations import Mode, Observations, is_official, share
from trueline.perception import Detection

THRESHOLD = 0.7  # GLIP's confidence
COMPARISON = "comparison"
_ARTICLE = re.compile(r"(?:(?:a|an|the)\s+)+", re.IGNORECASE)

Placed = tuple[str | None, Corners]


def category_of(name: str, categories: Sequence[str], mode: Mode = "official") -> str:
    """The ground-truth category that a predicted name means, or the name itself where none fits."""
    if is_official(mode):
        for category in categories:
            bare = name.lstrip("a ").lstrip("an ").lstrip("the ")
            if bare in category or category in bare:
                name = category
        return name
    bare = _ARTICLE.sub("", name.strip(), count=1) if _ARTICLE.match(name.strip()) else name.strip()
    if bare in categories:
        return bare
    return next((category for category in categories if bare in category or category in bare), name)


def counting_layout(
    names: Sequence[str | None], truth: Sequence[tuple[str, int]], sub_type: str, mode: Mode = "official"
) -> Observations:
    """Counts of one layout: ``counting_accuracy`` and, but for comparison prompts, ``counting_precision``,
    ``counting_recall`` and ``counting_mae``, each with denominator 1.

    ``names``: of the layout's boxes, None (unreadable) is left out. ``truth``: category and count.
    """
    categories = [category for category, _ in truth]
    found = Counter(category_of(name, categories, mode) for name in names if name is not None)
    if sub_type == COMPARISON:
        return {"counting_accuracy": share(_comparison(truth, found))}
    matched = sum(min(found[category], count) for category, count in truth)
    errors = [abs(found[category] - count) for category, count in truth]
    return {
        "counting_precision": (matched / found.total() if matched else 0.0, 1.0),
        "counting_recall": (matched / sum(count for _, count in truth) if matched else 0.0, 1.0),
        "counting_mae": (sum(errors) / len(errors), 1.0),
        "counting_accuracy": share(not any(errors)),
    }


def _comparison(truth: Sequence[tuple[str, int]], found: Counter[str]) -> bool:
    """The first count is exact, and the second equal, smaller or larger as in the ground truth."""
    (first, first_count), (second, second_count) = truth
    if found[first] != first_count:
        return False
    if first_count == second_count:
        return found[second] == second_count
    return (first_count - second_count) * (found[first] - found[second]) > 0


def relation_of(first: Corners, second: Corners) -> str:
    """Where the first box is, seen from the second, by centres: right, top, left, bottom, or diagonal on and
    between the 45 degree lines."""
    (x1, y1), (x2, y2) = centre(first), centre(second)
    distance = math.hypot(x1 - x2, y1 - y2)
    if distance == 0:
        return "diagonal"
    cosine, sine, limit = (x1 - x2) / distance, (y2 - y1) / distance, math.sqrt(2) / 2
    if cosine > limit:
        return "right"
    if sine > limit:
        return "top"
    if cosine < -limit:
        return "left"
    return "bottom" if sine < -limit else "diagonal"


def stands(first: Sequence[Corners], second: Sequence[Corners], relation: str) -> bool:
    """Whether any box of the first object stands in the relation to any of the second."""
    seen = {relation_of(one, two) for one in first for two in second}
    return relation in seen or (relation == "next to" and bool(seen & {"left", "right"}))


def spatial_layout(objects: Sequence[Placed], first: str, second: str, relation: str) -> Observations:
    """``spatial_accuracy`` of one layout, and ``spatial_unmatched``: whether either object has no box.

    A name fits by ``difflib.get_close_matches`` (the closest, ratio at least 0.6). Boxes of all zeros are left out.
    """
    placed = [(name, box) for name, box in objects if name is not None and any(box)]
    one, two = _boxes_of(first, placed), _boxes_of(second, placed)
    return {
        "spatial_accuracy": share(stands(one, two, relation)),
        "spatial_unmatched": share(not (one and two)),
    }


def _boxes_of(wanted: str, placed: Sequence[tuple[str, Corners]]) -> list[Corners]:
    closest = difflib.get_close_matches(wanted, [name for name, _ in placed], n=1)
    return [box for name, box in placed if name in closest]


def counting_image(
    detections: Sequence[Detection],
    truth: Sequence[tuple[str, int]],
    sub_type: str,
    mode: Mode = "official",
    threshold: float = THRESHOLD,
) -> Observations:
    """Counts of one picture. ``official``: ``counting_accuracy``, objects with the exact count over objects.
    ``fixed``: 1 where all are exact, over 1; as ``comparison_accuracy`` for comparison prompts.

    Detections above ``threshold`` count, by equal label.
    """
    found = Counter(d.label for d in detections if d.score > threshold)
    if sub_type == COMPARISON:
        right = _comparison(truth, found)
        if is_official(mode):
            return {"counting_accuracy": (float(right), float(len(truth)))}
        return {"comparison_accuracy": share(right)}
    exact = [found[category] == count for category, count in truth]
    if is_official(mode):
        return {"counting_accuracy": (float(sum(exact)), float(len(exact)))}
    return {"counting_accuracy": share(all(exact))}


def spatial_image(
    detections: Sequence[Detection], first: str, second: str, relation: str, threshold: float = THRESHOLD
) -> Observations:
    """``spatial_accuracy`` of one picture: both objects are detected above ``threshold`` and some pair of their boxes
    has the relation."""
    boxes = {
        label: [d.box for d in detections if d.label == label and d.score > threshold]
        for label in (first, second)
    }
    return {"spatial_accuracy": share(stands(boxes[first], boxes[second], relation))}
