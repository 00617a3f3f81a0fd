"""NSR-1K (LayoutGPT): 762 counting and 283 spatial prompts, with COCO's boxes as the true layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trueline.evaluation.benchmarks import Example
from trueline.evaluation.benchmarks._collect import Collector, row_of
from trueline.evaluation.benchmarks._files import Source, data_folder
from trueline.files import read_json_list

SOURCE = Source("weixi-feng/LayoutGPT", "fc3195496255", "MIT; boxes and captions of COCO, CC BY 4.0")
COUNTING, SPATIAL = "nsr_1k/counting/counting.val.json", "nsr_1k/spatial/spatial.val.json"
SUB_TYPES = ("single-category", "two-categories", "comparison", "real")
RELATIONS = ("left", "right", "top", "bottom", "next to")


class NSR1K:
    """Examples in the files' order, counting first; ids are ``counting-038699``, ``spatial-000739`` (the rows' ids).

    ``category``: "single-category", "two-categories", "comparison", "real" (the counting sub-types) or "spatial".
    ``truth``: ``query`` (the row's id, by which published plans are found); for counting ``counts`` [[category, n]]
    and ``sub_type``, for spatial ``first``, ``second`` and ``relation``: the arguments of ``rules.nsr_1k``.
    Regions are the true boxes. ``left_out`` counts the boxes that no layout can hold, by reason: the files have no
    boxes for 19 spatial prompts (38 boxes of zeros).
    """

    name = "nsr-1k"
    source = str(SOURCE)

    def __init__(self, data: str | Path | None = None):
        folder = data_folder(data, SOURCE)
        collector = Collector(self.name)
        for file, add in ((COUNTING, _add_counting), (SPATIAL, _add_spatial)):
            for number, row in enumerate(read_json_list(folder / file, SOURCE.cure), start=1):
                with row_of(folder / file, f"row {number}", SOURCE.cure):
                    add(collector, row)
        self.examples = collector.finish()
        self.left_out = collector.left_out

    def reference(self, example: Example) -> None:
        """COCO's pictures are not among the files."""
        return None


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
    collector.add(f"spatial-{query:06d}", row["prompt"], "spatial", truth, collector.regions(things))


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
