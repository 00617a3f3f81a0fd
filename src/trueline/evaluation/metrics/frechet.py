"""Frechet distance between two sets of feature vectors (FID is this on Inception's), streaming and mergeable.

Heusel et al. 2017: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the roots of
the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: no complex numbers, no epsilon on the diagonal.
Which features, and how pictures were resized before them, must stand in the name of every number.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean (d,) and scatter (d, d; sum of outer products about the mean), float64."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """From (n, d) features; n may be 0.

        Raises:
            ValueError: not two-dimensional, or not finite.
        """
        rows = np.asarray(features, np.float64)
        if rows.ndim != 2:
            raise ValueError(f"features: must have shape (n, d), got {rows.shape}")
        if bad := int((~np.isfinite(rows)).any(1).sum()):
            raise ValueError(
                f"features: {bad} of {len(rows)} rows are not finite; the pictures they come from are broken"
            )
        mean = rows.mean(0) if len(rows) else np.zeros(rows.shape[1])
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    def merge(self, other: Moments) -> Moments:
        """Of both sets together, exactly (Chan et al. 1979)."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"features: widths differ ({len(self.mean)} and {len(other.mean)})")
        count = self.count + other.count
        if count == 0:
            return self
        off = other.mean - self.mean
        mean = self.mean + off * (other.count / count)
        between = np.outer(off, off) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, as all FID code has it."""
        if self.count < 2:
            raise ValueError(f"features: a covariance needs two pictures at least (got {self.count})")
        return self.scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """The distance, >= 0. Warns when a set has fewer pictures than features: the number is then biased upwards
    and may be compared at equal n only."""
    width = len(a.mean)
    if width != len(b.mean):
        raise ValueError(f"features: widths differ ({width} and {len(b.mean)})")
    if min(a.count, b.count) <= width:
        warnings.warn(
            f"a Frechet distance of {a.count} and {b.count} pictures in {width} features is biased: compare it at "
            "this number of pictures only",
            stacklevel=2,
        )
    # tr (C1^(1/2) C2 C1^(1/2))^(1/2) is the sum of singular values of F1^T F2, with C = F F^T: no root is taken of
    # rounding errors, which would add 1e-8 for every dimension without data.
    crossed = np.linalg.svd(_factor(a.covariance).T @ _factor(b.covariance), compute_uv=False)
    # The trace is meant to cancel for equal sets: what rounding leaves below zero is zero.
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * crossed.sum()
    off = a.mean - b.mean
    return max(0.0, float(off @ off + trace))


def _factor(matrix: np.ndarray) -> np.ndarray:
    """F (d, rank) with F F^T = a positive semi-definite matrix; eigenvalues within rounding of 0 are left out."""
    values, vectors = np.linalg.eigh(matrix)
    real = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors[:, real] * np.sqrt(values[real])
