"""Intervals of rows that were trained several times: over training seeds and prompts together.

Pictures of one prompt are not independent, and neither are pictures of one training run. Both are crossed: every run
draws every prompt. So a draw of the bootstrap takes prompts with replacement and, independently, training seeds with
replacement (the pigeonhole bootstrap: Owen 2007, Annals of Applied Statistics 1(2)). Everything that is compared is
taken on the same drawn prompts, and on the same drawn training seeds where the two rows have the same ones: then
their runs saw the same data and noise. With one training seed it is that of ``evaluation.metrics.statistics``.

Drawing S seeds out of S makes the variance between seeds (S - 1) / S of what it should be; the drawn seeds' distance
to the mean of all is stretched by sqrt(S / (S - 1)) for that. Three seeds still say little about their spread: a t
interval on 2 degrees of freedom would be twice as wide where the seeds, not the prompts, are what varies.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from trueline.evaluation.metrics.statistics import DRAWS, SET_DRAWS, Estimate, Terms, estimate_of, set_draws

SEED_STREAM = 1  #: of the generator of training seeds; prompts are drawn with 0


@dataclass(frozen=True)
class Draws:
    """A figure of each training seed: ``values`` (seeds,), and in each draw of prompts ``drawn`` (seeds, draws).

    ``centred``: the percentile interval is moved so that its mean is the value, for figures that drawing a picture
    twice biases. ``clusters``: prompts, the same for all that is compared. ``n``: pictures of one training seed.
    """

    values: np.ndarray
    drawn: np.ndarray
    seeds: tuple[int, ...]
    n: int
    clusters: tuple[Hashable, ...]
    centred: bool = False

    @property
    def value(self) -> float | None:
        mean = float(np.mean(self.values))
        return mean if math.isfinite(mean) else None


def of_ratios(terms: Sequence[Terms], seeds: Sequence[int], draws: int = DRAWS) -> Draws:
    """Of one ratio per training seed, all on the same prompts.

    Raises:
        ValueError: the training seeds have other prompts.
    """
    keys = terms[0].keys
    if any(one.keys != keys for one in terms):
        raise ValueError("clusters: the training seeds of a row must have the same prompts")
    values = np.array([math.nan if one.value is None else one.value for one in terms])
    return Draws(values, np.stack([one.draws(draws) for one in terms]), tuple(seeds), terms[0].n, keys)


def of_sets(
    figures: Sequence[Callable[[Sequence[int]], float]],
    seeds: Sequence[int],
    prompts: Sequence[Hashable],
    draws: int = SET_DRAWS,
) -> Draws:
    """Of figures of whole sets: ``figures[s](places)`` is that of training seed s on those places, which index
    ``prompts``, the prompt of each picture. Few draws, for each is computed anew."""
    everything = range(len(prompts))
    drawn = set_draws(figures, prompts, draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few pictures; the tables say n
        values = [figure(everything) for figure in figures]
    keys = tuple(sorted(set(prompts), key=str))
    return Draws(np.array(values), drawn, tuple(seeds), len(prompts), keys, centred=True)


def pigeonhole(drawn: np.ndarray, picked: np.ndarray) -> np.ndarray:
    """The mean over training seeds in each draw, of prompts and of seeds.

    Args:
        drawn: (seeds, draws), each seed's figure on that draw's prompts.
        picked: (draws, seeds), which seeds that draw takes; drawn with replacement.

    Returns:
        (draws,). The drawn seeds' distance to the mean of all is stretched by sqrt(S / (S - 1)), which makes its
        variance the unbiased one of a mean of S.
    """
    count = len(drawn)
    whole = drawn.mean(0)
    if count == 1:
        return whole
    taken = np.take_along_axis(drawn.T, picked, axis=1).mean(1)
    return whole + math.sqrt(count / (count - 1)) * (taken - whole)


def estimate(own: Draws, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean over training seeds with its 95% interval, cut at ``bounds``."""
    return _estimate(own.value, pigeonhole(own.drawn, _seeds(own)), own, bounds)


def difference(own: Draws, other: Draws) -> Estimate:
    """``own`` less ``other``, on the same prompts; on the same drawn training seeds where both have the same.

    Raises:
        ValueError: the two have other prompts.
    """
    if own.clusters != other.clusters or own.drawn.shape[1] != other.drawn.shape[1]:
        raise ValueError("clusters: a paired difference needs the same prompts")
    value = None if own.value is None or other.value is None else own.value - other.value
    if own.seeds == other.seeds:
        drawn = pigeonhole(own.drawn - other.drawn, _seeds(own))
    else:
        drawn = pigeonhole(own.drawn, _seeds(own)) - pigeonhole(other.drawn, _seeds(other))
    return _estimate(value, drawn, own)


def _seeds(of: Draws) -> np.ndarray:
    """Which training seeds each draw takes, (draws, seeds); the same for rows with the same seeds. Other seeds are
    drawn by another stream: runs that have nothing in common must not rise and fall together."""
    rng = np.random.default_rng([SEED_STREAM, *of.seeds])
    return rng.integers(len(of.seeds), size=(of.drawn.shape[1], len(of.seeds)))


def _estimate(
    value: float | None, drawn: np.ndarray, own: Draws, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    return estimate_of(value, drawn, own.n, len(own.clusters), centred=own.centred, bounds=bounds)
