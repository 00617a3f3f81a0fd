"""7Bench (ICIAP 2025, arXiv 2508.12919): 224 layouts in seven scenarios, each with its prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from trueline.evaluation.benchmarks._collect import Collector, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Size, Source, data_folder
from trueline.evaluation.metrics.detection import Truth, layout_score
from trueline.evaluation.metrics.observations import Mode, Observations
from trueline.files import read_table
from trueline.perception import Detection

SOURCE = Source("Elizzo/7Bench", "c59ba3be05e3", "MIT")
CANVAS = 512  #: pixels
SLOTS = range(1, 5)


class SevenBench(Benchmark):
    """32 layouts of each scenario (``category``), 576 boxes in all, one to four a picture.

    ``truth``: ``labels`` and ``boxes``, xyxy in 0..1 as in the file: times 512 they are its pixels, exactly.
    Regions are the same, except for one box of layout 030 (a table), which is a point: no region can be made of it,
    the scorers see it. Ids: ``object_binding-000012``, by the file's own id.
    """

    name = "7bench"
    needs: ClassVar[Needs] = {"layout_auc": ("detector",)}

    def __init__(self, data: str | Path | None = None):
        self.source = str(SOURCE)
        path = data_folder(data, SOURCE) / "7bench" / "7bench.csv"
        columns = ["id", "category", "prompt", *(f"{kind}{i}" for i in SLOTS for kind in ("obj", "bbox"))]
        collector = Collector(self.name)
        for line, row in read_table(path, SOURCE.cure, columns):
            with row_of(path, line, SOURCE.cure):
                things = [(row[f"obj{i}"], _pixels(row[f"bbox{i}"])) for i in SLOTS if row[f"obj{i}"]]
                truth = {
                    "labels": [label for label, _ in things],
                    "boxes": [[value / CANVAS for value in box] for _, box in things],
                }
                id = f"{row['category']}-{int(row['id']):06d}"
                collector.add(id, row["prompt"], row["category"], truth, collector.regions(things, CANVAS))
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        return list(dict.fromkeys(example.truth["labels"]))

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        sure = [d for d in detections if d.score > threshold]
        boxes = zip(example.truth["labels"], example.truth["boxes"], strict=True)
        return layout_score(sure, [Truth(label, tuple(box)) for label, box in boxes], size, mode)


def _pixels(text: str) -> list[float]:
    """x_min, y_min, x_max, y_max."""
    values = [float(value) for value in text.split(",")]
    if len(values) != 4:
        raise ValueError(f"a box has four numbers (got {text!r})")
    return values
