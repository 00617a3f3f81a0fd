"""MultiGen (TokenCompose, Wang et al. 2024): prompts of five categories each, from COCO and from ADE20K."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trueline.evaluation.benchmarks import Example, data_folder
from trueline.evaluation.benchmarks._collect import Collector, chosen, row_of
from trueline.evaluation.benchmarks._files import Source
from trueline.files import read_json_list

SOURCE = Source("mlpc-ucsd/TokenCompose", "5633f816116f", "Apache-2.0")
FILES = {"coco": "coco_obj_comp_5_1k.json", "ade20k": "ade20k_obj_comp_5_1k.json"}


class MultiGen:
    """1,000 prompts of each of ``categories`` (coco, ade20k). ``truth``: ``objects``, the five names. Ids:
    ``coco-000012``, by the file's ``unique_id``."""

    name = "multigen"

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
        self.examples = collector.finish()
        self.left_out = dict(collector.left_out)

    def reference(self, example: Example) -> None:
        """There are no real pictures."""
        return None
