"""From what was seen to rows of a table: values, intervals, and paired differences to the first method."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueline.evaluation.plan import Wanted
from trueline.evaluation.run import REFERENCE, ROUND_TRIP, Seen
from trueline.metrics.frechet import Moments, frechet_distance
from trueline.metrics.statistics import Estimate, Terms, paired_difference, ratio

#: Distances to the reference pictures: metric -> the features it is taken on.
DISTANCES = {"fid": "picture", "region_fid": "regions"}
DISTANCE_DRAWS = 100  #: bootstrap draws of a distance, each of which needs an eigenvalue decomposition


@dataclass(frozen=True)
class Context:
    """What every row repeats."""

    benchmark: str
    model: str
    seeds: tuple[int, ...]
    protocol: str
    command: str
    commit: str


def rows(
    pictures: Sequence[Wanted], seen: Mapping[str, Sequence[Seen]], context: Context
) -> list[dict[str, Any]]:
    """Rows for every method and metric, over all pictures (category "") and in each category."""
    first = next((method for method in seen if method not in (REFERENCE, ROUND_TRIP)), None)
    groups = {"": list(range(len(pictures)))}
    for place, picture in enumerate(pictures):
        groups.setdefault(picture.example.category, []).append(place)
    found = []
    for method in seen:
        against = None if method in (first, REFERENCE, ROUND_TRIP) else first
        for category, places in groups.items():
            found += _ratios(pictures, seen, method, against, category, places, context)
        found += _distances(pictures, seen, method, against, context)
    return found


def _ratios(
    pictures: Sequence[Wanted], seen: Mapping[str, Sequence[Seen]], method: str, against: str | None,
    category: str, places: Sequence[int], context: Context,
) -> list[dict[str, Any]]:  # fmt: skip
    prompts = [pictures[place].example.id for place in places]

    def terms(of: str, metric: str) -> Terms:
        pairs = np.array([seen[of][place][metric] for place in places])
        return Terms.of(pairs[:, 0].tolist(), pairs[:, 1].tolist(), prompts)

    found = []
    for metric in ratio_names(seen[method][0]):
        own = terms(method, metric)
        difference = None if against is None else paired_difference(own, terms(against, metric))
        if own.value is not None:
            found.append(_row(context, method, metric, category, ratio(own), against, difference))
    return found


def ratio_names(seen: Seen) -> list[str]:
    """The metrics that are a numerator and a denominator per picture."""
    return [
        name
        for name, array in seen.items()
        if array.shape == (2,) and name.endswith(("accuracy", "iou", "score"))
    ]


def _distances(
    pictures: Sequence[Wanted],
    seen: Mapping[str, Sequence[Seen]],
    method: str,
    against: str | None,
    context: Context,
) -> list[dict[str, Any]]:
    if REFERENCE not in seen or method == REFERENCE:
        return []
    prompts = np.unique([p.example.id for p in pictures], return_inverse=True)[1]
    found = []
    for metric, name in DISTANCES.items():
        sets = {
            of: [each[name] for each in seen[of]] for of in (method, REFERENCE, against) if of is not None
        }
        value = _distance(sets[method], sets[REFERENCE])
        drawn = _drawn(sets, prompts, [method] + ([against] if against else []))
        own = _centred(value, drawn[method], pictures)
        difference = None
        if against is not None:
            off = value - _distance(sets[against], sets[REFERENCE])
            difference = _centred(off, drawn[method] - drawn[against], pictures)
        found.append(_row(context, method, metric, "", own, against, difference))
    return found


def _distance(made: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> float:
    return frechet_distance(Moments.of(np.concatenate(made)), Moments.of(np.concatenate(real)))


def _drawn(
    sets: Mapping[str, list[np.ndarray]], prompts: np.ndarray, methods: Sequence[str]
) -> dict[str, np.ndarray]:
    """The distance in bootstrap draws over prompts, made and real pictures of a prompt together."""
    rng, count = np.random.default_rng(0), prompts.max() + 1
    members = [np.flatnonzero(prompts == p) for p in range(count)]
    values: dict[str, list[float]] = {method: [] for method in methods}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few pictures: said once, for the value itself
        for _ in range(DISTANCE_DRAWS if count > 1 else 0):
            picked = np.concatenate([members[p] for p in rng.integers(count, size=count)])
            real = [sets[REFERENCE][i] for i in picked]
            for method in methods:
                values[method].append(_distance([sets[method][i] for i in picked], real))
    return {method: np.array(v) for method, v in values.items()}


def _centred(value: float, drawn: np.ndarray, pictures: Sequence[Wanted]) -> Estimate:
    """The percentile interval, moved so that it is about ``value``: drawing a picture twice biases a distance."""
    clusters = len({p.example.id for p in pictures})
    if not len(drawn):
        return Estimate(value, None, None, len(pictures), clusters)
    low, high = np.quantile(drawn, [0.025, 0.975]) - drawn.mean() + value
    return Estimate(value, float(low), float(high), len(pictures), clusters)


def _row(
    context: Context, method: str, metric: str, category: str, own: Estimate, against: str | None,
    difference: Estimate | None,
) -> dict[str, Any]:  # fmt: skip
    row: dict[str, Any] = {
        "benchmark": context.benchmark, "model": context.model, "method": method, "metric": metric,
        "category": category, "value": own.value, "low": own.low, "high": own.high, "n": own.n,
        "images_per_prompt": len(context.seeds), "seeds": list(context.seeds), "protocol": context.protocol,
        "command": context.command, "commit": context.commit,
    }  # fmt: skip
    if difference is not None:
        row |= {
            "against": against, "difference": difference.value, "difference_low": difference.low,
            "difference_high": difference.high,
        }  # fmt: skip
    return row
