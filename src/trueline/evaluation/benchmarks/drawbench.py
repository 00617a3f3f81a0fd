"""DrawBench (Imagen, Saharia et al. 2022) with the labels and GPT-4 boxes of Attention-Refocusing."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from trueline.evaluation.benchmarks._collect import Collector, chosen, row_of
from trueline.evaluation.benchmarks.benchmark import Benchmark, Source, data_folder
from trueline.files import read_json_object, read_table

SOURCE = Source(
    "Attention-Refocusing/attention-refocusing",
    "2c265cbcac2e",
    "MIT; prompts by Google, no licence of their own",
)
#: Name -> its categories, None for all; "goal" is GOAL's user study, 94 prompts.
SUBSETS = {"all": None, "goal": ("Colors", "Descriptions", "Counting", "Positional", "Conflicting")}
CANVAS = 512  #: pixels, of the boxes
_RELATIONS = {"on top of": "above", "underneath": "below", "the left of": "left", "the right of": "right"}


class DrawBench(Benchmark):
    """200 prompts in 11 categories, in the file's order; ``subset="goal"`` has the 94 of GOAL's user study.

    ``truth`` of Counting: ``counts`` [[object, n]]; of Positional: ``objects`` and ``relations`` (above, below,
    left or right), as HRS-Bench's rules take them; of the others nothing, no automatic metric is defined for
    them. ``gpt4_boxes``: regions for Counting and Positional, the layouts that Attention-Refocusing drew.
    Ids: ``drawbench-000012``, by row from 0.
    """

    name = "drawbench"

    def __init__(self, data: str | Path | None = None, subset: str = "all", gpt4_boxes: bool = False):
        self.subset = chosen("subset", [subset], tuple(SUBSETS))[0]
        self.source = f"{SOURCE}, subset {subset}"
        folder = data_folder(data, SOURCE) / "drawbench"
        table = folder / "drawbench.csv"
        counting = read_json_object(folder / "counting_labels.json", SOURCE.cure)
        positional = read_json_object(folder / "positional_labels.json", SOURCE.cure)
        boxes: dict[str, Any] = {}
        if gpt4_boxes:
            for part in ("counting", "positional"):
                boxes |= read_json_object(folder / f"gpt4_boxes_{part}.json", SOURCE.cure)
        collector = Collector(self.name)
        wanted = SUBSETS[subset]
        for number, (line, row) in enumerate(read_table(table, SOURCE.cure, ("Prompts", "Category"))):
            prompt, category = row["Prompts"].strip(), row["Category"].strip()
            if wanted is not None and category not in wanted:
                continue
            with row_of(table, line, SOURCE.cure):
                truth = _truth(prompt, counting.get(prompt), positional.get(prompt))
                drawn = zip(*boxes.get(prompt, ((), ())), strict=True)
                collector.add(
                    f"drawbench-{number:06d}", prompt, category, truth, collector.regions(drawn, CANVAS)
                )
        self.examples, self.left_out = collector.finish()


def _truth(prompt: str, counting: Any, positional: Any) -> dict[str, Any]:
    if counting:
        return {"counts": [[name, n] for name, n in Counter(map(str.lower, counting)).items()]}
    relation = re.search("|".join(_RELATIONS), prompt)
    if positional and relation:
        return {"objects": [name.lower() for name in positional], "relations": [_RELATIONS[relation[0]]]}
    return {}
