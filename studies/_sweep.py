"""Settings tried out on the split "tune": few prompts, drawn and judged at once, one table. It chooses nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from _common import JUDGE_SECONDS, STEP_SECONDS, Job, Row, Study, cost
from _tables import Column, Pictures, Table, table_rows

from trueline.evaluation.tables import markdown


def sweep_of(study: Study, name: str, rows: Sequence[Row], prompts: int) -> Study:
    """The rows of a sweep, drawn as the study's are: one training seed, one picture of each of the ``prompts``."""
    options = argparse.Namespace(**vars(study.options))
    options.n, options.images_per_prompt, options.seeds, options.rows = prompts, 1, 1, None
    return Study(name, options, rows, study.settings, benchmark=(*study.benchmark, "split=tune"))


def sweep_steps(
    own: Study, title: str, columns: tuple[Column, ...], command: str
) -> dict[str, Callable[[], list[Job]]]:
    """Steps sweep and sweep-tables; none unless --only names one of them."""
    steps: dict[str, Callable[[], list[Job]]] = {
        "sweep": lambda: sweep(own),
        "sweep-tables": lambda: _table(own, title, columns, command),
    }
    return steps if set(own.options.only or ()) & set(steps) else {}


def sweep(own: Study) -> list[Job]:
    """Its trainings, and one drawing that also judges."""
    arguments = own.evaluate(own.out / "sweep", own.runs())
    each = own.options.steps * STEP_SECONDS
    seconds = own.asked() * sum(each * cost(row.draws) + JUDGE_SECONDS for row in own.rows)
    return [*own.train(), Job("sweep", arguments, minutes=seconds / 60)]


def _table(own: Study, title: str, columns: tuple[Column, ...], command: str) -> list[Job]:
    """OUT/sweep.json, all compared with the first row."""

    def call() -> None:
        pictures = Pictures(own.out / "sweep", split="tune")
        table = Table(title, tuple(row.name for row in own.rows), columns)
        made: list[dict[str, Any]] = table_rows(own, pictures, table, command)
        target = own.out / "sweep.json"
        target.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        print(markdown(made))
        print(f"{len(made)} rows: {target}; nothing was chosen")

    return [Job("the sweep's table", call=call, minutes=1)]
