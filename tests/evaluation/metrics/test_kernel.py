"""KID and CMMD against sums written out by hand, and what each estimator promises."""

import math

import numpy as np
import pytest

from trueline.evaluation.metrics import kernel
from trueline.evaluation.metrics.kernel import cmmd, kid, kid_whole

X = np.array([[1.0, 0.0], [0.0, 2.0]])
Y = np.array([[1.0, 1.0], [0.0, 0.0], [2.0, 0.0]])


def units(n, d=16, seed=0, shift=0.0):
    rows = np.random.default_rng(seed).normal(size=(n, d)) + shift
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_kid_by_hand():
    # k = (x.y / 2 + 1)^3. Within X: x0.x1 = 0 -> 1. Within Y: 0 -> 1, 2 -> 8, 0 -> 1, mean 10/3.
    # Across: 1 -> 3.375, 0 -> 1, 2 -> 8 and 2 -> 8, 0 -> 1, 0 -> 1, mean 22.375 / 6.
    assert kid_whole(X, Y).value == pytest.approx(1 + 10 / 3 - 2 * 22.375 / 6, rel=1e-12)


def test_a_subset_of_everything_is_the_whole():
    a, b = units(20), units(20, seed=1)
    whole, drawn = kid_whole(a, b), kid(a, b, subsets=3, subset_size=20)
    assert drawn.value == pytest.approx(whole.value, rel=1e-9)
    assert drawn.deviation == pytest.approx(0, abs=1e-12)
    assert (whole.n, whole.n_reference, whole.dimension, whole.deviation) == (20, 20, 16, None)


def test_kid_is_unbiased_under_equal_distributions_and_the_v_statistic_is_not():
    rng = np.random.default_rng(3)
    pairs = [(rng.normal(size=(8, 4)), rng.normal(size=(8, 4))) for _ in range(3000)]
    unbiased = np.array([kernel._mmd2(a, b, kernel.polynomial, unbiased=True) for a, b in pairs])
    biased = np.array([kernel._mmd2(a, b, kernel.polynomial, unbiased=False) for a, b in pairs])
    error = unbiased.std() / math.sqrt(len(pairs))
    assert abs(unbiased.mean()) < 3 * error
    assert biased.mean() > 10 * error
    assert biased.min() >= -1e-12
    assert unbiased.min() < 0


def test_kid_states_its_protocol_and_repeats_by_seed():
    a, b = units(60), units(50, seed=1, shift=0.2)
    first = kid(a, b, subsets=10, subset_size=30, seed=4)
    assert first == kid(a, b, subsets=10, subset_size=30, seed=4)
    assert first.value != kid(a, b, subsets=10, subset_size=30, seed=5).value
    assert "10 subsets of 30, seed 4" in first.protocol
    assert (first.n, first.n_reference) == (60, 50)
    assert first.deviation > 0


@pytest.mark.parametrize(("subsets", "size"), [(10, 51), (10, 1), (0, 20)])
def test_impossible_subsets_are_refused(subsets, size):
    with pytest.raises(ValueError, match="from 60 and 50 pictures; lower subset_size"):
        kid(units(60), units(50), subsets=subsets, subset_size=size)


def test_cmmd_by_hand():
    # |e0 - e1|^2 = 2: k = exp(-2 / 200).
    # V-statistic: within {e0, e1} (2 + 2k) / 4, within {e0} 1, across (1 + k) / 2.
    k = math.exp(-0.01)
    pair, one = np.eye(2), np.eye(2)[:1]
    assert cmmd(pair, one).value == pytest.approx(1000 * ((1 + k) / 2 + 1 - (1 + k)), rel=1e-9)
    # U-statistic: within {e0, e1} only k; within {e0, e0} 1.
    assert cmmd(pair, np.eye(2)[[0, 0]], unbiased=True).value == pytest.approx(
        1000 * (k + 1 - (1 + k)), abs=1e-9
    )
    assert "V-statistic" in cmmd(pair, one).protocol


def test_cmmd_of_equal_sets_is_zero_and_symmetric_and_grows_with_a_shift():
    a, near, far = units(40), units(30, seed=1, shift=0.1), units(30, seed=1, shift=1.0)
    assert cmmd(a, a).value == pytest.approx(0, abs=1e-9)
    assert cmmd(a, near).value == pytest.approx(cmmd(near, a).value, rel=1e-12)
    assert 0 < cmmd(a, near).value < cmmd(a, far).value


def test_blocks_and_the_order_of_shards_do_not_matter(monkeypatch):
    a, b = units(50), units(45, seed=1)
    whole = cmmd(a, b).value, kid_whole(a, b).value
    monkeypatch.setattr(kernel, "_BLOCK", 7)
    shards = np.concatenate([a[30:], a[:30]])
    assert (cmmd(shards, b).value, kid_whole(shards, b).value) == pytest.approx(whole, rel=1e-9)


def test_bad_sets_are_named():
    with pytest.raises(ValueError, match=r"reference: 1 of 3 rows hold NaN"):
        kid_whole(X, [[np.nan, 0], [1, 1], [0, 1]])
    with pytest.raises(ValueError, match=r"dimensions differ \(2 and 3\)"):
        kid_whole(X, np.ones((3, 3)))
    with pytest.raises(ValueError, match="at least 2 rows"):
        kid_whole(X[:1], Y)
    with pytest.raises(ValueError, match="embeddings: 1 of 2 rows are not of length 1"):
        cmmd(X, np.eye(2))
