"""NSR-1K (LayoutGPT): 762 counting and 283 spatial prompts, with COCO's boxes as the true layout.

NSR-1K: what LayoutGPT measures on layouts, and what it measures on pictures through GLIP's boxes.

Source: weixi-feng/LayoutGPT@fc3195496255, ``eval_counting_layout.py``, ``eval_spatial_layout.py``, ``utils.py``,
``eval_models/GLIP/eval_{counting,spatial}.py``. Every rule gives the observations of one layout or picture;
``observations.aggregate`` makes the published numbers of them. LayoutGPT's own GPT-4 layouts give precision 81.02,
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

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trueline.boxes import Corners, centre
from trueline.evaluation.benchmarks._collect import Collector, row_of
from trueline.evaluation.benchmarks.benchmark import (
    Benchmark,
    Example,
    Needs,
    Placed,
    Size,
    Source,
    data_folder,
)
from trueline.evaluation.metrics.observations import Mode, Observations, is_official, share
from trueline.files import read_json_list
from trueline.perception import Detection

SOURCE = Source("weixi-feng/LayoutGPT", "fc3195496255", "MIT; boxes and captions of COCO, CC BY 4.0")
COUNTING, SPATIAL = "nsr_1k/counting/counting.val.json", "nsr_1k/spatial/spatial.val.json"
SUB_TYPES = ("single-category", "two-categories", "comparison", "real")
SPATIAL_CATEGORY = "spatial"
THRESHOLD = 0.7  #: GLIP's confidence
RELATIONS = ("left", "right", "top", "bottom", "next to")


class NSR1K(Benchmark):
    """Examples in the files' order, counting first; ids are ``counting-038699``, ``spatial-000739`` (the rows' ids).

    ``category``: "single-category", "two-categories", "comparison", "real" (the counting sub-types) or "spatial".
    ``truth``: ``query`` (the row's id, by which published plans are found); for counting ``counts`` [[category, n]]
    and ``sub_type``, for spatial ``first``, ``second`` and ``relation``: the rule's arguments.
    Regions are the true boxes. ``left_out`` counts the boxes that no layout can hold, by reason: the files have no
    boxes for 19 spatial prompts (38 boxes of zeros).
    """

    name = "nsr-1k"
    needs: ClassVar[Needs] = {
        "counting_accuracy, spatial_accuracy": ("detector",),
        "clip_score": ("embedder",),
    }
    threshold = THRESHOLD
    source = str(SOURCE)

    def __init__(self, data: str | Path | None = None):
        folder = data_folder(data, SOURCE)
        collector = Collector(self.name)
        for file, add in ((COUNTING, _add_counting), (SPATIAL, _add_spatial)):
            for number, row in enumerate(read_json_list(folder / file, SOURCE.cure), start=1):
                with row_of(folder / file, f"row {number}", SOURCE.cure):
                    add(collector, row)
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        truth = example.truth
        spatial = example.category == SPATIAL_CATEGORY
        names = [truth["first"], truth["second"]] if spatial else [name for name, _ in truth["counts"]]
        return list(dict.fromkeys(names))

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        truth = example.truth
        if example.category == SPATIAL_CATEGORY:
            return spatial_image(detections, truth["first"], truth["second"], truth["relation"], threshold)
        return counting_image(detections, truth["counts"], truth["sub_type"], mode, threshold)

    @staticmethod
    def score_layout(example: Example, things: Sequence[Placed], mode: Mode) -> Observations:
        truth = example.truth
        if example.category == SPATIAL_CATEGORY:
            return spatial_layout(things, truth["first"], truth["second"], truth["relation"])
        return counting_layout([name for name, _ in things], truth["counts"], example.category, mode)


def _add_counting(collector: Collector, row: Mapping[str, Any]) -> None:
    query, category = _whole(row["id"], "id"), row["sub-type"]
    if category not in SUB_TYPES:
        raise ValueError(f"sub-type: must be one of {', '.join(SUB_TYPES)} (got {category!r})")
    counts = [[_name(name), _whole(count, "num_object")] for name, count in row["num_object"]]
    if not counts or (category == "comparison" and len(counts) != 2):
        raise ValueError(
            f"num_object: must name {'two' if counts else 'some'} categories (got {len(counts)})"
        )
    truth = {"query": query, "counts": counts, "sub_type": category}
    regions = collector.regions(_corners(thing) for thing in row["object_list"])
    collector.add(f"counting-{query:06d}", row["prompt"], category, truth, regions)


def _add_spatial(collector: Collector, row: Mapping[str, Any]) -> None:
    query, relation = _whole(row["id"], "id"), row["relation"]
    if relation not in RELATIONS:
        raise ValueError(f"relation: must be one of {', '.join(RELATIONS)} (got {relation!r})")
    things = [_corners(row[key]) for key in ("obj1", "obj2")]
    (first, _), (second, _) = things
    truth = {"query": query, "first": first, "second": second, "relation": relation}
    collector.add(f"spatial-{query:06d}", row["prompt"], SPATIAL_CATEGORY, truth, collector.regions(things))


def _corners(thing: Any) -> tuple[str, tuple[float, float, float, float]]:
    """Name and xyxy box of a name and a box of x, y, width, height."""
    name, (x, y, width, height) = thing
    return _name(name), (x, y, x + width, y + height)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a category must be text (got {value!r})")
    return value


def _whole(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{field}: must be a whole number, 0 or more (got {value!r})")
    return value


# The rule


COMPARISON = "comparison"
_ARTICLE = re.compile(r"(?:(?:a|an|the)\s+)+", re.IGNORECASE)


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
    """Counts of one layout: ``counting_accuracy`` and, except for comparison prompts, ``counting_precision``,
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
