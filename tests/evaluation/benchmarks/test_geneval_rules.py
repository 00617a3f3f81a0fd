"""GenEval's rule by hand: six tasks, thresholds, places, colours."""

import json

import pytest
from shared_data import SHARED, needs

from trueline.evaluation.benchmarks.geneval import MAX_OBJECTS, TASKS, correct, kept, overall, relations
from trueline.perception import Detection

DATA = SHARED / "geneval"
HERE = (0.4, 0.4, 0.6, 0.6)


def box(x, y, side=0.1):
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def things(label, n, score=0.95, colour=None):
    return [Detection(label, box(0.1 + i / 20, 0.1), score, colour) for i in range(n)]


# ------------------------------------------------------------------------------------------------------ position


@pytest.mark.parametrize(
    ("place", "official", "fixed"),
    [
        ((0.9, 0.5), {"right of"}, {"right of"}),
        ((0.1, 0.5), {"left of"}, {"left of"}),
        ((0.5, 0.1), {"above"}, {"above"}),
        ((0.5, 0.9), {"below"}, {"below"}),
        ((0.9, 0.8), {"right of", "below"}, {"right of"}),
        ((0.2, 0.1), {"left of", "above"}, {"above"}),
        ((0.52, 0.5), set(), set()),
    ],
)
def test_relations(place, official, fixed):
    assert relations(box(*place), HERE) == official
    assert relations(box(*place), HERE, mode="fixed") == fixed


def test_shrinking_by_a_tenth_of_both_sizes():
    # offset .06, shrunk by .1 x (.1 + .2) to .03: just half of it, and half is not enough
    at, beyond = (0.5 + 0.06 - 1e-9, 0.5), (0.5 + 0.0601, 0.5)
    assert relations(box(*at), HERE) == set()
    assert relations(box(*beyond), HERE) == {"right of"}


def test_pixels_matter_in_wide_pictures():
    first = box(0.8, 0.9)
    assert relations(first, HERE, (512, 512), "fixed") == {"below"}
    assert relations(first, HERE, (1024, 512), "fixed") == {"right of"}


# --------------------------------------------------------------------------------------------- thresholds, limits


def test_thresholds_are_exclusive_and_by_task():
    assert correct(
        things("cat", 1, 0.31), {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    )
    assert not correct(
        things("cat", 1, 0.3), {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    )
    assert not correct(things("cat", 1, 0.9), {"tag": "counting", "include": [{"class": "cat", "count": 1}]})


def test_at_most_sixteen_of_a_class():
    assert len(kept(things("cat", 20), "single_object")["cat"]) == MAX_OBJECTS == 16


# --------------------------------------------------------------------------------------------------------- tasks


def test_two_objects():
    clause = {"tag": "two_object", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]}
    assert correct(things("cat", 1) + things("dog", 3), clause)
    assert not correct(things("cat", 2), clause)


@pytest.mark.parametrize(("n", "right"), [(1, False), (2, True), (3, False)])
def test_counting(n, right):
    clause = {
        "tag": "counting",
        "include": [{"class": "cat", "count": 2}],
        "exclude": [{"class": "cat", "count": 3}],
    }
    assert correct(things("cat", n), clause) is right


def test_the_surest_object_must_have_the_colour():
    clause = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]}
    red, blue = things("cat", 1, 0.8, "red"), things("cat", 1, 0.6, "blue")
    assert correct(red + blue, clause) and correct(blue + red, clause)
    assert not correct(things("cat", 1, 0.9, "blue") + red, clause)
    assert not correct(things("cat", 1), clause), "no colour was read"


def test_two_colours():
    clause = {
        "tag": "color_attr",
        "include": [
            {"class": "cup", "count": 1, "color": "red"},
            {"class": "cat", "count": 1, "color": "blue"},
        ],
    }
    assert correct(things("cup", 1, colour="red") + things("cat", 1, colour="blue"), clause)
    assert not correct(things("cup", 1, colour="blue") + things("cat", 1, colour="red"), clause), "swapped"


def test_position():
    clause = {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
    }
    cat, dog = Detection("cat", box(0.9, 0.5)), Detection("dog", box(0.1, 0.5))
    assert correct([cat, dog], clause)
    assert not correct([Detection("cat", box(0.1, 0.5)), Detection("dog", box(0.9, 0.5))], clause)
    assert not correct([dog], clause), "its target is missing"
    unsure = Detection("dog", box(0.95, 0.5), 0.5)
    assert correct([cat, dog, unsure], clause), "only the surest is looked at"


def test_a_diagonal_fulfils_two_relations_in_official_mode():
    boxes = [Detection("cat", HERE), Detection("dog", box(0.9, 0.8))]
    for word, official, fixed in (("right of", True, True), ("below", True, False)):
        clause = {
            "tag": "position",
            "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": [word, 0]}],
        }
        assert correct(boxes, clause) is official and correct(boxes, clause, mode="fixed") is fixed


def test_overall_is_the_mean_of_the_tasks():
    tasks = {tag: (1.0, 2.0) for tag in TASKS} | {"counting": (40.0, 40.0)}
    assert overall(tasks) == pytest.approx((5 * 0.5 + 1) / 6)
    with pytest.raises(ValueError, match="position: no pictures"):
        overall({tag: pair for tag, pair in tasks.items() if tag != "position"})


@needs("geneval")
def test_all_prompts_can_be_fulfilled_and_failed():
    lines = (DATA / "evaluation_metadata.jsonl").read_text(encoding="utf-8").splitlines()
    places = {"left of": (0.1, 0.5), "right of": (0.9, 0.5), "above": (0.5, 0.1), "below": (0.5, 0.9)}
    for metadata in map(json.loads, lines):
        drawn = [
            Detection(
                clause["class"], box(*places.get(clause.get("position", [""])[0], (0.5, 0.5))), 0.95, colour
            )
            for clause in metadata["include"]
            for colour in [clause.get("color")] * clause["count"]
        ]
        for mode in ("official", "fixed"):
            assert correct(drawn, metadata, mode=mode), metadata
            assert not correct(drawn[1:], metadata, mode=mode), metadata
    assert len(lines) == 553
