"""Average precision against precision-recall curves worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.evaluation.metrics.average_precision import APInput, average_precision
from trueline.evaluation.metrics.detection import Truth
from trueline.perception import Detection

THERE, AWAY = (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)


def curve(scores, hits, truths):
    return average_precision(np.array(scores, float), np.array(hits, bool), truths)


def filled(pictures, **settings):
    state = APInput(**settings)
    for detections, truths in pictures:
        state.add(detections, truths)
    return state


def test_curves_by_hand():
    assert curve([0.9, 0.8], [1, 1], 2) == pytest.approx(1)
    assert curve([0.9, 0.8], [0, 0], 2) == 0
    assert curve([], [], 3) == 0
    # Recall .5 at precision 1: recalls 0, .01, ... .5 are 51 of 101.
    assert curve([0.9], [1], 2) == pytest.approx(51 / 101)
    # Hit, miss, hit of 2: precision 1 up to recall .5, then 2/3.
    assert curve([0.9, 0.8, 0.7], [1, 0, 1], 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # Miss first: 1/2 at recall .5 and 2/3 at recall 1, which the envelope carries back.
    assert curve([0.9, 0.8, 0.7], [0, 1, 1], 2) == pytest.approx(2 / 3)
    # A miss after full recall costs nothing.
    assert curve([0.9, 0.8], [1, 0], 1) == pytest.approx(1)


def test_equal_scores_enter_together_whatever_their_order():
    assert curve([0.5, 0.5], [1, 0], 1) == curve([0.5, 0.5], [0, 1], 1) == pytest.approx(0.5)


def test_a_recall_without_truth_is_refused():
    with pytest.raises(ValueError, match="truths: must be at least 1"):
        curve([0.5], [0], 0)


def test_coco_s_ten_thresholds():
    truth = Truth("cat", (0.0, 0.0, 1.0, 1.0))
    state = filled([([Detection("cat", (0.0, 0.0, 0.72, 1.0), 0.9)], [truth])])
    assert state.thresholds == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    assert (state.mean(0.5), state.mean(0.7), state.mean(0.75)) == (pytest.approx(1), pytest.approx(1), 0)
    assert state.mean() == pytest.approx(0.5)


def test_a_truth_is_found_once_and_by_the_surest():
    truth = Truth("cat", THERE)
    copies = [Detection("cat", THERE, 0.5), Detection("cat", (0.0, 0.0, 0.38, 1.0), 0.9)]
    state = filled([(copies, [truth]), ([Detection("cat", AWAY, 0.7)], [Truth("cat", AWAY)])])
    # 0.9 hits, 0.7 hits, the copy at 0.5 is false but comes after full recall.
    assert state.mean(0.5) == pytest.approx(1)
    # At .95 the surest still has 0.38 / 0.4 = .95; its copy never gets the truth.
    assert state.mean(0.95) == pytest.approx(1)


def test_labels_weigh_equally_and_those_without_truth_are_counted():
    state = filled(
        [
            (
                [Detection("cat", THERE, 0.9), Detection("cow", AWAY, 0.9)],
                [Truth("cat", THERE), Truth("dog", AWAY)],
            ),
            ([Detection("cat", THERE, 0.8)], [Truth("cat", THERE)]),
        ]
    )
    assert state.by_label(0.5) == {"cat": pytest.approx(1), "dog": 0}
    assert state.mean(0.5) == pytest.approx(0.5)
    assert (state.pictures, state.unscored) == (2, 1)
    assert APInput().mean() is None


def test_only_the_hundred_surest_of_a_picture_count():
    crowd = [Detection("cat", AWAY, 0.9)] * 100 + [Detection("cat", THERE, 0.1)]
    assert filled([(crowd, [Truth("cat", THERE)])]).mean(0.5) == 0
    assert filled([(crowd[1:], [Truth("cat", THERE)])]).mean(0.5) == pytest.approx(1 / 100)


def test_bad_input_is_named():
    state = APInput()
    with pytest.raises(ValueError, match="1 of 2 detections"):
        state.add([Detection("a", THERE, math.nan), Detection("a", THERE, 0.1)], [])
    with pytest.raises(ValueError, match="threshold: must be one of"):
        state.mean(0.51)
    with pytest.raises(ValueError, match="thresholds: must be IoUs"):
        APInput([0.0])
    with pytest.raises(ValueError, match="thresholds: differ"):
        state.merge(APInput([0.5]))
    assert state.pictures == 0


corner = st.sampled_from([0.0, 0.2, 0.3, 0.6, 1.0])
box = st.tuples(corner, corner, corner, corner).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
label = st.sampled_from(["cat", "dog"])
picture = st.tuples(
    st.lists(st.builds(Detection, label, box, st.sampled_from([0.2, 0.5, 0.9])), max_size=4),
    st.lists(st.builds(Truth, label, box), max_size=3),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(picture, max_size=5), st.integers(0, 5), st.randoms(use_true_random=False))
def test_order_and_shards_do_not_matter(pictures, cut, random):
    whole = filled(pictures)
    shards = filled(pictures[cut:]).merge(filled(pictures[:cut]))
    shuffled = filled(
        [
            (random.sample(d, len(d)), random.sample(t, len(t)))
            for d, t in random.sample(pictures, len(pictures))
        ]
    )
    for other in (shards, shuffled):
        assert other.by_label() == whole.by_label()
        assert (other.pictures, other.unscored) == (whole.pictures, whole.unscored)
