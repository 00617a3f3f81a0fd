"""The Frechet distance against scipy's matrix root, and its streaming."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from trueline.evaluation.metrics.frechet import Moments, frechet_distance


def by_sqrtm(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook formula, with scipy's general matrix root."""
    off = a.mean(0) - b.mean(0)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(off @ off + np.trace(ca + cb - 2 * np.real(sqrtm(ca @ cb))))


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 24))
    return rng.normal(size=(300, 24)) @ mix, rng.normal(0.3, 1.4, size=(260, 24)) @ mix


def test_it_equals_the_formula_with_scipys_root(sets):
    a, b = sets
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(by_sqrtm(a, b), rel=1e-6)


def test_a_shift_of_one_set_is_its_squared_length(sets):
    a, _ = sets
    shift = np.full(24, 0.5)
    assert frechet_distance(Moments.of(a), Moments.of(a + shift)) == pytest.approx(6.0, rel=1e-6)


def test_equal_sets_are_at_distance_zero_and_the_order_does_not_count(sets):
    a, b = map(Moments.of, sets)
    assert frechet_distance(a, a) < 1e-3
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


@pytest.mark.parametrize("cuts", [(100, 200), (1, 2), (0, 299)])
def test_shards_merged_in_any_order_are_the_whole(sets, cuts):
    a, b = sets
    shards = [Moments.of(part) for part in np.split(a, cuts)]
    merged = shards[2].merge(shards[0]).merge(shards[1])
    other = Moments.of(b)
    assert merged.count == 300
    assert frechet_distance(merged, other) == pytest.approx(frechet_distance(Moments.of(a), other), rel=1e-9)


def test_fewer_pictures_than_features_warn_with_both_numbers():
    few = np.random.default_rng(1).normal(size=(10, 24))
    with pytest.warns(UserWarning, match="10 and 10 pictures in 24 features"):
        assert frechet_distance(Moments.of(few), Moments.of(few)) < 1e-3


@pytest.mark.filterwarnings("ignore:a Frechet distance")
def test_a_rank_deficient_covariance_is_no_trouble():
    rng = np.random.default_rng(2)
    low = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 64))
    other = low + np.linspace(0, 1, 64)
    expected = float((np.linspace(0, 1, 64) ** 2).sum())
    assert frechet_distance(Moments.of(low), Moments.of(other)) == pytest.approx(expected, rel=1e-5)


def test_bad_features_are_named():
    with pytest.raises(ValueError, match="1 of 2 rows"):
        Moments.of(np.array([[1.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        Moments.of(np.zeros(3))
    with pytest.raises(ValueError, match="two pictures"):
        frechet_distance(Moments.of(np.zeros((1, 2))), Moments.of(np.zeros((1, 2))))
    with pytest.raises(ValueError, match="widths"):
        frechet_distance(Moments.of(np.zeros((3, 2))), Moments.of(np.zeros((3, 4))))
