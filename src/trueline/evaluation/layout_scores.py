"""Scores plans, boxes without pictures, by the rules of benchmarks that can score a layout (``score_layout``).

The rules are the published ones: NSR-1K's for layouts, and T2I-CompBench's for detections, to which a plan's boxes
are detections of full confidence. The unit is a plan; no plan counts as one without boxes.
"""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueline.chat.answered import NOBODY, Answered
from trueline.evaluation.benchmarks import LAYOUT_BENCHMARKS, benchmark_class, load
from trueline.evaluation.benchmarks.benchmark import Benchmark, Example, Placed
from trueline.evaluation.metrics.observations import Mode, Observations
from trueline.evaluation.metrics.statistics import Estimate, Terms, paired_difference, ratio
from trueline.planner.replay import replay

PERCENT = ("precision", "recall", "accuracy")
READS = "Intervals are 95%, bootstrap clustered by prompt; n counts plans."


@dataclass(frozen=True)
class Answer:
    """What a planner answered for a prompt, as the rules take it: names and xyxy boxes in 0..1, none for no plan.
    ``by``: who answered, "" for the planner itself, "nobody" for no plan."""

    example: Example
    things: Sequence[Placed] = ()
    by: str = ""


def rule_of(benchmark: str) -> type[Benchmark]:
    """The benchmark whose prompts and rule a benchmark of layouts takes, such as "nsr-1k-layout"."""
    return benchmark_class(LAYOUT_BENCHMARKS[benchmark])


def examples_of(benchmark: str, data: str | Path | None, **options: Any) -> Sequence[Example]:
    """The prompts to plan.

    Raises:
        ValueError: as ``benchmarks.load``; a category that no plan can be scored for.
    """
    known = rule_of(benchmark).layout_categories
    if known:
        options.setdefault("categories", known)
    with warnings.catch_warnings():
        # of the true boxes, which are not looked at
        warnings.filterwarnings("ignore", r"[\w-]+: .*boxes", UserWarning)
        examples = load(LAYOUT_BENCHMARKS[benchmark], data, **options).examples
    if known and (strange := [e.category for e in examples if e.category not in known]):
        raise ValueError(
            f"categories: plans are scored for {', '.join(known)}, not for {strange[0]}; leave it out"
        )
    return examples


def published(
    files: Sequence[Path], examples: Sequence[Example], everything: Sequence[Example]
) -> tuple[list[Answer], list[str]]:
    """The answers to ``examples`` in files of LayoutGPT's format, as they were published, and remarks.

    Of counting and of spatial prompts, the files answer all or none: a prompt that lacks a plan where others have one
    counts as a plan without boxes.

    ``everything``: all prompts of NSR-1K.

    Raises:
        ValueError: a file is no file of plans, answers a prompt that NSR-1K does not have, or one twice.
    """
    known = {example.truth["query"]: example.id for example in everything}
    plans: dict[tuple[str, int], Sequence[Placed]] = {}
    for file in files:
        for number, plan in enumerate(replay(file), start=1):
            if plan.query not in known:
                raise ValueError(
                    f"{file}: row {number} answers prompt {plan.query}, which NSR-1K does not have"
                )
            key = known[plan.query], plan.iteration
            if key in plans:
                raise ValueError(
                    f"{file}: row {number} answers prompt {plan.query} once more; leave one file out"
                )
            plans[key] = plan.things
    rounds: dict[str, set[int]] = {}
    for name, iteration in plans:
        rounds.setdefault(name.partition("-")[0], set()).add(iteration)
    # "counting" of "counting-038699"
    asked = [(e, i) for e in examples for i in sorted(rounds.get(e.id.partition("-")[0], ()))]
    missing = sum((example.id, i) not in plans for example, i in asked)
    said = (
        [f"{missing} of {len(asked)} plans are missing and count as plans without boxes"] if missing else []
    )
    found = [
        Answer(example, plans.get((example.id, i), ()), "" if (example.id, i) in plans else NOBODY)
        for example, i in asked
    ]
    return found, said


