"""Planners in ``trueline evaluate``: scored by themselves, or asked for the boxes of pictures.

``nsr-1k-layout`` and ``t2i-compbench-layout`` score boxes by the published rules. They write results.json, results.md
and, for each planner that was asked, plans/NAME.jsonl, which ``trueline generate --layout`` reads.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from trueline.commands._methods import Given
from trueline.commands._planners import check_planners, make_chosen
from trueline.commands._rows import compared_with, write_rows
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example
from trueline.evaluation.drawing_list import choose
from trueline.evaluation.layout_scores import Answer, examples_of, published, rows, unscored
from trueline.evaluation.planned_benchmark import PlannedBenchmark, jsonl
from trueline.files import Folder
from trueline.layout import Layout
from trueline.planner.layouts import KEY, filled, notes_of
from trueline.sampling.records import commit

if TYPE_CHECKING:
    from trueline.planner import Planned, Planner

OF_PICTURES = ("methods", "images", "judges", "export")  #: options that plans have no use for
_NAMED = re.compile(r"([A-Za-z0-9][\w.+-]{0,60})=(.+)", re.DOTALL)
PUBLISHED = "replay:"


@dataclass(frozen=True)
class Column:
    """One planner of the table: ``gpt4=replay:COUNTING.json,SPATIAL.json``. ``planner`` None: the plans are scored as
    they were published, flaws and all."""

    name: str
    spec: str
    planner: Planner | None = None

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
        return replace(self, name=name, planner=planner)

    @property
    def file(self) -> str:
        """A name for its plans that every file system takes."""
        return re.sub(r"[^\w.+-]+", "-", self.name, flags=re.ASCII).strip("-.") or "planner"


@dataclass
class Asked:
    """What a planner answered, and what is to be said of it."""

    layouts: list[Layout] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  #: "ID: sentence" of the prompts without a plan
    instead: int = 0  #: plans that another planner made

    def add(self, example: Example, name: str, planned: Planned | str, planner: str) -> None:
        """A plan, or the sentence that says why there is none."""
        bare = example.layout.model_copy(update={"regions": (), "id": name})
        if isinstance(planned, str):
            meta = bare.meta | {KEY: {"planner": planner, "error": planned}}
            self.layouts.append(bare.model_copy(update={"meta": meta}))
            self.answers.append(Answer(example))
            self.refused.append(f"{name}: {planned}")
            return
        self.layouts.append(filled(bare, planned))
        boxes = [region.box.xyxy for region in planned.layout.regions]
        self.answers.append(Answer(example, tuple(zip(planned.names, boxes, strict=True))))
        self.instead += planned.planner != planner

    def remarks(self, seconds: float) -> Iterator[str]:
        count = len(self.answers)
        yield f"{count} plans in {seconds:.1f} s, {1000 * seconds / max(count, 1):.0f} ms each"
        if self.refused:
            few = f"{len(self.refused)} of {count} plans could not be made and are without boxes"
            yield f"{few}; the first: {self.refused[0]}"
        if self.instead:
            yield f"{self.instead} of {count} plans were made by another planner in its place"
        if noted := sum(bool(notes_of(layout)) for layout in self.layouts):
            yield f"{noted} of {count} plans have notes"


def score(
    options: argparse.Namespace,
    of_benchmark: dict[str, Any],
    seeds: Sequence[int],
    command: str,
    given: Given,
) -> int:
    """One run; the exit code. ``of_benchmark``: its own options. ``seeds``: one for each plan of a prompt; none: one
    plan, the usual one."""
    columns = _columns(options, given)
    against = compared_with(options.against, [column.name for column in columns])
    everything = examples_of(options.benchmark, options.data, **of_benchmark)
    examples = [everything[place] for place in choose(everything, options.n)]
    folder = Folder(options.out)
    answers: dict[str, Sequence[Answer]] = {}
    seeded: dict[str, Sequence[int]] = {}
    for column in columns:
        if column.planner is None:
            answers[column.name], said = _published(column, examples, everything)
        else:
            start = time.monotonic()
            asked = ask(column.planner, examples, seeds, not options.quiet)
            said = list(asked.remarks(time.monotonic() - start))
            said.append(f"all of them are in {_keep(folder, column, asked.layouts)}")
            answers[column.name], seeded[column.name] = asked.answers, seeds
        for sentence in [*said, *unscored(options.benchmark, answers[column.name], options.mode)]:
            print(f"trueline: {column.name}: {sentence}", file=sys.stderr)
    table = rows(options.benchmark, answers, seeded, options.mode, command, commit(), against)
    print(write_rows(folder, table))
    return 0


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


def _published(
    column: Column, examples: Sequence[Example], everything: Sequence[Example]
) -> tuple[list[Answer], list[str]]:
    found, said = published(_files(column.spec), examples, everything)
    if not found:
        raise ValueError(f"--planner: {column.spec} answers none of the prompts; leave it out")
    return found, said


def ask(planner: Planner, examples: Sequence[Example], seeds: Sequence[int], progress: bool = False) -> Asked:
    """Plans for all prompts, one for each seed."""
    asked = Asked()
    jobs: list[tuple[Example, str, int | None]] = [
        (example, f"{example.id}-{copy}" if len(seeds) > 1 else example.id, seed)
        for example in examples
        for copy, seed in enumerate(seeds or [None])
    ]
    shown = progress and sys.stderr.isatty()
    for example, name, seed in tqdm(jobs, desc=planner.name, unit="plan", disable=not shown):
        layout = example.layout
        try:
            planned = planner.plan(layout.prompt, width=layout.width, height=layout.height, seed=seed)
        except (ValueError, OSError) as error:
            asked.add(example, name, " ".join(str(error).split()), planner.name)
        else:
            asked.add(example, name, planned, planner.name)
    return asked


def fill(benchmark: Benchmark, options: argparse.Namespace, given: Given) -> PlannedBenchmark:
    """The benchmark with planned boxes where it has none, among the prompts that are drawn; remarks go to stderr.

    Raises:
        ValueError: there is more than one planner, or nothing to plan.
    """
    if len(options.planner) > 1:
        raise ValueError("--planner: give one; pictures of several are runs of their own, each in its folder")
    (planner,) = make_chosen(options.planner, given)
    chosen = choose(benchmark.examples, options.n)
    places = [place for place in chosen if not benchmark.examples[place].layout.regions]
    if not places:
        raise ValueError(
            f"--planner: all prompts of {options.benchmark} have boxes of their own; leave it out"
        )
    start = time.monotonic()
    asked = ask(planner, [benchmark.examples[place] for place in places], (), not options.quiet)
    for sentence in asked.remarks(time.monotonic() - start):
        print(f"trueline: {planner.name}: {sentence}", file=sys.stderr)
    planned = {
        place: layout.model_copy(update={"id": benchmark.examples[place].layout.id})
        for place, layout in zip(places, asked.layouts, strict=True)
    }
    return PlannedBenchmark(benchmark, planned, planner.name)


def _keep(folder: Folder, column: Column, layouts: Sequence[Layout]) -> Path:
    place, content = Folder(folder.path / "plans"), jsonl(layouts)
    return place.write(f"{column.file}.jsonl", lambda file: file.write(content))
