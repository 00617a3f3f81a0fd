"""A benchmark whose prompts without boxes have planned ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trueline.evaluation.benchmarks import Benchmark, Example
from trueline.files import Folder
from trueline.layout import Layout


class PlannedBenchmark:
    """``benchmark`` with ``plans`` for some of its examples, by their places; all else is its own.

    ``digest`` of the planned boxes belongs to the settings of a run: pictures of other boxes are other pictures.
    """

    def __init__(self, benchmark: Benchmark, plans: Mapping[int, Layout], planner: str):
        self.benchmark, self.plans = benchmark, plans
        self.name = benchmark.name
        self.source = f"{benchmark.source}; {len(plans)} layouts without boxes are planned by {planner}"
        self.examples = [
            dataclasses.replace(example, layout=plans.get(place, example.layout))
            for place, example in enumerate(benchmark.examples)
        ]
        self.digest = _digest(plans)

    def reference(self, example: Example) -> Any:
        return self.benchmark.reference(example)

    def keep(self, folder: Folder) -> Path:
        """Write plans.jsonl: the layouts with what their planner said of them."""
        return folder.write("plans.jsonl", lambda file: file.write(jsonl(self.plans.values())))

    def __getattr__(self, name: str) -> Any:
        """What only some benchmarks have, such as ``has_reference``."""
        if name == "benchmark":  # not yet there: a copy is being made
            raise AttributeError(name)
        return getattr(self.benchmark, name)


def jsonl(layouts: Iterable[Layout]) -> bytes:
    """JSON Lines that ``layout.read_layouts`` gives back equal."""
    return "".join(json.dumps(each.to_record(), ensure_ascii=False) + "\n" for each in layouts).encode()


def _digest(plans: Mapping[int, Layout]) -> str:
    """Of what is drawn: phrases and boxes, not what the planner said of them."""
    drawn = [
        [place, [region.model_dump(mode="json") for region in plans[place].regions]]
        for place in sorted(plans)
    ]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()
