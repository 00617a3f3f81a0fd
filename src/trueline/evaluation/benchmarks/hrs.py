"""HRS-Bench (Bakr et al. 2023) in the version of Attention-Refocusing, with its GPT-4 boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trueline.evaluation.benchmarks import Example, data_folder
from trueline.evaluation.benchmarks._collect import Collector, chosen, row_of
from trueline.evaluation.benchmarks._files import Source
from trueline.evaluation.rules.hrs import level
from trueline.files import read_json_object, read_table

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


class Part(NamedTuple):
    """One category. ``boxes``: files of ``gpt4_boxes``, which together cover nearly all of its prompts."""

    file: str
    prompt: str
    boxes: tuple[str, ...]
    truth: Callable[[Row], dict[str, Any]]


PARTS = {
    "counting": Part(
        "counting_prompts.csv",
        "synthetic_prompt",
        ("counting", "counting_500_1499", "counting_1500_2499", "counting_5"),
        _counting,
    ),
    "spatial": Part("spatial_compositions_prompts.csv", "meta_prompt", ("spatial", "spatial_2"), _related),
    "size": Part("size_compositions_prompts.csv", "meta_prompt", ("size",), _related),
    "color": Part("colors_composition_prompts.csv", "meta_prompt", ("color",), _coloured),
}


class HRS:
    """3,000 counting, 1,002 spatial, 501 size and 501 color prompts; equal prompts stay apart, with ids of their own.

    ``truth``: ``index`` in its category, from 0; ``level`` 0, 1, 2 (easy, medium, hard: equal thirds in order);
    counting: ``counts`` [[object, n]], in which an object may come twice; spatial and size: ``objects`` and
    ``relations``; color: ``objects`` [[name, colour]]. Ids: ``spatial-000012``, by row from 0.

    ``gpt4_boxes``: regions where the folder of that name has a layout for the prompt; without the folder none.
    Its names are kept as they are ("person_sitting").
    """

    name = "hrs"

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
        self.examples = collector.finish()
        self.left_out = dict(collector.left_out)

    def reference(self, example: Example) -> None:
        """There are no real pictures."""
        return None


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
