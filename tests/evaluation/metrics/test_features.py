"""What may be a feature: shapes, NaN, lengths, torch tensors."""

import numpy as np
import pytest
import torch

from trueline.evaluation.metrics.features import feature_matrix, unit_rows


def test_arrays_and_tensors_of_any_float_type_become_float64():
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    for given in (rows, rows.astype(np.float16), rows.tolist(), torch.tensor(rows, dtype=torch.bfloat16)):
        out = feature_matrix(given)
        assert out.dtype == np.float64
        assert (out == rows).all()
    assert feature_matrix(torch.ones(2, 3, requires_grad=True)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^probe: must be of shape \(n, d\)"):
        feature_matrix(np.zeros(shape), "probe")


def test_rows_that_are_not_finite_are_counted_once_each():
    rows = np.ones((5, 3))
    rows[1] = np.nan
    rows[4, 2] = np.inf
    with pytest.raises(ValueError, match="2 of 5 rows hold NaN"):
        feature_matrix(rows)


def test_unit_rows_are_made_exact_and_others_counted():
    rows = np.array([[0.6, 0.8], [1.004, 0.0]])
    assert np.linalg.norm(unit_rows(rows), axis=1) == pytest.approx([1, 1], abs=1e-15)
    with pytest.raises(ValueError, match="1 of 3 rows are not of length 1"):
        unit_rows([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="1 of 1 rows are not of length 1"):
        unit_rows([[0.0, 0.0]])
