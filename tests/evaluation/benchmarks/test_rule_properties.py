"""What must hold for any picture: order does not matter, nor where the whole group stands; duplicates count as said.

Boxes lie on a grid of 1/64, so that moving them is exact and no comparison turns on rounding.
"""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trueline.evaluation.benchmarks import coco_mig, geneval, hrs, multigen, nsr_1k
from trueline.evaluation.benchmarks.t2i_compbench import rules as compbench
from trueline.evaluation.benchmarks.t2i_compbench.prompts import RELATIONS_2D
from trueline.evaluation.metrics.observations import aggregate
from trueline.perception import Detection

MODES = ("official", "fixed")
SIZE = (512, 512)  # 479 / 64 is exact too
GRID = 64
LABELS = ("cat", "dog", "cow")


@st.composite
def pictures(draw):
    """One to six detections with different scores, in the upper left 40 x 40 of the grid."""
    scores = draw(st.lists(st.integers(1, 100), min_size=1, max_size=6, unique=True))
    found = []
    for score in scores:
        x0, y0 = draw(st.integers(0, 30)), draw(st.integers(0, 30))
        x1, y1 = x0 + draw(st.integers(1, 10)), y0 + draw(st.integers(1, 10))
        box = (x0 / GRID, y0 / GRID, x1 / GRID, y1 / GRID)
        colour = draw(st.sampled_from(["red", "blue"]))
        found.append(Detection(draw(st.sampled_from(LABELS)), box, score / 100, colour))
    return found


def moved(detections, dx, dy):
    return [
        Detection(d.label, (d.box[0] + dx, d.box[1] + dy, d.box[2] + dx, d.box[3] + dy), d.score, d.colour)
        for d in detections
    ]


CLAUSES = [
    {"class": "cat", "count": 1, "color": "red"},
    {"class": "dog", "count": 1, "position": ["left of", 0]},
]
GENEVAL = {"tag": "position", "include": CLAUSES, "exclude": [{"class": "cow", "count": 2}]}

# Rules that look at detections alone, each with arguments; they must not depend on where the group stands.
RULES = {
    **{
        f"spatial {relation}": lambda found, mode, r=relation: compbench.spatial_raw(
            found, "cat", "dog", r, SIZE, mode
        )
        for relation in RELATIONS_2D
    },
    "spatial_score": lambda found, mode: compbench.spatial_score(
        found, "cat", "dog", "on top of", SIZE, mode
    ),
    "numeracy": lambda found, mode: compbench.numeracy_score(found, [("cat", 2), ("dog", 1)], SIZE, mode),
    "3d": lambda found, mode: compbench.spatial_3d_score(found, "cat", "dog", "behind", (0.1, 0.9), mode),
    "glip counting": lambda found, mode: nsr_1k.counting_image(found, [("cat", 2), ("dog", 1)], "real", mode),
    "glip comparison": lambda found, mode: nsr_1k.counting_image(
        found, [("cat", 2), ("dog", 1)], "comparison", mode
    ),
    "glip spatial": lambda found, mode: nsr_1k.spatial_image(found, "cat", "dog", "left", 0.0),
    "geneval": lambda found, mode: geneval.correct(found, GENEVAL, SIZE, mode),
    "hrs counting": lambda found, mode: hrs.counting(found, [("cat", 2), ("dog", 1)], mode),
    "hrs spatial": lambda found, mode: hrs.spatial(found, LABELS, ["on the left of", "above"], mode),
    "hrs between": lambda found, mode: hrs.spatial(found, LABELS, ["between"], mode),
    "hrs size": lambda found, mode: hrs.size(found, LABELS, ["larger", "smaller"], mode),
    "hrs colour": lambda found, mode: hrs.colour(found, [("cat", "red"), ("dog", "blue")], mode),
    "multigen": lambda found, mode: multigen.multigen(found, LABELS),
}


ONCE = [name for name in RULES if name.startswith(("spatial", "numeracy", "hrs", "multigen", "glip spatial"))]


def outcomes(found, names=RULES):
    return {(name, mode): RULES[name](found, mode) for name in names for mode in MODES}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_order_does_not_matter(data):
    found = data.draw(pictures())
    assert outcomes(data.draw(st.permutations(found))) == outcomes(found)


