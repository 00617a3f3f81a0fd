"""Asks a planner for boxes: for the prompts of a benchmark, or for those of them that have none."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from trueline.chat.answered import NOBODY, Answered
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example
from trueline.evaluation.drawing_list import choose
from trueline.evaluation.layout_scores import Answer
from trueline.evaluation.planned_benchmark import PlannedBenchmark
from trueline.layout import Layout
from trueline.planner.layouts import filled, notes_of, without_plan

if TYPE_CHECKING:
    from trueline.planner import Planned, Planner


@dataclass
class Plans:
    """What a planner answered, prompt by prompt."""

    planner: str
    layouts: list[Layout] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  #: "ID: sentence" of the prompts without a plan
    seconds: float = 0.0

    def add(self, example: Example, name: str, planned: Planned | str) -> None:
        """A plan, or the sentence that says why there is none."""
        bare = example.layout.model_copy(update={"regions": (), "id": name})
        if isinstance(planned, str):
            self.layouts.append(without_plan(bare, self.planner, planned))
            self.answers.append(Answer(example, by=NOBODY))
            self.refused.append(f"{name}: {planned}")
            return
        self.layouts.append(filled(bare, planned, self.planner))
        boxes = [region.box.xyxy for region in planned.layout.regions]
        by = "" if planned.planner == self.planner else planned.planner
        self.answers.append(Answer(example, tuple(zip(planned.names, boxes, strict=True)), by))

    @property
    def answered(self) -> Answered:
        return Answered.of(self.planner, (answer.by for answer in self.answers))

    def remarks(self) -> list[str]:
        count = len(self.answers)
        said = [f"{count} plans in {self.seconds:.1f} s, {1000 * self.seconds / max(count, 1):.0f} ms each"]
        if self.refused:
            few = f"{len(self.refused)} of {count} plans could not be made and are without boxes"
            said.append(f"{few}; the first: {self.refused[0]}")
        if told := self.answered.told:
            said.append(f"not all plans are its own: {told}")
        if noted := sum(bool(notes_of(layout)) for layout in self.layouts):
            said.append(f"{noted} of {count} plans have notes")
        return said


def ask(
    planner: Planner, examples: Sequence[Example], seeds: Sequence[int] = (), progress: bool = False
) -> Plans:
    """Plans for all prompts, one for each seed; without seeds one each, the usual one."""
    plans, start = Plans(planner.name), time.monotonic()
    wanted: list[tuple[Example, str, int | None]] = [
        (example, f"{example.id}-{copy}" if len(seeds) > 1 else example.id, seed)
        for example in examples
        for copy, seed in enumerate(seeds or [None])
    ]
    shown = progress and sys.stderr.isatty()
    for example, name, seed in tqdm(wanted, desc=planner.name, unit="plan", disable=not shown):
        layout = example.layout
        try:
            planned = planner.plan(layout.prompt, width=layout.width, height=layout.height, seed=seed)
        except (ValueError, OSError) as error:
            plans.add(example, name, " ".join(str(error).split()))
        else:
            plans.add(example, name, planned)
    plans.seconds = time.monotonic() - start
    return plans


def with_plans(
    benchmark: Benchmark, planner: Planner, n: int | None = None, progress: bool = False
) -> tuple[PlannedBenchmark, Plans]:
    """The benchmark with planned boxes where it has none, among the ``n`` prompts that are drawn (None: all).

    Raises:
        ValueError: there is nothing to plan.
    """
    chosen = choose(benchmark.examples, n)
    places = [place for place in chosen if not benchmark.examples[place].layout.regions]
    if not places:
        raise ValueError(f"planner: all prompts of {benchmark.name} have boxes of their own; leave it out")
    plans = ask(planner, [benchmark.examples[place] for place in places], progress=progress)
    planned = {
        place: layout.model_copy(update={"id": benchmark.examples[place].layout.id})
        for place, layout in zip(places, plans.layouts, strict=True)
    }
    return PlannedBenchmark(benchmark, planned, planner.name), plans
