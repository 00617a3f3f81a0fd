"""Overlap, matching, accuracies and 7Bench's layout score on hand-made detections."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueline.boxes import iou
from trueline.evaluation.metrics.detection import (
    Truth,
    accuracy_over_iou,
    counts_right,
    iou_matrix,
    layout_score_fixed,
    layout_score_official,
    match,
    score_boxes,
)
from trueline.perception import Detection


def wide(x0, x1):
    """A box of full height: overlaps are those of intervals."""
    return (x0, 0.0, x1, 1.0)


def seen(label, box, score=1.0, colour=None, texture=None):
    return Detection(label, box, score, colour, texture)


def test_iou_by_hand():
    assert iou(wide(0, 0.4), wide(0.2, 0.6)) == pytest.approx(0.2 / 0.6)
    assert iou(wide(0, 0.4), wide(0, 0.4)) == 1
    assert iou(wide(0, 0.4), wide(0.4, 0.6)) == 0
    assert iou(wide(0.4, 0.4), wide(0.4, 0.4)) == 0
    boxes = [wide(0, 0.4), wide(0.2, 0.6), wide(0.4, 0.4)]
    assert iou_matrix(boxes, boxes).tolist() == [[iou(a, b) for b in boxes] for a in boxes]
    assert iou_matrix([wide(0, 1)], []).shape == (1, 0)


def test_inclusive_corners_count_the_last_pixel():
    # Columns 0..9 and 5..14 of 10 rows: 5 columns shared, 15 in all.
    assert iou((0, 0, 9, 9), (5, 0, 14, 9), edge=1.0) == pytest.approx(5 / 15)
    assert iou((0, 0, 9, 9), (5, 0, 14, 9)) == pytest.approx(4 / 14)
    assert iou((0, 0, 9, 9), (10, 0, 19, 9), edge=1.0) == 0
    assert iou((3, 3, 3, 3), (3, 3, 3, 3), edge=1.0) == 1


def test_matching_is_optimal_where_greedy_is_not():
    truths = [Truth("cat", wide(0.0, 0.4)), Truth("cat", wide(0.2, 0.6))]
    both, first = seen("cat", wide(0.1, 0.5)), seen("cat", wide(0.1, 0.4))
    pairs = match([both, first], truths)  # greedy gives ``first`` (0.75) its truth; so does the best total
    assert [(m.truth, m.detection) for m in pairs] == [(0, 1), (1, 0)]
    assert [m.iou for m in pairs] == pytest.approx([0.75, 0.6])


def test_hits_come_before_overlap():
    """One pair at 0.95 is worth more IoU than two at 0.5 and 0.4, but finds fewer things at 0.35."""
    truths = [Truth("a", (0, 0, 1, 1)), Truth("a", (0, 0, 0.4, 1))]
    near, small = seen("a", (0, 0, 0.95, 1)), seen("a", (0.55, 0, 0.95, 1))
    # near: .95 with the first, .4 / .95 = .42 with the second; small: .4 with the first, 0 with the second.
    assert [m.detection for m in match([near, small], truths)] == [0]
    assert [m.detection for m in match([near, small], truths, least=0.35)] == [1, 0]


def test_labels_and_thresholds_separate():
    truths = [Truth("cat", wide(0, 0.5))]
    assert match([seen("dog", wide(0, 0.5))], truths) == []
    half = [seen("cat", wide(0, 0.25))]  # in binary fractions, so that its IoU is 0.5 exactly
    assert len(match(half, truths, least=0.5)) == 1
    assert match(half, truths, least=0.51) == []
    assert match([], truths) == [] == match(half, [])


def test_scores_of_one_picture_by_hand():
    truths = [
        Truth("cat", wide(0.0, 0.2), "red"),
        Truth("cat", wide(0.3, 0.5), "blue", "striped"),
        Truth("car", wide(0.6, 0.8), "green", "plain"),
        Truth("cup", wide(0.8, 1.0)),
    ]
    detections = [
        seen("cat", wide(0.0, 0.2), colour="red", texture="plain"),
        seen("cat", wide(0.3, 0.48), colour="red", texture="striped"),
        seen("cat", wide(0.9, 1.0)),  # too many
        seen("car", wide(0.7, 0.9), colour="green", texture="plain"),  # IoU 1/3: not found
        seen("dog", wide(0.8, 1.0)),  # nobody asked
    ]
    s = score_boxes(detections, truths)
    assert (s.truths, s.found) == (4, 2)
    assert (s.colour_asked, s.colour_right) == (3, 1)
    assert (s.texture_asked, s.texture_right) == (2, 1)
    assert s.overlap == pytest.approx(1 + 0.9 + 1 / 3)
    assert s.false_positives == 2  # the third cat and the misplaced car
    empty = score_boxes([], truths)
    assert (empty.found, empty.colour_right, empty.overlap, empty.false_positives) == (0, 0, 0, 0)


def test_counts():
    detections = [seen("cat", wide(0, 1))] * 2 + [seen("dog", wide(0, 1))]
    assert counts_right(detections, {"cat": 2, "dog": 2, "cow": 0}) == (2, 3)
    assert counts_right([], {"cat": 1}) == (0, 1)


@pytest.mark.parametrize("x", [0.0, 0.04, 0.1, 0.29, 0.3, 0.55, 0.6, 0.7, 0.99])
def test_one_overlap_gives_its_tenth_and_a_half(x):
    assert accuracy_over_iou([x]) == pytest.approx(math.floor(10 * x + 1e-9) / 10 + 0.05)


def test_areas_by_hand():
    assert accuracy_over_iou([1.0]) == pytest.approx(1)
    assert accuracy_over_iou([0.0], missed_counts=False) == 0
    assert accuracy_over_iou([0.04], missed_counts=False) == pytest.approx(0.05)
    assert accuracy_over_iou([0.55, 0.0]) == pytest.approx((0.55 + 0.05) / 2)
    with pytest.raises(ValueError, match="overlaps: is empty"):
        accuracy_over_iou([])


SIZE = (512, 512)


def pixels(x0, y0, x1, y1):
    return (x0 / 512, y0 / 512, x1 / 512, y1 / 512)


def test_the_official_layout_score_by_hand():
    rose, fox = Truth("rose", pixels(100, 100, 199, 199)), Truth("fox", pixels(300, 100, 399, 199))
    exact = seen("rose", pixels(100, 100, 199, 199))
    assert layout_score_official([exact], [rose], SIZE) == pytest.approx(1)
    # 50 of 100 columns shared, 150 in all, inclusive: IoU 1/3 -> .35. The fox is missing: .05.
    half = seen("rose", pixels(150, 100, 249, 199))
    assert layout_score_official([half], [rose], SIZE) == pytest.approx(0.35)
    assert layout_score_official([half], [rose, fox], SIZE) == pytest.approx((0.35 + 0.05) / 2)
    assert layout_score_official([], [rose, fox], SIZE) == 0
    assert layout_score_official([seen("dog", rose.box)], [rose], SIZE) == 0, "a label nobody asked for"


def test_official_rewards_clutter_and_fixed_counts_it():
    rose = Truth("rose", pixels(100, 100, 199, 199))
    clutter = [
        seen("rose", pixels(100 + s, 100, 199 + s, 199), score=0.3 + s / 1000) for s in range(0, 100, 10)
    ]
    assert layout_score_official(clutter, [rose], SIZE) == pytest.approx(1)
    value, extra = layout_score_fixed(clutter, [rose])
    assert value == pytest.approx(0.05)  # the surest is the farthest: 90 of 99 pixels off
    assert extra == 9


def test_official_collapses_equal_labels_and_cuts_pixels_off():
    first, second = Truth("cup", pixels(0, 0, 99, 99)), Truth("cup", pixels(200, 0, 299, 99))
    there = [seen("cup", first.box)]
    assert layout_score_official(there, [first, second], SIZE) == pytest.approx(0.05)
    assert layout_score_official(there, [second, first], SIZE) == pytest.approx(1)
    almost = seen("cup", pixels(0.9, 0.9, 99.9, 99.9))
    assert layout_score_official([almost], [first], SIZE) == pytest.approx(1)
    value, extra = layout_score_fixed(there, [first, second])
    assert (value, extra) == (pytest.approx(0.5), 0), "one of two found, the other fails at every k"


def test_a_layout_without_boxes_has_no_score():
    for score in (lambda: layout_score_official([], [], SIZE), lambda: layout_score_fixed([], [])):
        with pytest.raises(ValueError, match="truths: is empty"):
            score()


corner = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.9, 1.0])  # a coarse grid, so that ties happen
box = st.tuples(corner, corner, corner, corner).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
label = st.sampled_from(["cat", "dog"])
colour = st.sampled_from(["red", "blue", None])
detections = st.lists(
    st.builds(
        seen, label, box, st.sampled_from([0.2, 0.5, 0.9]), colour, st.sampled_from(["plain", "striped"])
    ),
    max_size=5,
)
truths = st.lists(
    st.builds(Truth, label, box, colour, st.sampled_from(["plain", None])), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(detections, truths, st.randoms(use_true_random=False))
def test_no_score_depends_on_the_order_of_the_detections(found, wanted, random):
    shuffled = random.sample(found, len(found))
    a, b = score_boxes(found, wanted), score_boxes(shuffled, wanted)
    assert a.overlap == pytest.approx(b.overlap, abs=1e-12)
    assert {**vars(a), "overlap": 0} == {**vars(b), "overlap": 0}
    assert layout_score_official(found, wanted, SIZE) == layout_score_official(shuffled, wanted, SIZE)
    assert layout_score_fixed(found, wanted) == pytest.approx(layout_score_fixed(shuffled, wanted))


@settings(max_examples=60, deadline=None)
@given(detections, truths, st.sampled_from([0.0, 0.3, 0.5]))
def test_matching_equals_the_best_of_all_assignments(found, wanted, least):
    overlaps = iou_matrix([t.box for t in wanted], [d.box for d in found])
    best = (0, 0.0)
    slots = [*range(len(found)), *[None] * len(wanted)]
    for places in set(itertools.permutations(slots, len(wanted))):
        kept = [
            overlaps[i, j]
            for i, j in enumerate(places)
            if j is not None
            and wanted[i].label == found[j].label
            and overlaps[i, j] > 0
            and overlaps[i, j] >= least
        ]
        best = max(best, (len(kept) if least else 0, sum(kept)))
    pairs = match(found, wanted, least)
    assert len(pairs) == best[0] or not least
    assert sum(m.iou for m in pairs) == pytest.approx(best[1], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(detections, truths)
def test_a_mirrored_picture_scores_the_same(found, wanted):
    def flip(b):
        return (1 - b[2], b[1], 1 - b[0], b[3])

    mirrored = [seen(d.label, flip(d.box), d.score, d.colour, d.texture) for d in found]
    other = [Truth(t.label, flip(t.box), t.colour, t.texture) for t in wanted]
    assert score_boxes(mirrored, other).overlap == pytest.approx(score_boxes(found, wanted).overlap, abs=1e-9)