@settings(max_examples=60, deadline=None)
@given(found=pictures(), dx=st.integers(0, 24), dy=st.integers(0, 24))
def test_only_relative_places_matter(found, dx, dy):
    assert outcomes(moved(found, dx / GRID, dy / GRID)) == outcomes(found)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_duplicated_detection_changes_nothing(data):
    found = data.draw(pictures())
    twice = [*found, data.draw(st.sampled_from(found))]
    assert outcomes(twice, ONCE) == outcomes(found, ONCE)


@settings(max_examples=30, deadline=None)
@given(found=pictures())
def test_glip_and_geneval_count_a_duplicate(found):
    """They have no removal of duplicates: an exact count becomes wrong."""
    n = sum(d.label == "cat" for d in found)
    assume(n)
    cat = next(d for d in found if d.label == "cat")
    sure = [Detection(d.label, d.box, 0.95) for d in found]
    twice = [*sure, Detection("cat", cat.box, 0.95)]
    clause = {
        "tag": "counting",
        "include": [{"class": "cat", "count": n}],
        "exclude": [{"class": "cat", "count": n + 1}],
    }
    for mode in MODES:
        assert geneval.correct(sure, clause, SIZE, mode) and not geneval.correct(twice, clause, SIZE, mode)
        assert nsr_1k.counting_image(sure, [("cat", n)], "real", mode) == {"counting_accuracy": (1, 1)}
        assert nsr_1k.counting_image(twice, [("cat", n)], "real", mode) == {"counting_accuracy": (0, 1)}


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_coco_mig_moves_with_its_layout(data):
    found = data.draw(pictures())
    wanted = [coco_mig.Instance(d.label, "red", d.box, {"red"}) for d in found]
    dx, dy = data.draw(st.integers(0, 24)) / GRID, data.draw(st.integers(0, 24)) / GRID
    there = [w._replace(box=d.box) for w, d in zip(wanted, moved(found, dx, dy), strict=True)]
    shuffled = data.draw(st.permutations(moved(found, dx, dy)))
    for mode in MODES:
        assert coco_mig.score(shuffled, there, mode) == coco_mig.score(found, wanted, mode)
    isr, whole, miou = coco_mig.score(found, wanted, "official").values()
    assert isr[0] == len(found) and whole == (1, 1), "a detection at each box, in its colour"
    assert coco_mig.SAME_THING * len(found) <= miou[0] <= len(found), "NMS leaves one that is nearly there"


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_layout_rules_ignore_the_order_of_the_plan(data):
    found = data.draw(pictures())
    plan = [(d.label, d.box) for d in found]
    other = data.draw(st.permutations(plan))
    for mode in MODES:
        counts = [
            nsr_1k.counting_layout([name for name, _ in p], [("cat", 2), ("dog", 1)], "real", mode)
            for p in (plan, other)
        ]
        assert counts[0] == counts[1]
    assert nsr_1k.spatial_layout(plan, "cat", "dog", "left") == nsr_1k.spatial_layout(
        other, "cat", "dog", "left"
    )


@settings(max_examples=30, deadline=None)
@given(found=pictures(), copies=st.integers(2, 4))
def test_copies_of_all_pictures_give_the_same_figures(found, copies):
    for mode in MODES:
        rows = [
            hrs.counting(found, [("cat", 2), ("dog", 1)], mode),
            nsr_1k.counting_image(found, [("cat", 2)], "real", mode),
        ]
        assert aggregate(rows * copies) == pytest.approx(aggregate(rows), nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(found=pictures())
def test_scores_are_shares(found):
    for mode in MODES:
        for relation in RELATIONS_2D:
            raw = compbench.spatial_raw(found, "cat", "dog", relation, SIZE, mode)
            score = compbench.spatial_score(found, "cat", "dog", relation, SIZE, mode)
            assert 0 <= raw <= 1 and score in (0, raw) and not 0 < score < 0.5
        assert 0 <= compbench.numeracy_score(found, [("cat", 1)], SIZE, mode) <= 1


@settings(max_examples=40, deadline=None)
@given(found=pictures())
def test_fixed_geneval_names_at_most_one_of_the_official_relations(found):
    boxes = [d.box for d in found]
    for one in boxes:
        for two in boxes:
            official, fixed = (geneval.relations(one, two, SIZE, mode) for mode in MODES)
            assert len(fixed) <= 1 and fixed <= official and bool(official) >= bool(fixed)
