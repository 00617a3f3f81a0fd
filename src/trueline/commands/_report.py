"""What the judges of ``trueline evaluate`` saw, as a table, a page of pictures, and a page for blind votes."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trueline.commands._rows import write_rows
from trueline.errors import redacted

if TYPE_CHECKING:
    from trueline.evaluation.drawing_list import Wanted
    from trueline.evaluation.judgements import Judgement
    from trueline.evaluation.metrics.observations import Mode
    from trueline.evaluation.report import Shot
    from trueline.evaluation.run import EvaluationRun, Judge


def report(
    run: "EvaluationRun",
    judges: "list[Judge]",
    seen: "dict[str, dict[str, list[Judgement]]]",
    command: str,
    notes: list[str],
    mode: "Mode",
    against: str | None,
) -> int:
    """Writes ``results.json``, its ``verdicts``, ``results.md``, ``report.html`` and ``study``, and prints the table.

    Returns the exit code.

    ``seen``: method -> judge -> what it saw, one for each picture. ``against``: the row to compare with.
    """
    from trueline.evaluation.benchmarks import benchmark_class
    from trueline.evaluation.figures import TableSettings, rows
    from trueline.evaluation.judges import Combined
    from trueline.evaluation.report import write_report
    from trueline.evaluation.tables import markdown
    from trueline.evaluation.verdicts import Verdicts, packed
    from trueline.sampling.records import commit

    settings = run.settings
    pictures = [picture for batch in run.batches for picture in batch]
    rule = benchmark_class(settings.benchmark)
    last = Combined(rule)
    judges = [*judges, last]
    for by_judge in seen.values():
        by_judge[last.name] = last.combine(pictures, by_judge)
    context = TableSettings(
        settings.benchmark,
        redacted(settings.model),
        settings.seeds,
        command,
        commit(),
        lambda example: rule.group(example, mode),
        against,
    )
    labels = {method: _label(run, method) for method in seen}
    table = [_labelled(row, run, labels) for row in rows(pictures, judges, seen, context)]
    write_rows(run.folder, table)
    verdicts = packed([Verdicts.of(pictures, seen, context, labels)])
    run.folder.write("verdicts/results.jsonl.xz", lambda file: file.write(verdicts))
    shots = _shots(run, pictures, judges, seen, labels)
    write_report(run.out / "report.html", f"Trueline: {settings.benchmark}", table, shots, notes)
    print(markdown([row for row in table if not row["category"]]))
    print(
        f"{len(run.pictures)} pictures per method; by category too, with the pictures: {run.out / 'report.html'}"
    )
    _study(run, shots)
    return _judged(table) if settings.benchmark == "world" else 0


def _label(run: "EvaluationRun", method: str) -> str:
    """The row's name, with the share of its boxes that another than the planner made. Also rows that draw without
    boxes are measured by them."""
    from trueline.evaluation.planned_benchmark import PlannedBenchmark
    from trueline.evaluation.run import REFERENCE, ROUND_TRIP

    if not isinstance(run.benchmark, PlannedBenchmark) or method in (REFERENCE, ROUND_TRIP):
        return method
    answered = run.benchmark.answered
    return f"{method} (boxes by {answered.asked}, {answered.told})" if answered.stand_ins else method


def _labelled(row: dict[str, Any], run: "EvaluationRun", labels: dict[str, str]) -> dict[str, Any]:
    """The row under its label, and who planned the boxes of its prompts."""
    from trueline.evaluation.planned_benchmark import PlannedBenchmark

    row = row | {key: labels[row[key]] for key in ("method", "against") if key in row}
    if isinstance(run.benchmark, PlannedBenchmark):
        row["answered"] = run.benchmark.planners(row["category"])
    return row


def _study(run: "EvaluationRun", shots: "list[Shot]") -> None:
    """The page for blind votes, where there are two methods to vote on."""
    from trueline.evaluation.votes import write_study

    if len({shot.method for shot in shots}) < 2:
        return
    settings = run.settings
    study = write_study(
        run.out / "study",
        "Two pictures of one text",
        shots,
        benchmark=settings.benchmark,
        model=redacted(settings.model),
    )
    print(f"{study.pairs} pairs to vote on: {study.page}; then: trueline votes --key {study.key} FILE ...")


def _shots(
    run: "EvaluationRun",
    pictures: "Sequence[Wanted]",
    judges: "list[Judge]",
    seen: "dict[str, dict[str, list[Judgement]]]",
    labels: dict[str, str],
) -> "list[Shot]":
    """The pictures of the methods that draw, with what the first detector saw in them."""
    from trueline.evaluation.judgements import RATIO, detections, ratio_names
    from trueline.evaluation.report import Shot
    from trueline.evaluation.run import REFERENCE, ROUND_TRIP

    detector = next((judge.name for judge in judges if judge.precision), None)
    shots = []
    for method, by_judge in seen.items():
        if method in (REFERENCE, ROUND_TRIP):
            continue
        for place, picture in enumerate(pictures):
            scores: dict[str, float] = {}
            for arrays in (by_judge[judge.name][place] for judge in judges):
                asked = {name: arrays[RATIO + name] for name in ratio_names([arrays])}
                scores |= {name: float(top / bottom) for name, (top, bottom) in asked.items() if bottom > 0}
            example = picture.example
            found = detections(by_judge[detector][place]) if detector else []
            shots.append(
                Shot(
                    example.id,
                    example.category,
                    example.prompt,
                    labels[method],
                    picture.seed,
                    run.path(method, picture),
                    example.layout,
                    scores,
                    found,
                )
            )
    return shots


def _judged(table: list[dict[str, Any]]) -> int:
    """1 and a warning when the judge itself is not sure enough on the benchmark's own pictures."""
    least = {("reference", 0.99), ("reference-vae", 0.97)}
    short = [
        f"{row['metric']} {row['value']:.3f} on {method} (asked: {bound})"
        for method, bound in sorted(least)
        for row in table
        if row["method"] == method
        and not row["category"]
        and row["value"] < bound
        and row["metric"] in ("object_accuracy", "color_accuracy", "texture_accuracy")
    ]
    if short:
        print(f"trueline: warning: the judge errs: {'; '.join(short)}", file=sys.stderr)
    return 1 if short else 0
