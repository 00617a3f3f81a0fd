"""``trueline evaluate`` of planners: ``nsr-1k-layout`` and ``t2i-compbench-layout`` score boxes by published rules.

They write results.json, results.md and, for each planner that was asked, plans/NAME.jsonl, which ``trueline generate
--layout`` reads.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.commands._engine import recorded_end
from trueline.commands._methods import Given
from trueline.commands._planners import PLANS, check_planners, make_chosen, not_as_asked
from trueline.commands._rows import compared_with, write_rows
from trueline.engine import Engine, carry_out
from trueline.evaluation.drawing_list import choose
from trueline.evaluation.layout_scores import Answer, examples_of, published, rows, unscored
from trueline.evaluation.planning import Asking, questions
from trueline.files import RunFolder, json_digest, json_lines
from trueline.layout import Layout
from trueline.sampling.records import commit

if TYPE_CHECKING:
    from trueline.chat.answered import Answered
    from trueline.evaluation.benchmarks.benchmark import Example
    from trueline.planner import Planner

OF_PICTURES = ("methods", "images", "judges", "export")  #: options that plans have no use for
_NAMED = re.compile(r"([A-Za-z0-9][\w.+-]{0,60})=(.+)", re.DOTALL)
PUBLISHED = "replay:"
ASKED = {"prompt", "width", "height"}  #: what a planner is told of a layout


@dataclass(frozen=True)
class Column:
    """One planner of the table: ``gpt4=replay:COUNTING.json,SPATIAL.json``. ``planner`` None: the plans are scored as
    they were published, flaws and all."""

    name: str
    spec: str
    planner: Planner | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Column:
        match = _NAMED.fullmatch(text)
        if match:
            return cls(match[1], match[2])
        if text.startswith(PUBLISHED):
            return cls(" ".join(file.stem for file in _files(text)), text)
        return cls(text, text)

    def made(self, benchmark: str, given: Given) -> Column:
        """With its planner. One without a name of its own has the planner's, which may say more ("rules[spacy]")."""
        published = self.spec.startswith(PUBLISHED)
        if (
            published
            and benchmark == "nsr-1k-layout"
            and not any(file.suffix == ".jsonl" for file in _files(self.spec))
        ):
            return self
        kind = self.spec.partition(":")[0]
        (planner,) = make_chosen([self.spec], {name: given[name] for name in given if name == kind})
        name = planner.name if self.name == self.spec else self.name
        return replace(self, name=name, planner=planner, settings=given.get(kind, {}))

    @property
    def file(self) -> str:
        """A name for its plans that every file system takes."""
        return re.sub(r"[^\w.+-]+", "-", self.name, flags=re.ASCII).strip("-.") or "planner"


