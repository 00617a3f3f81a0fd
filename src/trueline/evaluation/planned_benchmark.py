"""A benchmark whose prompts without boxes have planned ones."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trueline.chat.answered import Answered
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example
from trueline.files import Folder, json_lines
from trueline.layout import Layout
from trueline.planner.layouts import planned_by

if TYPE_CHECKING:
    from PIL.Image import Image


class PlannedBenchmark(Benchmark):
    """``benchmark`` with ``plans`` for some of its examples, by their places; its pictures are its own. The rule
    stays that of the benchmark's class."""

    def __init__(self, benchmark: Benchmark, plans: Mapping[int, Layout], planner: str):
        self.benchmark, self.plans = benchmark, plans
        self.answered = Answered.of(planner, map(planned_by, plans.values()))
        self.name = benchmark.name  # type: ignore[misc]
        planners = self.answered.label
        self.source = f"{benchmark.source}; {len(plans)} layouts without boxes are planned by {planners}"
        self.examples = [
            dataclasses.replace(example, layout=plans.get(place, example.layout))
            for place, example in enumerate(benchmark.examples)
        ]

    def reference(self, example: Example) -> Image | None:
        return self.benchmark.reference(example)

    def has_reference(self, example: Example) -> bool:
        return self.benchmark.has_reference(example)

    def planners(self, category: str = "") -> dict[str, int]:
        """Who made how many of the plans; of those of a category, unless it is ""."""
        of = (self.examples[place].category for place in self.plans)
        made = zip(of, self.plans.values(), strict=True)
        return dict(Counter(planned_by(plan) for each, plan in made if category in ("", each)))

    def keep(self, folder: Folder) -> Path:
        """Write plans.jsonl: the layouts with what their planner said of them."""
        content = json_lines(layout.to_record() for layout in self.plans.values())
        return folder.write("plans.jsonl", lambda file: file.write(content))
