"""What a rule says of one picture or plan: a numerator and a denominator per metric.

A metric over many pictures is the sum of the numerators over the sum of the denominators, so that a mean over
pictures (denominators 1), a share of objects and a micro-averaged precision are one and the same, shards add up
exactly, and a bootstrap only has to draw rows anew.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Mode = Literal["official", "fixed"]
Observation = tuple[float, float]
Observations = dict[str, Observation]


def is_official(mode: Mode) -> bool:
    """Whether to keep the official scorer's quirks.

    Raises:
        ValueError: ``mode`` is neither "official" nor "fixed".
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode: must be official or fixed (got {mode!r})")
    return mode == "official"


def share(correct: bool) -> Observation:
    """One picture, right or wrong."""
    return float(correct), 1.0


def total(rows: Iterable[Mapping[str, Observation]]) -> Observations:
    """Numerators and denominators added up, metric by metric; a row need not have every metric."""
    sums: Observations = {}
    for row in rows:
        for name, (numerator, denominator) in row.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + numerator, before[1] + denominator
    return sums


def aggregate(rows: Iterable[Mapping[str, Observation]]) -> dict[str, float]:
    """Each metric over all rows; NaN where nothing was counted (denominator 0)."""
    return {
        name: numerator / denominator if denominator else float("nan")
        for name, (numerator, denominator) in total(rows).items()
    }
