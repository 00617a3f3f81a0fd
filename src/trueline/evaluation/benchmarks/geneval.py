"""GenEval (Ghosh et al. 2023): 553 prompts in six tasks, four pictures each in its protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trueline.evaluation.benchmarks import Example, data_folder
from trueline.evaluation.benchmarks._collect import Collector, row_of
from trueline.evaluation.benchmarks._files import Source
from trueline.files import read_json_lines

SOURCE = Source("djghosh13/geneval", "af4902f24d3c", "MIT")


class GenEval:
    """``category``: the task (single_object, two_object, counting, colors, position, color_attr). ``truth``: the
    line of ``evaluation_metadata.jsonl``, as ``evaluation.rules.geneval.correct`` takes it: ``tag``, ``include``
    (clauses of ``class``, ``count`` and perhaps ``color`` or ``position``), perhaps ``exclude``.
    Ids: ``counting-000012``, by line of the whole file from 0.
    """

    name = "geneval"

    def __init__(self, data: str | Path | None = None):
        self.source = str(SOURCE)
        path = data_folder(data, SOURCE) / "geneval" / "evaluation_metadata.jsonl"
        collector = Collector(self.name)
        for line, row in read_json_lines(path, SOURCE.cure):
            with row_of(path, line, SOURCE.cure):
                truth = {"tag": row["tag"], "include": _clauses(row["include"])}
                if "exclude" in row:
                    truth["exclude"] = _clauses(row["exclude"])
                collector.add(f"{row['tag']}-{line - 1:06d}", row["prompt"], row["tag"], truth)
        self.examples = collector.finish()
        self.left_out = dict(collector.left_out)

    def reference(self, example: Example) -> None:
        """There are no real pictures."""
        return None


def _clauses(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(clause, dict) for clause in given):
        raise ValueError("include and exclude must be lists of objects")
    for clause in given:
        if not isinstance(clause["class"], str) or type(clause["count"]) is not int:
            raise ValueError("a clause has a class, which is text, and a count, which is a whole number")
    return given
