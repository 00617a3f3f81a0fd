"""COCO-MIG's rule by hand, in both modes."""

import pytest

from trueline.evaluation.benchmarks.coco_mig import Instance, score
from trueline.perception import Detection

BOX = (0.0, 0.0, 0.5, 0.5)
HALF = (0.0, 0.0, 0.5, 0.25)  # IoU 1/2
THIRD = (0.25, 0.0, 0.75, 0.5)  # IoU 1/3


def test_right_place_and_colour():
    seen = [Detection("cat", BOX, 0.4, "red")]
    for mode in ("official", "fixed"):
        assert score(seen, [Instance("cat", "red", BOX, {"red", "brown"})], mode) == {
            "isr": (1, 1),
            "miou": (1, 1),
        }


def test_half_is_enough():
    assert score([Detection("cat", HALF)], [Instance("cat", "red", BOX, {"red"})]) == {
        "isr": (1, 1),
        "miou": (0.5, 1),
    }


@pytest.mark.parametrize(("mode", "overlap"), [("official", 1 / 3), ("fixed", 0)])
def test_a_box_elsewhere_fails_but_its_iou_counts(mode, overlap):
    result = score([Detection("cat", THIRD, 1, "red")], [Instance("cat", "red", BOX, {"red"})], mode)
    assert result == {"isr": (0, 1), "miou": (pytest.approx(overlap), 1)}


def test_a_wrong_colour_costs_the_iou_too():
    for mode in ("official", "fixed"):
        seen = [Detection("cat", BOX, 1, "blue")]
        assert score(seen, [Instance("cat", "red", BOX, {"blue"})], mode) == {"isr": (0, 1), "miou": (0, 1)}


def test_colour_of_the_true_box_or_of_the_detection():
    seen, instance = [Detection("cat", HALF, 1, "blue")], Instance("cat", "red", BOX, {"red"})
    assert score(seen, [instance], "official") == {"isr": (1, 1), "miou": (0.5, 1)}
    assert score(seen, [instance], "fixed") == {"isr": (0, 1), "miou": (0, 1)}


def test_best_overlap_of_the_class_counts():
    seen = [
        Detection("cat", THIRD, 0.9, "red"),
        Detection("cat", BOX, 0.3, "red"),
        Detection("dog", BOX, 1, "red"),
    ]
    wanted = [Instance("cat", "red", BOX, {"red"}), Instance("cow", "red", BOX, {"red"})]
    for mode in ("official", "fixed"):
        assert score(seen, wanted, mode) == {"isr": (1, 2), "miou": (1, 2)}
    assert score([], wanted) == {"isr": (0, 2), "miou": (0, 2)}
