"""HRS-Bench (Bakr et al. 2023) in the version of Attention-Refocusing, with its GPT-4 boxes.

HRS-Bench as Attention-Refocusing scores it: counting, spatial, size and colour, in three levels.

Source: Attention-Refocusing/attention-refocusing@2c265cbcac2e, ``data_evaluate_LLM/eval_metrics``; detector UniDet
Partitioned_COI_RS101_2x at 0.5, for colour MaskDINO (the mean hue of a mask names its colour, ``hue_colour``;
``Detection.colour`` holds it). Levels are equal thirds of the prompt file, in its order: 2, 3 and 4 objects.

Quirks kept by ``official``:

- Counting: where both objects of a prompt have one name (32 of 3,000), the second count replaces the first.
- Spatial and size: of several detections of a class the *last* (least sure) counts. ``fixed``: the surest.
- Spatial: one edge decides (left: the left edges; right: the right edges; above and below: either), so that one box
  can be left and right of another. ``fixed`` compares the centres.
- Colour: any detection of the class may have the colour (``fixed``: the surest); the prompts of index 131 and 500
  are left out (``COLOUR_SKIPPED``).
- The overall value is the mean over the levels (``fixed``: all pictures together).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from trueline.boxes import Corners, area, centre
from trueline.evaluation.benchmarks._collect import Collector, chosen, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Size, Source, data_folder
from trueline.evaluation.metrics.detection import surest_first
from trueline.evaluation.metrics.observations import Mode, Observations, aggregate, is_official, share
from trueline.files import read_json_object, read_table
from trueline.perception import Detection

SOURCE = Source(
    "Attention-Refocusing/attention-refocusing",
    "2c265cbcac2e",
    "MIT; prompts of HRS-Bench, which has no licence",
)
CANVAS = 512  #: pixels, of the boxes
Row = dict[str, str]


def _counting(row: Row) -> dict[str, Any]:
    pairs = [[row[f"obj{i}"], int(row[f"n{i}"])] for i in (1, 2) if row[f"obj{i}"]]
    return {"counts": pairs}


def _related(row: Row) -> dict[str, Any]:
    objects, relations = _filled(row, "obj", 4), _filled(row, "rel", 2)
    if len(objects) < 2 or not relations:
        raise ValueError("must name at least two objects (obj1, obj2) and a relation (rel1)")
    return {"objects": objects, "relations": relations}


def _coloured(row: Row) -> dict[str, Any]:
    objects, colours = _filled(row, "obj", 4), _filled(row, "color", 4)
    return {"objects": [list(pair) for pair in zip(objects, colours, strict=True)]}


def _filled(row: Row, column: str, count: int) -> list[str]:
    return [value for i in range(1, count + 1) if (value := row[f"{column}{i}"].strip())]


class PromptFile(NamedTuple):
    """One category. ``boxes``: files of ``gpt4_boxes``, which together cover nearly all of its prompts."""

    file: str
    prompt: str
    boxes: tuple[str, ...]
    truth: Callable[[Row], dict[str, Any]]


PARTS = {
    "counting": PromptFile(
        "counting_prompts.csv",
        "synthetic_prompt",
        ("counting", "counting_500_1499", "counting_1500_2499", "counting_5"),
        _counting,
    ),
    "spatial": PromptFile(
        "spatial_compositions_prompts.csv", "meta_prompt", ("spatial", "spatial_2"), _related
    ),
    "size": PromptFile("size_compositions_prompts.csv", "meta_prompt", ("size",), _related),
    "color": PromptFile("colors_composition_prompts.csv", "meta_prompt", ("color",), _coloured),
}


class HRS(Benchmark):
    """3,000 counting, 1,002 spatial, 501 size and 501 color prompts; equal prompts stay apart, with ids of their own.

    ``truth``: ``index`` in its category, from 0; ``level`` 0, 1, 2 (easy, medium, hard: equal thirds in order);
    counting: ``counts`` [[object, n]], in which an object may come twice; spatial and size: ``objects`` and
    ``relations``; color: ``objects`` [[name, colour]]. Ids: ``spatial-000012``, by row from 0.

    ``gpt4_boxes``: regions where the folder of that name has a layout for the prompt; without the folder none.
    Its names are kept as they are ("person_sitting").
    """

    name = "hrs"
    pictures = "{index:05d}_{k:02d}.png"
    needs: ClassVar[Needs] = {"counting, spatial, size and color accuracy": ("detector",)}
    colours = "hue"

    def __init__(
        self,
        data: str | Path | None = None,
        categories: str | Sequence[str] = tuple(PARTS),
        gpt4_boxes: bool = True,
    ):
        self.source = str(SOURCE)
        self.categories = chosen("categories", categories, tuple(PARTS))
        folder = data_folder(data, SOURCE) / "hrs_bench"
        collector = Collector(self.name)
        for category in self.categories:
            _read(collector, folder, category, gpt4_boxes and (folder / "gpt4_boxes").is_dir())
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        truth = example.truth
        if example.category == "counting":
            return list(dict.fromkeys(name for name, _ in truth["counts"]))
        if example.category == "color":
            return list(dict.fromkeys(name for name, _ in truth["objects"]))
        return list(dict.fromkeys(truth["objects"]))

    @staticmethod
    def asks_colours(example: Example) -> bool:
        return example.category == "color"

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        truth, sure = example.truth, [d for d in detections if d.score > threshold]
        if example.category == "counting":
            return counting(sure, truth["counts"], mode)
        if example.category == "color":
            if is_official(mode) and truth["index"] in COLOUR_SKIPPED:
                return {}
            return colour(sure, [(name, of) for name, of in truth["objects"]], mode)
        return _RELATED[example.category](sure, truth["objects"], truth["relations"], mode)

    @staticmethod
    def group(example: Example, mode: Mode) -> str:
        """The official value is the mean over the three levels."""
        return str(example.truth["level"]) if is_official(mode) else ""


def _read(collector: Collector, folder: Path, category: str, with_boxes: bool) -> None:
    part = PARTS[category]
    boxes: dict[str, Any] = {}
    for name in part.boxes if with_boxes else ():
        boxes |= read_json_object(folder / "gpt4_boxes" / f"{name}.json", SOURCE.cure)
    path = folder / part.file
    rows = read_table(path, SOURCE.cure, (part.prompt, "obj1", "obj2"))
    for number, (line, row) in enumerate(rows):
        with row_of(path, line, SOURCE.cure):
            truth = {"index": number, "level": level(number, len(rows)), **part.truth(row)}
            drawn = zip(*boxes.get(row[part.prompt], ((), ())), strict=True)
            regions = collector.regions(drawn, CANVAS)
            collector.add(f"{category}-{number:06d}", row[part.prompt], category, truth, regions)


# The rule


COLOUR_SKIPPED = (131, 500)
ABOVE = frozenset({"on", "above", "over", "top"})
BELOW = frozenset({"below", "beneath", "under", "underneath"})
RIGHT = frozenset({"on the right of", "right"})
LEFT = frozenset({"on the left of", "left"})
#: Side -> its words, the edges of which one decides (``official``), the axis of the centres, and its direction.
_SIDES = {
    "left": (LEFT, (0,), 0, -1),
    "right": (RIGHT, (2,), 0, 1),
    "above": (ABOVE, (1, 3), 1, -1),
    "below": (BELOW, (1, 3), 1, 1),
}
BETWEEN = frozenset({"between", "among", "in the middle of"})
LARGER, SMALLER = frozenset({"larger", "bigger"}), frozenset({"smaller"})
_HUES = (
    *((0, 15, "red"), (15, 22, "orange"), (22, 39, "yellow")),
    *((39, 78, "green"), (78, 131, "blue"), (131, 180, "red")),
)


def level(index: int, total: int) -> int:
    """0, 1 or 2 (easy, medium, hard) of the prompt at ``index`` of a file with ``total`` prompts.

    Raises:
        ValueError: no such prompt.
    """
    if not 0 <= index < total:
        raise ValueError(f"index: must be 0 to {total - 1} (got {index})")
    return min(3 * index // total, 2)


def hue_colour(hue: float) -> str:
    """The colour name of a mean hue in OpenCV's 0..180: red, orange, yellow, green, blue, and red again.

    Raises:
        ValueError: outside 0..180.
    """
    for low, high, name in _HUES:
        if low <= hue < high:
            return name
    raise ValueError(f"hue: must be from 0 to below 180, OpenCV's half degrees (got {hue:g})")


def counting(
    detections: Sequence[Detection], objects: Sequence[tuple[str, int]], mode: Mode = "official"
) -> Observations:
    """``counting_precision``, ``counting_recall`` and ``counting_f1`` of one picture as counts to add up (micro).

    Two detections of one label and the same box are one. Other classes are not counted.
    """
    wanted: Counter[str] = Counter()
    for name, count in objects:
        wanted[name] = count if is_official(mode) else wanted[name] + count
    found = Counter(label for label, _ in {(d.label.lower(), d.box) for d in detections})
    hits = sum(min(found[name], count) for name, count in wanted.items())
    extra = sum(max(found[name] - count, 0) for name, count in wanted.items())
    missed = sum(max(count - found[name], 0) for name, count in wanted.items())
    return {
        "counting_precision": (float(hits), float(hits + extra)),
        "counting_recall": (float(hits), float(hits + missed)),
        "counting_f1": (2.0 * hits, 2.0 * hits + extra + missed),
    }


def spatial(
    detections: Sequence[Detection], objects: Sequence[str], relations: Sequence[str], mode: Mode = "official"
) -> Observations:
    """``spatial_accuracy`` of one picture: all objects are there and stand as the prompt says.

    2 objects: the first in relation 1 to the second. 3: also in relation 2 to the third, or between the others.
    4: the same for both the first and the second object, against the third and the fourth.
    """
    boxes = _boxes(detections, objects, mode)
    subjects = 2 if len(objects) == 4 else 1
    if boxes is None:
        return {"spatial_accuracy": share(False)}
    targets = boxes[subjects:]
    if relations[0] in BETWEEN:
        if len(targets) != 2:
            raise ValueError(f"objects: {relations[0]} needs two objects to be between (got {len(targets)})")
        right = all(_between(box, targets[0], targets[1], is_official(mode)) for box in boxes[:subjects])
    else:
        right = all(
            _holds(box, target, relation, mode)
            for target, relation in zip(targets, relations, strict=True)
            for box in boxes[:subjects]
        )
    return {"spatial_accuracy": share(right)}


def size(
    detections: Sequence[Detection], objects: Sequence[str], relations: Sequence[str], mode: Mode = "official"
) -> Observations:
    """``size_accuracy`` of one picture: all objects are there, and the first's box is larger or smaller than the
    others' as the prompt says. Relation 2, where there is one, is that to the last object."""
    boxes = _boxes(detections, objects, mode)
    if unknown := [relation for relation in relations if relation not in LARGER | SMALLER]:
        raise ValueError(f"relations: must be larger, bigger or smaller (got {unknown[0]!r})")
    if boxes is None:
        return {"size_accuracy": share(False)}
    words = [relations[0]] * (len(objects) - len(relations)) + list(relations[1:])
    right = all(
        area(boxes[0]) > area(other) if word in LARGER else area(boxes[0]) < area(other)
        for word, other in zip(words, boxes[1:], strict=True)
    )
    return {"size_accuracy": share(right)}


