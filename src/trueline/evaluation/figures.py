"""From what was seen to rows of a table: values, intervals, and paired differences to the first method.

A metric of a method is taken over the pictures in which it was asked; a difference over those in which both were.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np

from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.drawing_list import Wanted
from trueline.evaluation.judgements import (
    FEATURES,
    RATIO,
    Judgement,
    SetDistance,
    detections,
    ratio_names,
    truths,
)
from trueline.evaluation.metrics.average_precision import APInput
from trueline.evaluation.metrics.frechet import Moments, frechet_distance
from trueline.evaluation.metrics.kernel import cmmd, kid_whole
from trueline.evaluation.metrics.statistics import (
    DECIMAL_EDGES,
    SET_DRAWS,
    Estimate,
    Terms,
    estimate_of,
    macro,
    macro_difference,
    paired_difference,
    ratio,
    set_draws,
)
from trueline.evaluation.run import REFERENCE, ROUND_TRIP, Judge

WIDEST = 768  #: dimensions up to which a Frechet distance has an interval: beyond, a hundred draws take hours

#: Method -> judge -> what it saw in each picture.
Judgements = Mapping[str, Mapping[str, Sequence[Judgement]]]
Pair = tuple[float, float]  #: numerator and denominator of a picture


@dataclass(frozen=True)
class TableSettings:
    """What every row repeats. ``group``: figures over all pictures are means over these groups (GenEval's tasks).
    ``against``: the method that the others are compared with, None for the first."""

    benchmark: str
    model: str
    seeds: tuple[int, ...]
    command: str
    commit: str
    group: Callable[[Example], str] | None = None
    against: str | None = None

    def group_of(self, example: Example) -> str:
        return self.group(example) if self.group else ""


def rows(
    pictures: Sequence[Wanted], judges: Sequence[Judge], looks: Judgements, context: TableSettings
) -> list[dict[str, Any]]:
    """Rows for every method and metric, over all pictures (category "") and in each category."""
    drawn = (method for method in looks if method not in (REFERENCE, ROUND_TRIP))
    first = context.against or next(drawn, None)
    categories = {"": list(range(len(pictures)))}
    for place, picture in enumerate(pictures):
        if picture.example.category:
            categories.setdefault(picture.example.category, []).append(place)
    if len(categories) == 2:  # one category is all there is
        categories = {"": categories[""]}
    found = []
    for method in looks:
        against = None if method in (first, REFERENCE, ROUND_TRIP) else first
        for judge in judges:
            seen = {of: looks[of][judge.name] for of in looks if judge.name in looks[of]}
            part = _MethodFigures(pictures, seen, method, against, judge, context)
            for category, places in categories.items():
                found += part.ratios(category, places)
            found += part.distances()
            found += part.precision()
    return found


@dataclass(frozen=True)
class _MethodFigures:
    """What one judge says of one method."""

    pictures: Sequence[Wanted]
    seen: Mapping[str, Sequence[Judgement]]
    method: str
    against: str | None
    judge: Judge
    context: TableSettings

    def row(self, metric: str, category: str, own: Estimate, difference: Estimate | None) -> dict[str, Any]:
        c = self.context
        row: dict[str, Any] = {
            "benchmark": c.benchmark,
            "model": c.model,
            "method": self.method,
            "metric": metric,
            "category": category,
            "value": own.value,
            "low": own.low,
            "high": own.high,
            "n": own.n,
            "images_per_prompt": len(c.seeds),
            "seeds": list(c.seeds),
            "protocol": self.judge.protocol,
            "command": c.command,
            "commit": c.commit,
        }
        if difference is not None and difference.value is not None:
            row |= {
                "against": self.against,
                "difference": difference.value,
                "difference_low": difference.low,
                "difference_high": difference.high,
            }
        return row

    # Means over pictures

    def ratios(self, category: str, places: Sequence[int]) -> list[dict[str, Any]]:
        def pairs(of: str, metric: str) -> list[Pair | None]:
            return [_pair(self.seen[of][place].get(RATIO + metric)) for place in places]

        prompts = [self.pictures[place].example.id for place in places]
        groups = [self.context.group_of(self.pictures[place].example) for place in places]
        found = []
        for metric in ratio_names(self.seen[self.method][place] for place in places):
            other = pairs(self.against, metric) if self.against else None
            own, difference = ratio_figure(pairs(self.method, metric), other, prompts, groups)
            if own.value is not None:
                found.append(self.row(metric, category, own, difference))
        return found

    # Distances to the real pictures

    def distances(self) -> list[dict[str, Any]]:
        if REFERENCE not in self.seen or self.method == REFERENCE:
            return []
        found = []
        for distance in self.judge.distances:
            of = [self.method, REFERENCE] + ([self.against] if self.against else [])
            key = FEATURES + distance.features
            places = [p for p in range(len(self.pictures)) if all(key in self.seen[m][p] for m in of)]
            sets = {m: [self.seen[m][p][key] for p in places] for m in of}
            if sum(map(len, sets[REFERENCE])) < 2:
                continue

            def value(method: str, picked: Sequence[int], sets=sets, distance=distance) -> float:  # type: ignore[no-untyped-def]
                real = np.concatenate([sets[REFERENCE][i] for i in picked])
                return _distance(distance, np.concatenate([sets[method][i] for i in picked]), real)

            wide = distance.kind == "frechet" and sets[REFERENCE][0].shape[1] > WIDEST
            # KID's estimate without bias may be negative
            least = -math.inf if distance.kind == "kid" else 0.0
            draws = 0 if wide else SET_DRAWS
            found.append(self._of_a_set(distance.metric, places, value, draws, (least, math.inf)))
        return found

    # Average precision

    def precision(self) -> list[dict[str, Any]]:
        """COCO's AP over IoU .5 to .95 of what the judge detects, where there are true boxes."""
        if not self.judge.precision:
            return []
        of = [self.method] + ([self.against] if self.against else [])
        there = [p for p in range(len(self.pictures)) if all(len(truths(self.seen[m][p])) for m in of)]
        if not there:
            return []
        inputs = {m: [_scored(self.seen[m][p]) for p in there] for m in of}

        def value(method: str, picked: Sequence[int]) -> float:
            return _joined([inputs[method][i] for i in picked]).mean() or 0.0

        return [self._of_a_set(self.judge.precision, there, value, SET_DRAWS, (0.0, 1.0))]

    def _of_a_set(
        self,
        metric: str,
        places: Sequence[int],
        value: Callable[[str, Sequence[int]], float],
        draws: int,
        bounds: tuple[float, float],
    ) -> dict[str, Any]:
        """A row of what is computed on whole sets. ``value(method, picked)`` takes indices into ``places``.

        The percentile interval, drawn over prompts, is moved so that it is about the value: drawing a picture twice
        biases such figures. It is cut at the ``bounds`` of the figure.
        """
        methods = [self.method] + ([self.against] if self.against else [])
        prompts = [self.pictures[p].example.id for p in places]
        n, clusters = len(places), len(set(prompts))
        values = [value(method, range(n)) for method in methods]
        drawn = set_draws([partial(value, method) for method in methods], prompts, draws)
        own = estimate_of(values[0], drawn[0], n, clusters, centred=True, bounds=bounds, edges=DECIMAL_EDGES)
        difference = None
        if self.against:
            off = values[0] - values[1]
            difference = estimate_of(off, drawn[0] - drawn[1], n, clusters, centred=True, edges=DECIMAL_EDGES)
        return self.row(metric, "", own, difference)


def ratio_figure(
    mine: Sequence[Pair | None],
    other: Sequence[Pair | None] | None,
    prompts: Sequence[str],
    groups: Sequence[str],
) -> tuple[Estimate, Estimate | None]:
    """A metric over the pictures that it was asked of, and its difference over those that it was asked of in both.

    Args:
        mine: numerator and denominator of each picture, None where the metric was not asked.
        other: those of the method to compare with; None: there is none.
        prompts, groups: of each picture; the figure is the mean over the groups.
    """
    asked = [place for place, pair in enumerate(mine) if pair is not None]
    both = [place for place in asked if other is not None and other[place] is not None]
    own = _mean(_terms(mine, asked, prompts, groups))
    if own.value is None or other is None or not both:
        return own, None
    ours, theirs = (_terms(pairs, both, prompts, groups) for pairs in (mine, other))
    if len(ours) == 1:
        return own, paired_difference(ours[0], theirs[0])
    return own, macro_difference(ours, theirs)


def _pair(array: np.ndarray | None) -> Pair | None:
    return None if array is None else (float(array[0]), float(array[1]))


def _terms(
    pairs: Sequence[Pair | None], places: Sequence[int], prompts: Sequence[str], groups: Sequence[str]
) -> list[Terms]:
    """One for each group of the benchmark, one in all where it has none."""
    members: dict[str, list[int]] = {}
    for place in places:
        members.setdefault(groups[place], []).append(place)
    made = []
    for inside in members.values():
        tops, bottoms = zip(*(pairs[place] or (0.0, 0.0) for place in inside), strict=True)
        made.append(Terms.of(tops, bottoms, [prompts[place] for place in inside]))
    return made


def _mean(parts: list[Terms]) -> Estimate:
    if len(parts) == 1:
        return ratio(parts[0])
    found = macro(parts)
    n, clusters = sum(p.n for p in parts), sum(len(p.keys) for p in parts)
    return Estimate(found.value, found.low, found.high, n, clusters)


def _distance(distance: SetDistance, made: np.ndarray, real: np.ndarray) -> float:
    if distance.kind == "frechet":
        return frechet_distance(Moments.of(made), Moments.of(real))
    return float((kid_whole if distance.kind == "kid" else cmmd)(made, real).value)


def _scored(seen: Judgement) -> APInput:
    one = APInput()
    one.add(detections(seen), truths(seen))
    return one


def _joined(parts: Sequence[APInput]) -> APInput:
    """Pairwise, so that lists are copied as often as their length has binary digits."""
    while len(parts) > 1:
        parts = [reduce(APInput.merge, parts[at : at + 2]) for at in range(0, len(parts), 2)]
    return parts[0]