def rows(
    benchmark: str,
    answers: Mapping[str, Sequence[Answer]],
    seeds: Mapping[str, Sequence[int]],
    mode: Mode,
    command: str,
    commit: str,
    against: str | None = None,
) -> list[dict[str, Any]]:
    """Rows of ``results.json``, overall and by category; with the difference to ``against`` (default: the first
    planner) where both were asked. Shares are in percent, as LayoutGPT prints them; MAE is in objects,
    T2I-CompBench's scores are 0..1.

    Each row says who made how many of its plans ("answered"), and its name how many were made in the planner's place.

    ``answers``: by the name of the planner. ``seeds``: of its variations, where it was asked for some.
    """
    rule = rule_of(benchmark)
    scored = {
        name: [(answer, rule.score_layout(answer.example, answer.things, mode)) for answer in mine]
        for name, mine in answers.items()
    }
    label = {name: Answered.of(name, (a.by for a in mine)).label for name, mine in answers.items()}
    first = against or next(iter(scored))
    table = []
    for name, mine in scored.items():
        for category in dict.fromkeys(["", *(answer.example.category for answer, _ in mine)]):
            theirs = _terms(scored[first], category) if name != first else {}
            for metric, terms in _terms(mine, category).items():
                own: dict[str, Any] = {
                    "benchmark": benchmark,
                    "model": "",
                    "method": label[name],
                    "metric": metric,
                    "category": category,
                    **_scaled(metric, ratio(terms)),
                    "n": terms.n,
                    "images_per_prompt": round(terms.n / len(terms.keys)),
                    "seeds": list(seeds.get(name, ())),
                    "protocol": f"{benchmark.removesuffix('-layout')} layout rules, {mode}",
                    "command": command,
                    "commit": commit,
                    "reads": READS,
                    "answered": _by_whom(name, mine, category, metric),
                }
                table.append(own | _compared(metric, terms, theirs.get(metric), label[first]))
    return table


Scored = Sequence[tuple[Answer, Observations]]


def _by_whom(name: str, pairs: Scored, category: str, metric: str) -> dict[str, int]:
    inside = (
        answer.by for answer, each in pairs if category in ("", answer.example.category) and metric in each
    )
    return dict(Answered.of(name, inside).by)


def _terms(pairs: Scored, category: str) -> dict[str, Terms]:
    """By metric. A plan without a metric takes no part in it, nor does its prompt in the interval."""
    inside = [(a.example, each) for a, each in pairs if category in ("", a.example.category)]
    found = {}
    for metric in dict.fromkeys(metric for _, each in inside for metric in each):
        asked = [(*each[metric], example.id) for example, each in inside if metric in each]
        tops, bottoms, prompts = zip(*asked, strict=True)
        found[metric] = Terms.of(tops, bottoms, prompts)
    return found


def _compared(metric: str, own: Terms, other: Terms | None, against: str) -> dict[str, Any]:
    if other is None or own.keys != other.keys:
        return {}
    found = _scaled(metric, paired_difference(own, other))
    names = {"value": "difference", "low": "difference_low", "high": "difference_high"}
    return {"against": against} | {names[key]: number for key, number in found.items()}


def _scaled(metric: str, estimate: Estimate) -> dict[str, float | None]:
    scale = 100.0 if metric.endswith(PERCENT) or metric.endswith("unmatched") else 1.0
    values = dataclasses.asdict(estimate)
    return {name: None if values[name] is None else scale * values[name] for name in ("value", "low", "high")}


def unscored(benchmark: str, answers: Sequence[Answer], mode: Mode) -> list[str]:
    """A remark where prompts state nothing that the rules know."""
    rule = rule_of(benchmark)
    left = Counter(a.example.category for a in answers if not rule.score_layout(a.example, a.things, mode))
    return [
        f"{count} plans are for prompts of {name} that state nothing the rules can read: not scored"
        for name, count in left.items()
    ]
