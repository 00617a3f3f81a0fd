"""Asks a planner for boxes, in units of a run: for all prompts of a benchmark, or for those that have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from trueline.chat.answered import Answered
from trueline.engine import Phase
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example
from trueline.evaluation.drawing_list import choose
from trueline.evaluation.layout_scores import Answer
from trueline.evaluation.planned_benchmark import PlannedBenchmark
from trueline.files import Job, Outcome, RunFolder, file_digest, json_digest, json_lines
from trueline.layout import Layout, read_layouts
from trueline.planner.layouts import KEY, filled, notes_of, planned_by, without_plan
from trueline.planner.replay import ReplayPlanner

if TYPE_CHECKING:
    from trueline.planner import Planner

AT_ONCE = 16  #: plans in a unit


@dataclass(frozen=True)
class Question:
    """One plan to make. ``name``: of the layout. ``seed``: None for the usual plan."""

    example: Example
    name: str
    seed: int | None = None


def questions(examples: Sequence[Example], seeds: Sequence[int] = ()) -> list[Question]:
    """For all prompts, one for each seed; without seeds one each, for the usual plan."""
    return [
        Question(example, f"{example.id}-{copy}" if len(seeds) > 1 else example.id, seed)
        for example in examples
        for copy, seed in enumerate(seeds or [None])
    ]


@dataclass(frozen=True)
class Asking:
    """A planner, and all that it is asked.

    Args:
        spec: what the user named it by, such as "llm:MODEL".
        settings: that the user gave it.
        place: folder below the run's, for the plans.
    """

    planner: Planner
    questions: Sequence[Question]
    spec: str
    settings: dict[str, Any]
    place: str = "plans"

    @property
    def repeatable(self) -> bool:
        """Whether it plans the same again, wherever it is asked."""
        return self.spec.partition(":")[0] != "llm"

    def to_json(self) -> dict[str, Any]:
        """Who is asked: plans of another are other plans."""
        about: dict[str, Any] = {"name": self.spec, "settings": self.settings}
        if isinstance(self.planner, ReplayPlanner):
            about["sha256"] = file_digest(self.planner.path)
        return about

    def phase(self, mark: str = "") -> Phase:
        """``mark``: in the units' names, where the run's settings do not say who is asked."""
        numbers = range((len(self.questions) + AT_ONCE - 1) // AT_ONCE)
        jobs = []
        for number in numbers:
            names = (question.name for question in self._of(number))
            jobs.append(Job(f"{self.place}{mark}/{number:05d}", number, tuple(names)))
        return Phase("planning", jobs, lambda: self._ask)

    def mark(self) -> str:
        """For ``phase``."""
        return f"-{json_digest(self.to_json())[:8]}"

    def plans(self, run: RunFolder, phase: Phase) -> Plans:
        """What was answered, when the phase is done."""
        layouts = [layout for job in phase.jobs for layout in read_layouts(run.path / self._file(job.spec))]
        seconds = sum(run.about(job).get("seconds", 0.0) for job in phase.jobs)
        return Plans.of(self.planner.name, self.questions, layouts, seconds)

    def _of(self, number: int) -> Sequence[Question]:
        return self.questions[number * AT_ONCE : (number + 1) * AT_ONCE]

    def _file(self, number: int) -> str:
        return f"{self.place}/{number:05d}.jsonl"

    def _ask(self, job: Job) -> Outcome:
        layouts = [self._answer(question).to_record() for question in self._of(job.spec)]
        return Outcome({self._file(job.spec): json_lines(layouts)})

    def _answer(self, question: Question) -> Layout:
        layout = question.example.layout
        bare = layout.model_copy(update={"regions": (), "id": question.name})
        try:
            planned = self.planner.plan(
                layout.prompt, width=layout.width, height=layout.height, seed=question.seed
            )
        except (ValueError, OSError) as error:
            return without_plan(bare, self.planner.name, " ".join(str(error).split()))
        return filled(bare, planned, self.planner.name)


@dataclass(frozen=True)
class Plans:
    """What a planner answered, prompt by prompt."""

    planner: str
    layouts: Sequence[Layout]
    answers: Sequence[Answer]
    refused: Sequence[str]  #: "ID: sentence" of the prompts without a plan
    seconds: float

    @classmethod
    def of(
        cls, planner: str, asked: Sequence[Question], layouts: Sequence[Layout], seconds: float = 0.0
    ) -> Self:
        """``layouts``: the answers, which say who planned them."""
        answers, refused = [], []
        for question, layout in zip(asked, layouts, strict=True):
            about, by = layout.meta[KEY], planned_by(layout)
            boxes = [region.box.xyxy for region in layout.regions]
            things = tuple(zip(about.get("names", ()), boxes, strict=True))
            answers.append(Answer(question.example, things, "" if by == planner else by))
            if "error" in about:
                refused.append(f"{question.name}: {about['error']}")
        return cls(planner, layouts, answers, refused, seconds)

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


def bare_places(benchmark: Benchmark, n: int | None = None) -> list[int]:
    """Of the examples without boxes, among the ``n`` prompts that are drawn (None: all).

    Raises:
        ValueError: there is nothing to plan.
    """
    chosen = choose(benchmark.examples, n)
    places = [place for place in chosen if not benchmark.examples[place].layout.regions]
    if not places:
        raise ValueError(f"planner: all prompts of {benchmark.name} have boxes of their own; leave it out")
    return places


def with_plans(benchmark: Benchmark, places: Sequence[int], plans: Plans) -> PlannedBenchmark:
    """The benchmark with planned boxes at these places."""
    planned = {
        place: layout.model_copy(update={"id": benchmark.examples[place].layout.id})
        for place, layout in zip(places, plans.layouts, strict=True)
    }
    return PlannedBenchmark(benchmark, planned, plans.planner)
