"""Crop rules: windows worked out by hand, and their pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trueline.evaluation.metrics.regions import RULES, crop, window

BOX = (0.21, 0.1, 0.68, 0.3)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("plain", (20, 10, 69, 31)),  # 20.1..68.5 and 10..30.1 outwards, at 100 x 100
        ("square", (34, 10, 55, 31)),  # 49 x 21: (49 - 21) // 2 = 14 off the left
        ("padded", (15, 7, 74, 33)),  # 48.4 x 20.1, a tenth each side: 15.26..73.34, 7.99..32.11
    ],
)
def test_windows_by_hand(rule, expected):
    assert window((0.201, 0.1, 0.685, 0.301), (100, 100), rule) == expected


def test_rounding_errors_of_a_box_on_whole_pixels_add_no_pixel():
    assert 0.07 * 100 > 7  # what must not become 8 columns
    for left in range(99):
        assert window((left / 100, 0.0, (left + 1) / 100, 1.0), (100, 10), "plain") == (left, 0, left + 1, 10)


def test_what_reaches_over_the_edge_is_cut_off():
    assert window((-0.2, 0.5, 0.5, 1.3), (10, 20), "plain") == (0, 10, 5, 20)
    assert window((0.0, 0.0, 1.0, 1.0), (10, 20), "padded") == (0, 0, 10, 20)


def test_a_crop_holds_the_pixels_of_its_window():
    pixels = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
    image = Image.fromarray(pixels)
    for rule in RULES:
        left, top, right, bottom = window(BOX, image.size, rule)
        assert (np.asarray(crop(image, BOX, rule)) == pixels[top:bottom, left:right]).all()
    assert image.size == (60, 40)


def test_small_regions_are_none_for_the_caller_to_count():
    image = Image.new("RGB", (100, 100))
    box = (0.1, 0.1, 0.9, 0.15)
    assert crop(image, box, "plain", min_side=5).size == (80, 5)
    assert crop(image, box, "plain", min_side=6) is None
    assert crop(image, (0.5, 0.5, 0.5001, 0.5001), "plain").size == (1, 1)


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0, 0.5, 1),
        (0.6, 0, 0.5, 1),
        (1.0, 0, 1.2, 1),
        (-1, 0, 0, 1),
        (math.nan, 0, 1, 1),
        (0, 0, 1, math.nan),
    ],
)
def test_empty_or_outside_boxes_are_refused(box):
    with pytest.raises(ValueError, match=r"^box: must be x0,y0,x1,y1"):
        window(box, (10, 10), "plain")


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match=r"plain, square, padded \(got 'tight'\)"):
        window(BOX, (10, 10), "tight")


unit = st.floats(0, 1)


@given(st.tuples(unit, unit, unit, unit), st.integers(1, 700), st.integers(1, 700))
def test_windows_lie_in_the_picture_and_keep_their_promises(corners, width, height):
    x0, x1 = sorted(corners[::2])
    y0, y1 = sorted(corners[1::2])
    if not (x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < 1 and y0 < 1):
        return
    found = {rule: window((x0, y0, x1, y1), (width, height), rule) for rule in RULES}
    for left, top, right, bottom in found.values():
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    plain, square, padded = found["plain"], found["square"], found["padded"]
    assert plain[0] <= x0 * width + 1e-6
    assert plain[2] >= x1 * width - 1e-6
    assert square[2] - square[0] == square[3] - square[1] == min(plain[2] - plain[0], plain[3] - plain[1])
    assert all(p <= q for p, q in zip(padded[:2], plain[:2], strict=True))
    assert all(p >= q for p, q in zip(padded[2:], plain[2:], strict=True))
