"""OverLayBench's IoUs and OverLayScore by hand, and against other ways to write them."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from trueline.evaluation.benchmarks import benchmark_class
from trueline.evaluation.benchmarks.benchmark import Example
from trueline.evaluation.benchmarks.overlaybench import overlap_ious, overlay_score, overlay_scores
from trueline.evaluation.judges import TextMatch, unmeasured
from trueline.evaluation.metrics.detection import Truth
from trueline.layout import Layout, Region
from trueline.perception import Detection

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0)  # they share x .25 to .5: IoU 1/3


def test_right_boxes_and_half_of_one():
    wanted = [Truth("cat", LEFT), Truth("dog", RIGHT)]
    seen = [Detection("cat", LEFT), Detection("dog", RIGHT)]
    for mode in ("official", "fixed"):
        assert overlap_ious(seen, wanted, [[0, 1]], mode) == {"miou": (1, 1), "overlap_miou": (1, 1)}
        half = [seen[0], Detection("dog", (0.25, 0, 0.75, 0.5))]  # dog: 1/2; the shared part: 1/2
        assert overlap_ious(half, wanted, [[0, 1]], mode) == {"miou": (0.75, 1), "overlap_miou": (0.5, 1)}


def test_a_missing_partner_or_another_category_is_nothing():
    wanted = [Truth("cat", LEFT), Truth("dog", RIGHT)]
    for seen in ([Detection("cat", LEFT)], [Detection("cat", LEFT), Detection("cow", RIGHT)]):
        for mode in ("official", "fixed"):
            assert overlap_ious(seen, wanted, [[0, 1]], mode) == {"miou": (0.5, 1), "overlap_miou": (0, 1)}


def test_partners_that_do_not_overlap_share_nothing():
    seen = [Detection("cat", (0.0, 0, 0.25, 1)), Detection("dog", (0.5, 0, 0.75, 1))]
    found = overlap_ious(seen, [Truth("cat", LEFT), Truth("dog", RIGHT)], [[0, 1]])
    assert found == {"miou": (0.5, 1), "overlap_miou": (0, 1)}


def test_no_pair_no_overlap_miou():
    assert overlap_ious([], [Truth("cat", LEFT)], []) == {"miou": (0, 1)}
    with pytest.raises(ValueError, match="instances: is empty"):
        overlap_ious([], [], [])


def test_greedy_partners_and_the_best_ones():
    """The first detection is best for both; who takes it greedily leaves a bad one for the other."""
    wanted = [Truth("cat", (0, 0, 0.5, 0.5)), Truth("cat", (0, 0, 0.5, 0.375))]
    seen = [Detection("cat", (0, 0, 0.5, 0.4375)), Detection("cat", (0, 0, 0.25, 0.5))]
    greedy, best = (overlap_ious(seen, wanted, [], mode)["miou"][0] for mode in ("official", "fixed"))
    assert greedy == pytest.approx((7 / 8 + 3 / 8 / (1 - 1 / 8)) / 2)  # 7/8 to the first, then 3/7
    assert best == pytest.approx((6 / 7 + 1 / 2) / 2)
    assert best > greedy


def test_whole_pixels_are_a_quirk():
    wanted = [Truth("cat", (0, 0, 10 / 1024, 10 / 1024))]
    seen = [Detection("cat", (0, 0, 10.9 / 1024, 10.9 / 1024))]
    assert overlap_ious(seen, wanted, [], "official")["miou"][0] == 1
    assert overlap_ious(seen, wanted, [], "fixed")["miou"][0] == pytest.approx(100 / 10.9**2)


def test_equal_boxes_are_one_in_official():
    wanted = [Truth("cat", LEFT), Truth("cat", LEFT), Truth("dog", RIGHT)]
    seen = [Detection("cat", LEFT), Detection("dog", RIGHT)]
    official, fixed = (overlap_ious(seen, wanted, [[1, 2]], mode) for mode in ("official", "fixed"))
    assert official["overlap_miou"] == (1, 1), "the first one's partner stands for both"
    assert official["miou"] == fixed["miou"] == (pytest.approx(2 / 3), 1)
    assert fixed["overlap_miou"][0] in (0, 1)


def drawn(boxes, side=64):
    """Each box as the set of its cells on a grid."""
    masks = np.zeros((len(boxes), side, side), bool)
    for mask, (x0, y0, x1, y1) in zip(
        masks, np.rint(np.array(boxes).reshape(-1, 4) * side).astype(int), strict=True
    ):
        mask[y0:y1, x0:x1] = True
    return masks


def share(one, two):
    return (one & two).sum() / max((one | two).sum(), 1)


def random_boxes(draw, count):
    corners = [np.sort(draw.choice(65, (2, 2), replace=False), axis=0) for _ in range(count)]
    return [tuple(float(v) / 64 for v in each.reshape(-1)) for each in corners]


def test_against_counted_cells_on_1000_pictures():
    """Boxes as sets of cells; ``fixed`` partners by trying all of them, for one category."""
    draw = np.random.default_rng(0)
    for _ in range(1000):
        wanted, seen = (random_boxes(draw, draw.integers(low, 4)) for low in (2, 1))
        ours = [Truth("cat", box) for box in wanted]
        found = [Detection("cat", box) for box in seen]
        cells, theirs = drawn(wanted), drawn([*seen, *[(0, 0, 0, 0)] * len(wanted)])
        tries = itertools.permutations(range(len(theirs)), len(wanted))
        best = max(sum(share(cells[i], theirs[j]) for i, j in enumerate(each)) for each in tries)
        fixed = overlap_ious(found, ours, [], "fixed")["miou"][0]
        assert fixed == pytest.approx(best / len(wanted))
        free, left, pairs = set(range(len(seen))), set(range(len(wanted))), {}
        while free and left:
            i, j = max(
                itertools.product(sorted(left), sorted(free)), key=lambda p: share(cells[p[0]], theirs[p[1]])
            )
            pairs[i] = j
            left.discard(i)
            free.discard(j)
        partner = [theirs[pairs.get(i, -1)] for i in range(len(wanted))]
        official = overlap_ious(found, ours, [[0, 1]], "official")
        mean = np.mean([share(one, two) for one, two in zip(cells, partner, strict=True)])
        assert official["miou"][0] == pytest.approx(mean)
        assert official["overlap_miou"][0] == pytest.approx(
            share(cells[0] & cells[1], partner[0] & partner[1])
        )


# OverLayScore


def test_overlay_score_by_hand():
    boxes = [LEFT, RIGHT, (0.75, 0, 1.0, 1.0)]  # only the first two overlap; the last touches
    cosines = [[1, 0.9, 0.8], [0.9, 1, 0.7], [0.8, 0.7, 1]]
    assert overlay_score(boxes, cosines) == pytest.approx(0.9 / 3)
    assert overlay_score(boxes[:1], [[1]]) == 0 and overlay_score([], []) == 0
    assert overlay_score([LEFT, LEFT], [[1, -0.5], [-0.5, 1]]) == -0.5


def test_overlay_score_against_numpy_on_1000_layouts():
    draw = np.random.default_rng(1)
    for _ in range(1000):
        boxes = random_boxes(draw, draw.integers(1, 7))
        vectors = draw.normal(size=(len(boxes), 5))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cells = drawn(boxes)
        overlaps = np.array([[share(one, two) for two in cells] for one in cells])
        wanted = np.triu(overlaps * (vectors @ vectors.T), 1).sum()
        assert overlay_score(boxes, vectors @ vectors.T) == pytest.approx(wanted, abs=1e-9)


class TwoWords:
    """Texts that begin alike are one vector, others are at 60 degrees; pictures are all one."""

    name = "two"

    def texts(self, texts):
        return torch.tensor([[1.0, 0.0] if text.startswith("a") else [0.5, 0.75**0.5] for text in texts])

    def images(self, images):
        return torch.tensor([[1.0, 0.0]] * len(images))


def test_any_layouts_and_the_table():
    alike = Layout("x", regions=[Region("a cat", LEFT), Region("a dog", RIGHT)])
    other = Layout("x", regions=[Region("a cat", LEFT), Region("the dog", RIGHT)])
    scores = overlay_scores([alike, other, Layout("x")], TwoWords())
    assert scores == pytest.approx([1 / 3, 1 / 6, 0])
    pictures = [Image.new("RGB", (16, 16))] * 2
    for name, there in (("overlaybench", True), ("7bench", False)):
        judge = TextMatch(TwoWords(), benchmark_class(name), False)
        seen = judge.look([Example("a", alike), Example("b", other)], pictures)
        found = [each.get("ratio/overlay_score[two]") for each in seen]
        assert [f is not None for f in found] == [there] * 2
        if there:
            assert [f.tolist() for f in found] == [[pytest.approx(s), 1] for s in scores[:2]]


def test_what_no_judge_here_gives_is_said():
    said = unmeasured(benchmark_class("overlaybench"), ["oracle", "world-clip"])
    assert len(said) == 1 and "entity and relationship success" in said[0] and "Qwen2.5-VL-32B" in said[0]
