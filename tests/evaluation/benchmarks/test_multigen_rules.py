"""MultiGen's rule by hand."""

from trueline.evaluation.benchmarks.multigen import multigen, objects_hit
from trueline.perception import Detection

FIVE = ["book", "cup", "kite", "mouse", "surfboard"]


def seen(*labels, score=0.5):
    return [Detection(label, (0, 0, 1, 1), score) for label in labels]


def test_hits_are_names_and_not_detections():
    assert objects_hit(seen("book", "book", "cup", "cow"), FIVE) == 2
    assert objects_hit(seen("book", score=0.1), FIVE) == 0, "above the threshold, not at it"
    assert objects_hit(seen("book", score=0.1), FIVE, threshold=0.05) == 1


def test_at_least_n():
    assert multigen(seen("book", "cup", "kite"), FIVE) == {
        "object_accuracy": (3, 5),
        "mg1": (1, 1),
        "mg2": (1, 1),
        "mg3": (1, 1),
        "mg4": (0, 1),
        "mg5": (0, 1),
    }
