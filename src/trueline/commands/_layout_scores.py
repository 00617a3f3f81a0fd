"""``trueline evaluate`` of planners: ``nsr-1k-layout`` and ``t2i-compbench-layout`` score boxes by published rules.

They write results.json, results.md and, for each planner that was asked, plans/NAME.jsonl, which ``trueline generate
--layout`` reads.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trueline.commands._methods import Given
from trueline.commands._planners import PLANS, check_planners, make_chosen, not_as_asked
from trueline.commands._rows import compared_with, write_rows
from trueline.evaluation.drawing_list import choose
from trueline.evaluation.layout_scores import Answer, examples_of, published, rows, unscored
from trueline.evaluation.planning import ask
from trueline.files import Folder, json_lines
from trueline.layout import Layout
from trueline.sampling.records import commit

if TYPE_CHECKING:
    from trueline.chat.answered import Answered
    from trueline.planner import Planner

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
    planned: dict[str, Answered | None] = {}
    for column in columns:
        if column.planner is None:
            answers[column.name], said = published(_files(column.spec), examples, everything)
            if not answers[column.name]:
                raise ValueError(f"--planner: {column.spec} answers none of the prompts; leave it out")
        else:
            plans = ask(column.planner, examples, seeds, not options.quiet)
            said = [*plans.remarks(), f"all of them are in {_keep(folder, column, plans.layouts)}"]
            answers[column.name], seeded[column.name] = plans.answers, seeds
            planned[f"{PLANS} of {column.name}"] = plans.answered
        for sentence in [*said, *unscored(options.benchmark, answers[column.name], options.mode)]:
            print(f"trueline: {column.name}: {sentence}", file=sys.stderr)
    table = rows(options.benchmark, answers, seeded, options.mode, command, commit(), against)
    print(write_rows(folder, table))
    return not_as_asked(planned)


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


def _keep(folder: Folder, column: Column, layouts: Sequence[Layout]) -> Path:
    place, content = Folder(folder.path / "plans"), json_lines(layout.to_record() for layout in layouts)
    return place.write(f"{column.file}.jsonl", lambda file: file.write(content))