@dataclass
class LayoutScores:
    """One run of several planners.

    Args:
        examples: to be planned, of ``everything``.
        seeds: one for each plan of a prompt; none: one plan, the usual one.
    """

    options: argparse.Namespace
    columns: Sequence[Column]
    examples: Sequence[Example]
    seeds: Sequence[int]
    command: str
    engine: Engine
    answers: dict[str, Sequence[Answer]]
    said: dict[str, list[str]]

    def __call__(self) -> int:
        """Plan what is not planned yet, and score all; the exit code."""
        options, wanted = self.options, questions(self.examples, self.seeds)
        prompts = {each.id: each.layout.model_dump(mode="json", include=ASKED) for each in self.examples}
        about = {"benchmark": options.benchmark, "n": options.n, "seeds": list(self.seeds)}
        about["prompts"] = json_digest(prompts)
        self.run = RunFolder(options.out, "evaluate", about, [question.name for question in wanted])
        self.asked = {
            each.name: Asking(each.planner, wanted, each.spec, each.settings, f"plans/{each.file}")
            for each in self.columns
            if each.planner is not None
        }
        self.phases = {name: asking.phase(asking.mark()) for name, asking in self.asked.items()}
        with recorded_end(self._stopped):
            if not carry_out(self.run, self.phases.values(), self.engine, options.quiet):
                return 0
            with self.run.alone("end", wait=True):
                return self._finish()

    def _finish(self) -> int:
        options, answers = self.options, {}
        planned: dict[str, Answered | None] = {}
        for column in self.columns:
            answers[column.name], said = self.answers.get(column.name, ()), self.said.get(column.name, [])
            if column.name in self.asked:
                plans = self.asked[column.name].plans(self.run, self.phases[column.name])
                said = [*plans.remarks(), f"all of them are in {self._keep(column, plans.layouts)}"]
                answers[column.name] = plans.answers
                planned[f"{PLANS} of {column.name}"] = plans.answered
            for sentence in [*said, *unscored(options.benchmark, answers[column.name], options.mode)]:
                print(f"trueline: {column.name}: {sentence}", file=sys.stderr)
        seeded = dict.fromkeys(self.asked, self.seeds)
        against = compared_with(options.against, list(answers))
        table = rows(options.benchmark, answers, seeded, options.mode, self.command, commit(), against)
        print(write_rows(self.run, table))
        self._close("complete")
        return not_as_asked(planned)

    def _keep(self, column: Column, layouts: Sequence[Layout]) -> Path:
        content = json_lines(layout.to_record() for layout in layouts)
        return self.run.write(f"plans/{column.file}.jsonl", lambda file: file.write(content))

    def _stopped(self, status: str) -> None:
        if not self.run.forget():
            self._close(status)

    def _close(self, status: str) -> None:
        self.run.close(status, [job for phase in self.phases.values() for job in phase.jobs])


def score(
    options: argparse.Namespace,
    of_benchmark: dict[str, Any],
    seeds: Sequence[int],
    command: str,
    given: Given,
    engine: Engine,
) -> int:
    """One run; the exit code. ``of_benchmark``: its own options. ``seeds``: one for each plan of a prompt; none: one
    plan, the usual one."""
    columns = _columns(options, given)
    compared_with(options.against, [column.name for column in columns])
    everything = examples_of(options.benchmark, options.data, **of_benchmark)
    examples = [everything[place] for place in choose(everything, options.n)]
    answers: dict[str, Sequence[Answer]] = {}
    said: dict[str, list[str]] = {}
    for column in (each for each in columns if each.planner is None):
        answers[column.name], said[column.name] = published(_files(column.spec), examples, everything)
        if not answers[column.name]:
            raise ValueError(f"--planner: {column.spec} answers none of the prompts; leave it out")
    return LayoutScores(options, columns, examples, seeds, command, engine, answers, said)()


def _columns(options: argparse.Namespace, given: Given) -> list[Column]:
    if not options.planner:
        raise ValueError("--planner: say who plans: rules, llm:MODEL, or replay:FILE for published layouts")
    wrong = [name for name in OF_PICTURES if getattr(options, name)]
    if wrong := [*wrong, *(["shard"] if options.shard != "1/1" else [])]:
        raise ValueError(
            f"--{wrong[0]}: belongs to benchmarks with pictures; {options.benchmark} is about boxes"
        )
    columns = [Column.of(text) for text in options.planner]
    check_planners([column.spec for column in columns], given)
    columns = [column.made(options.benchmark, given) for column in columns]
    names = [column.file.casefold() for column in columns]
    if twice := [column.name for column in columns if names.count(column.file.casefold()) > 1]:
        raise ValueError(f"--planner: {twice[0]} is there twice; give names, as in NAME=replay:FILE")
    return columns


def _files(spec: str) -> list[Path]:
    """The files of ``replay:A,B``, together one planner's; of a file with a comma in its name, just that."""
    text = spec.removeprefix(PUBLISHED)
    parts = [text] if Path(text).is_file() else [part for part in text.split(",") if part]
    if not parts:
        raise ValueError("--planner: write published layouts as replay:FILE, or replay:FILE,FILE")
    return [Path(part) for part in parts]
