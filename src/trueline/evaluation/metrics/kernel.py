"""Kernel distances between two sets of features: KID and CMMD, both a squared maximum mean discrepancy (MMD^2).

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et al. 2012). The *U-statistic* leaves the pairs of a picture
with itself out and is unbiased (and may be below 0); the *V-statistic* keeps them, is never below 0, and grows as
1/n for equal distributions. Sets of unlike size are fine. There are no moments to sum up: shards merge by
concatenating their features, whose order changes the value by rounding only (the subsets of ``kid`` do depend on it:
sort by picture id first).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from trueline.evaluation.metrics.features import Distance, feature_matrix, same_space, unit_rows

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
_BLOCK = 1024  # rows of a kernel matrix held at once

#: Of rows (a, d) and (b, d) to the kernel matrix (a, b).
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def kid(
    features: Any,
    reference: Any,
    subsets: int = KID_SUBSETS,
    subset_size: int = KID_SUBSET_SIZE,
    seed: int = 0,
) -> Distance:
    """KID (Binkowski et al. 2018) by its usual protocol: mean over random subsets of the U-statistic.

    Kernel (x.y / d + 1)^3; subsets drawn without replacement, afresh from both sets. The numbers 100 and 1000 are
    torch-fidelity's; its draws are not ours, so values agree within ``deviation / sqrt(subsets)``, not to the
    digit. Unscaled: papers often print 1000 times this.

    Raises:
        ValueError: a set smaller than ``subset_size``, or what ``feature_matrix`` refuses.
    """
    x, y = feature_matrix(features), feature_matrix(reference, "reference")
    same_space(x, y, least=2)
    if subsets < 1 or not 2 <= subset_size <= min(len(x), len(y)):
        raise ValueError(
            f"kid: cannot draw {subsets} subsets of {subset_size} from {len(x)} and {len(y)} pictures; "
            "lower subset_size or use kid_whole"
        )
    rng = np.random.default_rng(seed)
    values = [
        _mmd2(
            x[rng.choice(len(x), subset_size, replace=False)],
            y[rng.choice(len(y), subset_size, replace=False)],
            polynomial,
            unbiased=True,
        )
        for _ in range(subsets)
    ]
    protocol = f"KID, cubic kernel, U-statistic, {subsets} subsets of {subset_size}, seed {seed}"
    return Distance(
        float(np.mean(values)), len(x), len(y), x.shape[1], protocol, deviation=float(np.std(values))
    )


def kid_whole(features: Any, reference: Any) -> Distance:
    """KID's U-statistic on all pairs: no draws, and the smallest variance; n^2 d work."""
    x, y = feature_matrix(features), feature_matrix(reference, "reference")
    same_space(x, y, least=2)
    value = _mmd2(x, y, polynomial, unbiased=True)
    return Distance(value, len(x), len(y), x.shape[1], "KID, cubic kernel, U-statistic, all pairs")


def cmmd(embeddings: Any, reference: Any, *, unbiased: bool = False) -> Distance:
    """CMMD (Jayasumana et al. 2024): 1000 MMD^2 of unit CLIP embeddings, kernel exp(-|x - y|^2 / (2 * 10^2)).

    The V-statistic, as in the released code (google-research/cmmd/distance.py@4c42994, whose docstring calls it the
    "minimum-variance/biased version"); ``unbiased`` takes the U-statistic instead. Published values use CLIP
    ViT-L/14 at 336 pixels. Float64 here, float32 there: expect 0.5% between implementations
    (sayakpaul/cmmd-pytorch#3).

    Raises:
        ValueError: embeddings that are not of length 1, or what ``feature_matrix`` refuses.
    """
    x, y = unit_rows(embeddings), unit_rows(reference, "reference")
    same_space(x, y, least=2 if unbiased else 1)
    value = CMMD_SCALE * _mmd2(x, y, gaussian, unbiased)
    kind = "U" if unbiased else "V"
    protocol = f"CMMD, Gaussian kernel of sigma {CMMD_SIGMA:g}, {kind}-statistic, times {CMMD_SCALE:g}"
    return Distance(value, len(x), len(y), x.shape[1], protocol)


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (x.y / d + 1)^3."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: np.ndarray, y: np.ndarray, sigma: float = CMMD_SIGMA) -> np.ndarray:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    squares = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * (x @ y.T)
    return np.exp(-squares / (2 * sigma**2))


def _mmd2(x: np.ndarray, y: np.ndarray, kernel: Kernel, unbiased: bool) -> float:
    """MMD^2 of (n, d) and (m, d), as U-statistic or as V-statistic."""
    within = _within(x, kernel, unbiased) + _within(y, kernel, unbiased)
    return within - 2 * _total(x, y, kernel) / (len(x) * len(y))


def _within(x: np.ndarray, kernel: Kernel, unbiased: bool) -> float:
    """Mean of the kernel over pairs of one set; ``unbiased`` leaves the pairs (i, i) out."""
    total, n = _total(x, x, kernel), len(x)
    if not unbiased:
        return total / (n * n)
    itself = sum(kernel(row[None], row[None]).item() for row in x)
    return (total - itself) / (n * (n - 1))


def _total(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    """Sum of the kernel over all pairs, a block of rows at a time."""
    return sum(float(kernel(x[i : i + _BLOCK], y).sum()) for i in range(0, len(x), _BLOCK))
