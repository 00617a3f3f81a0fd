"""What the distances between two sets of feature vectors share: their input, checked, and their result."""

from dataclasses import dataclass
from typing import Any

import numpy as np

#: How far a "unit" vector's length may be from 1: bf16 rounding stays well below, a forgotten division does not.
UNIT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Distance:
    """A distance between two sets of pictures; without its protocol and its sizes it means nothing.

    ``n`` and ``n_reference``: rows of the first and the second set. ``dimension`` of a feature vector.
    ``protocol``: the estimator and its settings in words. ``deviation``: standard deviation over subsets, None
    for a distance that draws none.
    """

    value: float
    n: int
    n_reference: int
    dimension: int
    protocol: str
    deviation: float | None = None


def feature_matrix(features: Any, name: str = "features") -> np.ndarray:
    """(n, d) float64 of an array or a torch tensor on any device and of any float type.

    Raises:
        ValueError: not two-dimensional, d = 0, or rows with NaN or infinity (how many of how many).
    """
    if hasattr(features, "detach"):  # torch, without importing it
        features = features.detach().cpu().double()
    matrix = np.asarray(features, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"{name}: must be of shape (n, d) with d > 0 (got {matrix.shape})")
    bad = int((~np.isfinite(matrix).all(axis=1)).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of {len(matrix)} rows hold NaN or infinity; drop those pictures and say how many"
        )
    return matrix


def unit_rows(embeddings: Any, name: str = "embeddings") -> np.ndarray:
    """(n, d) float64 of rows of length 1 within ``UNIT_TOLERANCE``, here made exact.

    Raises:
        ValueError: as ``feature_matrix``, or rows of another length.
    """
    matrix = feature_matrix(embeddings, name)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    bad = int((np.abs(lengths - 1) > UNIT_TOLERANCE).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of {len(matrix)} rows are not of length 1; divide each embedding by its length"
        )
    return matrix / lengths


def same_space(first: np.ndarray, second: np.ndarray, least: int) -> None:
    """Refuse two sets (n, d), (m, d') whose dimensions differ, or of fewer than ``least`` rows."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"features: dimensions differ ({first.shape[1]} and {second.shape[1]}); use one extractor for both sets"
        )
    if min(len(first), len(second)) < least:
        raise ValueError(
            f"features: each set needs at least {least} rows (got {len(first)} and {len(second)}); add pictures"
        )