_RELATED = {"spatial": spatial, "size": size}


def colour(
    detections: Sequence[Detection], objects: Sequence[tuple[str, str]], mode: Mode = "official"
) -> Observations:
    """``color_accuracy`` of one picture: objects (name, colour) that are there in their colour, over objects."""
    hits = 0
    for name, wanted in objects:
        group = [d for d in surest_first(detections) if d.label == name]
        considered = group if is_official(mode) else group[:1]
        hits += any(thing.colour == wanted for thing in considered)
    return {"color_accuracy": (float(hits), float(len(objects)))}


def overall(levels: Sequence[Sequence[Observations]], mode: Mode = "official") -> dict[str, float]:
    """The value over all levels, of the observations of each: the mean of the levels' own values, in ``fixed`` mode
    that of all pictures together."""
    if not is_official(mode):
        return aggregate(row for rows in levels for row in rows)
    values = [aggregate(rows) for rows in levels]
    return {name: sum(value[name] for value in values) / len(values) for name in values[0]}


def _boxes(detections: Sequence[Detection], objects: Sequence[str], mode: Mode) -> list[Corners] | None:
    """The box of each object, or None where one is missing."""
    if not 2 <= len(objects) <= 4:
        raise ValueError(f"objects: must be 2 to 4 names (got {len(objects)})")
    ordered = surest_first(detections)
    if not is_official(mode):
        ordered.reverse()
    last = {detection.label: detection.box for detection in ordered}
    return [last[name] for name in objects] if all(name in last for name in objects) else None


def _holds(one: Corners, two: Corners, relation: str, mode: Mode) -> bool:
    for side, (words, *_) in _SIDES.items():
        if relation in words:
            return _beyond(one, two, side, is_official(mode))
    raise ValueError(f"relations: {relation!r} is none of HRS-Bench's; use left, right, above or below")


def _beyond(one: Corners, two: Corners, side: str, official: bool) -> bool:
    _words, edges, axis, sign = _SIDES[side]
    pairs = [(one[e], two[e]) for e in edges] if official else [(centre(one)[axis], centre(two)[axis])]
    return any(sign * (mine - other) > 0 for mine, other in pairs)


def _between(one: Corners, two: Corners, three: Corners, official: bool) -> bool:
    """Between two boxes on either axis, in either order."""
    opposite = (("left", "right"), ("right", "left"), ("above", "below"), ("below", "above"))
    return any(_beyond(one, two, a, official) and _beyond(one, three, b, official) for a, b in opposite)
