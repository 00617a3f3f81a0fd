"""Scores published plans for NSR-1K's prompts: boxes without pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trueline.benchmarks import Example
from trueline.benchmarks.nsr_1k import NSR1K
from trueline.metrics.statistics import Estimate, Terms, ratio
from trueline.planner.replay import Plan, replay
from trueline.rules.nsr_1k import counting_layout, spatial_layout
from trueline.rules.observation import Mode, Observations

PERCENT = ("precision", "recall", "accuracy")


def score_plans(
    files: Sequence[Path], data: str | Path | None, mode: Mode, command: str, commit: str
) -> list[dict[str, Any]]:
    """Rows of ``results.json``. Shares are in percent, as LayoutGPT prints them; MAE is in objects.

    Raises:
        ValueError: a file is no file of plans, or a plan answers no prompt of NSR-1K.
    """
    benchmark = NSR1K(data)
    examples = {int(example.id.rpartition("-")[2]): example for example in benchmark.examples}
    seen: list[tuple[Example, Observations]] = []
    for file in files:
        for number, plan in enumerate(replay(file), start=1):
            if plan.query not in examples:
                raise ValueError(
                    f"{file}: row {number} answers prompt {plan.query}, which NSR-1K does not have"
                )
            seen.append((examples[plan.query], _observe(plan, examples[plan.query], mode)))
    groups = {"": seen}
    for pair in seen:
        groups.setdefault(pair[0].category, []).append(pair)
    method = " ".join(file.stem for file in files)
    return [
        {
            "benchmark": "nsr-1k-layout", "model": "", "method": method, "metric": metric, "category": category,
            **_scaled(metric, estimate), "n": estimate.n,
            "images_per_prompt": round(estimate.n / estimate.clusters), "seeds": [],
            "protocol": f"nsr-1k layout rules, {mode}", "command": command, "commit": commit,
        }
        for category, pairs in groups.items()
        for metric, estimate in _estimates(pairs).items()
    ]  # fmt: skip


def _observe(plan: Plan, example: Example, mode: Mode) -> Observations:
    truth = example.truth
    if example.category == "spatial":
        return spatial_layout(plan.things, truth["first"], truth["second"], truth["relation"])
    return counting_layout([name for name, _ in plan.things], truth["counts"], example.category, mode)


def _estimates(pairs: Sequence[tuple[Example, Observations]]) -> dict[str, Estimate]:
    """A plan without a metric takes no part in it, nor does its prompt in the interval."""
    found = {}
    for metric in dict.fromkeys(metric for _, each in pairs for metric in each):
        terms = [(*each[metric], example.id) for example, each in pairs if metric in each]
        found[metric] = ratio(Terms.of(*(list(column) for column in zip(*terms, strict=True))))  # type: ignore[arg-type]
    return found


def _scaled(metric: str, estimate: Estimate) -> dict[str, float | None]:
    scale = 100.0 if metric.endswith(PERCENT) or metric.endswith("unmatched") else 1.0
    values = dataclasses.asdict(estimate)
    return {name: None if values[name] is None else scale * values[name] for name in ("value", "low", "high")}
