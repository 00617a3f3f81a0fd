"""Numerators and denominators."""

import math

import pytest

from trueline.boxes import area, intersection, iou
from trueline.evaluation.metrics.detection import surest, surest_first
from trueline.evaluation.metrics.observations import aggregate, is_official, share, total
from trueline.perception import Detection


def test_aggregate_divides_sums_and_not_ratios():
    rows = [{"precision": (1.0, 1.0), "hit": share(True)}, {"precision": (1.0, 3.0)}, {"hit": share(False)}]
    assert total(rows) == {"precision": (2.0, 4.0), "hit": (1.0, 2.0)}
    assert aggregate(rows) == {"precision": 0.5, "hit": 0.5}
    assert aggregate(rows * 3) == aggregate(rows), "a duplicated picture changes nothing"


def test_nothing_counted_is_nan():
    assert math.isnan(aggregate([{"precision": (0.0, 0.0)}])["precision"])
    assert aggregate([]) == {}


def test_mode_is_checked():
    assert is_official("official") and not is_official("fixed")
    with pytest.raises(ValueError, match="mode: must be official or fixed"):
        is_official("offical")


def test_geometry():
    box, other = (0, 0, 4, 2), (2, 0, 6, 2)
    assert (area(box), area(box, edge=1)) == (8, 15)
    assert area((4, 0, 0, 2)) == 0
    assert (intersection(box, other), iou(box, other)) == (4, 4 / 12)
    assert iou(box, (5, 5, 6, 6)) == 0 and iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0


def test_surest():
    low, high, dog = (
        Detection(label, (0, 0, 1, 1), score) for label, score in [("cat", 0.2), ("cat", 0.9), ("dog", 0.5)]
    )
    assert surest_first([low, high, dog]) == [high, dog, low]
    assert surest([low, high, dog], "cat") == high and surest([low], "dog") is None
