"""The two numbers that are called CLIP score, on embeddings made by hand."""

import math

import numpy as np
import pytest
import torch

from trueline.evaluation.metrics.clip_score import clip_scores, hessel_scores

ANGLES = np.radians([0, 60, 90, 180])
PICTURES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
TEXTS = np.tile([1.0, 0.0], (4, 1))


def test_scores_are_cosines_and_hessels_are_clipped_and_weighted():
    assert clip_scores(PICTURES, TEXTS) == pytest.approx([1, 0.5, 0, -1], abs=1e-15)
    assert hessel_scores(PICTURES, TEXTS) == pytest.approx([2.5, 1.25, 0, 0], abs=1e-15)


def test_each_picture_meets_its_own_text_whatever_the_batch():
    rng = np.random.default_rng(0)
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 9, 5)))
    whole = clip_scores(a, b)
    assert np.concatenate([clip_scores(a[:4], b[:4]), clip_scores(a[4:], b[4:])]) == pytest.approx(
        whole, abs=1e-15
    )
    order = rng.permutation(9)
    assert clip_scores(a[order], b[order]) == pytest.approx(whole[order], abs=1e-15)


def test_half_precision_costs_only_its_rounding():
    a = torch.nn.functional.normalize(torch.ones(1, 64, dtype=torch.float64) + torch.eye(1, 64), dim=1)
    b = torch.nn.functional.normalize(torch.ones(1, 64, dtype=torch.float64), dim=1)
    exact = 65 / math.sqrt(64) / math.sqrt(63 + 4)
    assert clip_scores(a, b)[0] == pytest.approx(exact, rel=1e-12)
    assert clip_scores(a.bfloat16(), b.bfloat16())[0] == pytest.approx(exact, abs=2e-3)


def test_bad_embeddings_are_named():
    with pytest.raises(ValueError, match="texts: must be one embedding a picture"):
        clip_scores(PICTURES, TEXTS[:3])
    with pytest.raises(ValueError, match="images: 4 of 4 rows are not of length 1"):
        clip_scores(PICTURES * 20, TEXTS)
    with pytest.raises(ValueError, match="texts: 1 of 4 rows hold NaN"):
        clip_scores(PICTURES, np.where(np.arange(4)[:, None] == 2, np.nan, TEXTS))
