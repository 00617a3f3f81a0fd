"""GenEval (Ghosh et al. 2023): 553 prompts in six tasks, four pictures each in its protocol.

GenEval: is everything there that the prompt asks for, in number, colour and place?

Source: djghosh13/geneval@af4902f24d3c, ``evaluation/evaluate_images.py``. There Mask2Former detects, and CLIP
ViT-L/14 reads each object's colour off its crop; here ``Detection.colour`` holds it.

Quirk kept by ``official``: two objects on a diagonal can stand in two relations at once ("left of" and "above");
``fixed`` takes the axis with the larger distance only. For both modes: only the surest objects of a class, as many as
asked for, are checked for colour and place; counting prompts exclude one more than asked for.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from trueline.boxes import Corners, centre, scaled
from trueline.evaluation.benchmarks._collect import Collector, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Size, Source, data_folder
from trueline.evaluation.metrics.detection import surest_first
from trueline.evaluation.metrics.observations import Mode, Observation, Observations, is_official, share
from trueline.files import read_json_lines
from trueline.perception import Detection

SOURCE = Source("djghosh13/geneval", "af4902f24d3c", "MIT")


class GenEval(Benchmark):
    """``category``: the task (single_object, two_object, counting, colors, position, color_attr). ``truth``: the
    line of ``evaluation_metadata.jsonl``, as ``correct`` takes it: ``tag``, ``include``
    (clauses of ``class``, ``count`` and perhaps ``color`` or ``position``), perhaps ``exclude``.
    Ids: ``counting-000012``, by line of the whole file from 0.
    """

    name = "geneval"
    pictures = "{index:05d}/samples/{k:05d}.png"
    needs: ClassVar[Needs] = {"accuracy": ("detector", "embedder")}
    colours = "clip"

    def __init__(self, data: str | Path | None = None):
        self.source = str(SOURCE)
        path = data_folder(data, SOURCE) / "geneval" / "evaluation_metadata.jsonl"
        collector = Collector(self.name)
        for line, row in read_json_lines(path, SOURCE.cure):
            with row_of(path, line, SOURCE.cure):
                truth = {"tag": row["tag"], "include": _clauses(row["include"])}
                if "exclude" in row:
                    truth["exclude"] = _clauses(row["exclude"])
                collector.add(f"{row['tag']}-{line - 1:06d}", row["prompt"], row["tag"], truth)
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        clauses = [*example.truth["include"], *example.truth.get("exclude", ())]
        return list(dict.fromkeys(clause["class"] for clause in clauses))

    @staticmethod
    def asks_colours(example: Example) -> bool:
        return any("color" in clause for clause in example.truth["include"])

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        return {"accuracy": share(correct(detections, example.truth, size, mode))}

    @staticmethod
    def group(example: Example, mode: Mode) -> str:
        """The official value is the mean over the tasks."""
        return example.category


def _clauses(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(clause, dict) for clause in given):
        raise ValueError("include and exclude must be lists of objects")
    for clause in given:
        if not isinstance(clause["class"], str) or type(clause["count"]) is not int:
            raise ValueError("a clause has a class, which is text, and a count, which is a whole number")
    return given


# The rule


TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MAX_OBJECTS = 16  # of a class
SHRINK = 0.1  # of the sum of both sizes
MIN_SHARE = 0.5  # of the distance


def relations(
    first: Corners, second: Corners, image_size: tuple[int, int] = (512, 512), mode: Mode = "official"
) -> set[str]:
    """Where the first box is, seen from the second: "left of", "right of", "above", "below"; none if they overlap
    much. ``image_size`` is (width, height) in pixels.

    The distance of the centres is shortened, per axis, by a tenth of the sum of both sizes, and must be more than
    half of the whole, unshortened distance.
    """
    official = is_official(mode)
    one, two = scaled(first, image_size), scaled(second, image_size)
    (x1, y1), (x2, y2) = centre(one), centre(two)
    dx = _shrunk(x1 - x2, SHRINK * (one[2] - one[0] + two[2] - two[0]))
    dy = _shrunk(y1 - y2, SHRINK * (one[3] - one[1] + two[3] - two[1]))
    if max(abs(dx), abs(dy)) < 1e-3:  # pixels
        return set()
    if not official:
        dx, dy = (dx, 0.0) if abs(dx) >= abs(dy) else (0.0, dy)
    limit = MIN_SHARE * math.hypot(x1 - x2, y1 - y2)
    names = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return {name for name, distance in names.items() if distance > limit}


def _shrunk(offset: float, by: float) -> float:
    return math.copysign(max(abs(offset) - by, 0.0), offset)


def kept(detections: Iterable[Detection], tag: str) -> dict[str, list[Detection]]:
    """Detections by label, surest first: above the task's threshold, at most 16 of a label."""
    threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    groups: dict[str, list[Detection]] = {}
    for detection in surest_first(detections):
        if detection.score > threshold:
            groups.setdefault(detection.label, []).append(detection)
    return {label: group[:MAX_OBJECTS] for label, group in groups.items()}


def correct(
    detections: Sequence[Detection],
    metadata: Mapping[str, Any],
    image_size: tuple[int, int] = (512, 512),
    mode: Mode = "official",
) -> bool:
    """Whether a picture fulfils a line of GenEval's ``evaluation_metadata.jsonl``: ``tag``, ``include`` (class, count
    and perhaps color or position) and ``exclude`` (class, count)."""
    is_official(mode)
    objects = kept(detections, metadata["tag"])
    groups: list[list[Detection] | None] = []  # of each clause; None where it is not fulfilled
    for clause in metadata.get("include", ()):
        group: list[Detection] | None = objects.get(clause["class"], [])[: clause["count"]]
        if not _fulfils(group or [], clause, groups, image_size, mode):
            group = None
        groups.append(group)
    too_many = any(len(objects.get(no["class"], ())) >= no["count"] for no in metadata.get("exclude", ()))
    return None not in groups and not too_many


def _fulfils(
    group: Sequence[Detection],
    clause: Mapping[str, Any],
    groups: Sequence[Sequence[Detection] | None],
    image_size: tuple[int, int],
    mode: Mode,
) -> bool:
    if len(group) < clause["count"]:
        return False
    if "color" in clause and any(thing.colour != clause["color"] for thing in group):
        return False
    if "position" not in clause:
        return True
    relation, target = clause["position"]
    others = groups[target]
    return others is not None and all(
        relation in relations(thing.box, other.box, image_size, mode) for thing in group for other in others
    )


def overall(tasks: Mapping[str, Observation]) -> float:
    """GenEval's score: the mean of the six tasks' accuracies, whatever their number of pictures. ``tasks``: correct
    pictures and pictures by tag.

    Raises:
        ValueError: a task has no pictures.
    """
    if missing := [tag for tag in TASKS if not tasks.get(tag, (0.0, 0.0))[1]]:
        raise ValueError(f"{', '.join(missing)}: no pictures; GenEval's overall score needs all six tasks")
    return sum(tasks[tag][0] / tasks[tag][1] for tag in TASKS) / len(TASKS)
