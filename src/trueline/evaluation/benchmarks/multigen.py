"""MultiGen (TokenCompose, Wang et al. 2024): prompts of five categories each, from COCO and from ADE20K.

MultiGen (TokenCompose): how many of a prompt's five categories are in the picture?

Source: mlpc-ucsd/TokenCompose@b91b0b280b76, ``multigen/gen_multigen_scores.py``. No mode, for the rule has no quirk:
a label counts once, whatever the number of its detections.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from trueline.evaluation.benchmarks._collect import Collector, chosen, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Needs, Size, Source, data_folder
from trueline.evaluation.metrics.observations import Mode, Observations, share
from trueline.files import read_json_list
from trueline.perception import Detection

SOURCE = Source("mlpc-ucsd/TokenCompose", "5633f816116f", "Apache-2.0")
THRESHOLD = 0.1  #: of a detection's score
FILES = {"coco": "coco_obj_comp_5_1k.json", "ade20k": "ade20k_obj_comp_5_1k.json"}


class MultiGen(Benchmark):
    """1,000 prompts of each of ``categories`` (coco, ade20k). ``truth``: ``objects``, the five names. Ids:
    ``coco-000012``, by the file's ``unique_id``."""

    name = "multigen"
    needs: ClassVar[Needs] = {"mg1..mg5": ("detector",)}
    threshold = THRESHOLD

    def __init__(self, data: str | Path | None = None, categories: str | Sequence[str] = tuple(FILES)):
        self.source = str(SOURCE)
        self.categories = chosen("categories", categories, tuple(FILES))
        folder = data_folder(data, SOURCE) / "multigen"
        collector = Collector(self.name)
        for category in self.categories:
            path = folder / FILES[category]
            for number, row in enumerate(read_json_list(path, SOURCE.cure), start=1):
                with row_of(path, f"row {number}", SOURCE.cure):
                    objects = [" ".join(row[f"obj_{i}_attributes"]) for i in range(1, row["num_objects"] + 1)]
                    id = f"{category}-{int(row['unique_id']):06d}"
                    collector.add(id, row["text"], category, {"objects": objects})
        self.examples, self.left_out = collector.finish()

    @staticmethod
    def labels(example: Example) -> list[str]:
        return example.truth["objects"]

    @staticmethod
    def score(
        example: Example, detections: Sequence[Detection], size: Size, mode: Mode, threshold: float
    ) -> Observations:
        return multigen(detections, example.truth["objects"], threshold)


# The rule


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
