"""Means with intervals that are honest about prompts: pictures of one prompt are not independent.

Every interval is a 95% percentile bootstrap over *clusters* (prompts): a draw takes as many prompts as there
are, with replacement, and all the pictures of each. Two methods on the same prompts are compared on the same
draws: what is hard for both cancels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
SET_DRAWS = 100  #: of what is no mean over pictures, each of which is computed anew
COVERED = 0.95
EDGES = ((1 - COVERED) / 2, 1 - (1 - COVERED) / 2)
#: At which intervals of sets and of votes were published. ``EDGES`` are 2e-17 beside them, the last digit of a row.
DECIMAL_EDGES = (0.025, 0.975)
_CHUNK = 4_000_000  #: numbers drawn at once at most


@dataclass(frozen=True)
class Estimate:
    """``value`` of ``n`` pictures from ``clusters`` prompts.

    ``value`` is None when nothing was asked (all denominators 0); ``low`` and ``high`` are None, too, when there is
    one prompt only, which says nothing about others.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    empty_draws: int = 0  #: draws in which nothing was asked, left out of the interval


@dataclass(frozen=True)
class Terms:
    """What each picture adds to a ratio, summed over each cluster: float64 (clusters,) both.

    Shards are joined by joining their pictures' terms before this is built.
    """

    keys: tuple[Hashable, ...]
    numerators: np.ndarray
    denominators: np.ndarray
    n: int

    @classmethod
    def of(
        cls, numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable]
    ) -> Terms:
        """From one numerator, denominator and cluster key per picture. Pictures not asked have denominator 0.

        Raises:
            ValueError: different lengths, a negative denominator, or numbers that are not finite.
        """
        top, bottom = (np.asarray(list(v), float) for v in (numerators, denominators))
        if not len(top) == len(bottom) == len(clusters):
            raise ValueError(
                f"clusters: give one per picture (got {len(top)} numerators, {len(bottom)} denominators, "
                f"{len(clusters)} clusters)"
            )
        if bad := int((~np.isfinite(top) | ~np.isfinite(bottom)).sum()):
            raise ValueError(f"numerators: {bad} of {len(top)} pictures are not finite; leave them out")
        if (bottom < 0).any():
            raise ValueError("denominators: must not be negative")
        # Sorted, so that shards joined in another order give the same draws.
        places = {key: place for place, key in enumerate(sorted(set(clusters), key=str))}
        rows = np.array([places[key] for key in clusters], int)
        sums = [np.bincount(rows, weights=v, minlength=len(places)) for v in (top, bottom)]
        return cls(tuple(places), sums[0], sums[1], int((bottom > 0).sum()))

    @property
    def value(self) -> float | None:
        total = self.denominators.sum()
        return float(self.numerators.sum() / total) if total > 0 else None

    def draws(self, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
        """The ratio in each bootstrap draw, (draws,); NaN where nothing was asked.

        The draws depend on the number of clusters and the seed only, so that ratios on the same clusters can be
        compared draw by draw.
        """
        count = len(self.keys)
        rng, parts = np.random.default_rng(seed), []
        both = np.stack([self.numerators, self.denominators], 1)
        step = max(1, _CHUNK // max(count, 1))
        for start in range(0, draws, step):
            picked = rng.integers(count, size=(min(step, draws - start), count))
            parts.append(both[picked].sum(1))
        top, bottom = np.concatenate(parts).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return top / bottom


def ratio(terms: Terms, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Sum of numerators over sum of denominators, with its interval."""
    return _estimate(terms.value, [terms], lambda: terms.draws(draws, seed))


def macro(parts: Sequence[Terms], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean of several ratios (GenEval's overall score is the mean of its six tasks).

    The parts are groups of other prompts, so each is drawn by itself.
    """
    values = [part.value for part in parts]
    known = [v for v in values if v is not None]
    value = float(np.mean(known)) if known and len(known) == len(values) else None
    return _estimate(
        value, parts, lambda: np.mean([p.draws(draws, seed + i) for i, p in enumerate(parts)], axis=0)
    )


def macro_difference(a: Sequence[Terms], b: Sequence[Terms], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """``macro`` of ``a`` less that of ``b``, group by group on the same prompts.

    Raises:
        ValueError: the two have other groups or other prompts.
    """
    if [part.keys for part in a] != [part.keys for part in b]:
        raise ValueError("clusters: a paired difference needs the same groups of the same prompts")
    pairs = list(zip(a, b, strict=True))
    values = [x.value - y.value for x, y in pairs if x.value is not None and y.value is not None]
    value = float(np.mean(values)) if values and len(values) == len(pairs) else None

    def draw() -> np.ndarray:
        return np.mean(
            [x.draws(draws, seed + i) - y.draws(draws, seed + i) for i, (x, y) in enumerate(pairs)], axis=0
        )

    return _estimate(value, [*a, *b], draw)


def paired_difference(a: Terms, b: Terms, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Ratio of ``a`` less that of ``b``, on the same prompts.

    Raises:
        ValueError: the two have other prompts.
    """
    if a.keys != b.keys:
        raise ValueError(
            f"clusters: a paired difference needs the same prompts (got {len(a.keys)} and "
            f"{len(b.keys)}, {len(set(a.keys) & set(b.keys))} in common)"
        )
    value = None if a.value is None or b.value is None else a.value - b.value
    return _estimate(value, [a, b], lambda: a.draws(draws, seed) - b.draws(draws, seed))


def _estimate(value: float | None, parts: Sequence[Terms], draw: Callable[[], np.ndarray]) -> Estimate:
    n, clusters = max(p.n for p in parts), max(len(p.keys) for p in parts)
    if value is None or min(len(p.keys) for p in parts) < 2:
        return Estimate(value, None, None, n, clusters)
    return estimate_of(value, draw(), n, clusters)


def estimate_of(
    value: float | None,
    drawn: np.ndarray,
    n: int,
    clusters: int,
    *,
    centred: bool = False,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    edges: tuple[float, float] = EDGES,
) -> Estimate:
    """``value`` with the percentile interval of its bootstrap draws (draws,), of which those that are NaN are left
    out; none for a single cluster.

    ``centred``: the interval is moved so that the draws' mean is the value, for figures of whole sets, which drawing
    a picture twice biases. ``bounds``: of the figure, at which the interval is cut.
    """
    kept = drawn[np.isfinite(drawn)]
    empty = len(drawn) - len(kept)
    if value is None or clusters < 2 or not len(kept):
        return Estimate(value, None, None, n, clusters, empty)
    low, high = np.quantile(kept, edges)
    if centred:
        low, high = (end - kept.mean() + value for end in (low, high))
    return Estimate(value, max(float(low), bounds[0]), min(float(high), bounds[1]), n, clusters, empty)


def set_draws(
    figures: Sequence[Callable[[Sequence[int]], float]],
    clusters: Sequence[Hashable],
    draws: int = SET_DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """Figures of whole sets, each on the same drawn clusters: (figures, draws).

    ``figures[i](places)``: its value on those places, which index ``clusters``, the cluster of each picture. Few
    draws, for each value is computed anew; none for a single cluster.
    """
    keys = sorted(set(clusters), key=str)
    members = [[place for place, cluster in enumerate(clusters) if cluster == key] for key in keys]
    rng = np.random.default_rng(seed)
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few pictures: said once, for the value itself
        for _ in range(draws if len(keys) > 1 else 0):
            picked = rng.integers(len(keys), size=len(keys))
            places = [place for key in picked for place in members[key]]
            values.append([figure(places) for figure in figures])
    return np.array(values).reshape(len(values), len(figures)).T


def crossed_mean(
    scores: Sequence[float],
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """The mean of scores that two kinds of clusters cross, such as prompts and raters. ``clusters``: the first.

    The pigeonhole bootstrap (Owen 2007, doi:10.1214/07-AOAS122): in each draw a score counts as often as its first
    cluster was drawn, times as often as its second was. Both are drawn as counts (multinomial), so the draws are not
    those of ``Terms``.
    """
    rng = np.random.default_rng(seed)
    weights, sizes = np.ones((draws, len(scores))), []
    for keys in (first, second):
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        sizes.append(len(places))
        counts = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=draws)
        weights *= counts[:, [places[key] for key in keys]]
    with np.errstate(invalid="ignore"):
        # a draw may miss every score where the second clusters met different first ones
        drawn = weights @ np.asarray(scores, float) / weights.sum(1)
    return estimate_of(sum(scores) / len(scores), drawn, len(scores), sizes[0], edges=DECIMAL_EDGES)
