"""What an evaluation draws: which prompts, with which noise, in which batches; the same for every method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trueline.engine import batched
from trueline.evaluation.benchmarks.benchmark import Example


@dataclass(frozen=True)
class Wanted:
    """One picture. ``place``: of its example in the whole benchmark; noise comes from (seed, place), so that it
    depends neither on how many prompts are drawn nor on who draws them. ``name``: of its files."""

    example: Example
    place: int
    copy: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.example.id}-{self.copy}"


def choose(examples: Sequence[Example], n: int | None) -> list[int]:
    """Places of ``n`` examples (None: all), in the benchmark's order: of each category the first ones, as many as
    its share of the benchmark. A smaller choice is part of every larger one.

    Raises:
        ValueError: ``n`` is not between 1 and the number of examples.
    """
    if n is None:
        return list(range(len(examples)))
    if not 1 <= n <= len(examples):
        raise ValueError(f"n: must be from 1 to {len(examples)}, the prompts of this benchmark (got {n})")
    sizes = Counter(example.category for example in examples)
    seen: Counter[str] = Counter()
    depth = []
    for place, example in enumerate(examples):
        seen[example.category] += 1
        depth.append((seen[example.category] / sizes[example.category], place))
    return sorted(place for _, place in sorted(depth)[:n])


def wanted(examples: Sequence[Example], places: Sequence[int], seeds: Sequence[int]) -> list[Wanted]:
    """One picture per chosen example and seed, example by example."""
    return [Wanted(examples[p], p, copy, seed) for p in places for copy, seed in enumerate(seeds)]


def batches(pictures: Sequence[Wanted], size: int) -> list[list[Wanted]]:
    """Pictures of one size together, at most ``size`` of them."""
    return batched(pictures, size, lambda one: (one.example.layout.width, one.example.layout.height))
